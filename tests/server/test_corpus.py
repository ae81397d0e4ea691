"""Schemas of the corpus on the real server with random weights: every call is declared and valid, in every form.

A sample that is the same every time; `scripts/bench enforcer corpus` asks all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kimi_k2_serving.core.tokens import Vocabulary
from tests.server.running import Server, running
from tests.support.calls import FORMS, Form, ask_all
from tests.support.schemas import sample

SCHEMAS = sample(40)
# Both choices, streamed and not, and every transport.
ASKED = ("required, generate", "required, gRPC", "auto, generate", "auto after text, generate_stream")


@pytest.fixture(scope="module")
def random_server() -> Iterator[Server]:
    """Random weights, whatever the default preset serves."""
    with running("--preset", "demo-random") as started:
        yield started


@pytest.mark.parametrize("form", [form for form in FORMS if form.name in ASKED], ids=lambda form: form.name)
def test_every_call_is_of_the_declared_tool_and_as_its_schema_says(random_server: Server, form: Form) -> None:
    marker = Vocabulary.load(Path(random_server.ready["checkpoint"])).control("<|tool_calls_section_begin|>")
    outcomes = ask_all(random_server, SCHEMAS, (form,), marker=marker, concurrency=16)
    assert {each.schema: each.wrong for each in outcomes if each.wrong} == {}
    # The demo's bounds are there so that every answer comes to its end.
    assert [each.schema for each in outcomes if each.finish == "length"] == []
    called = sum(bool(each.calls) for each in outcomes)
    if form.text_first:
        assert called > len(outcomes) / 2
        assert any(each.content and each.calls for each in outcomes)
    else:
        assert called == len(outcomes)
