"""The JSON-Schema-Test-Suite, drafts 2020-12 and 7, formats left aside: no instance that its schema refuses is accepted
without a report, and every one that is refused although it is valid stands in `suite_refused.json` with the reason.

The suite is a part of jsonschema's source distribution, which is fetched once, by its digest, into `.cache`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xgrammar import CompiledGrammar, GrammarMatcher

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.core.messages import Conversation, FormatKind, ResponseFormat
from kimi_k2_serving.json_schema.bounds import Bounds
from tests.grammar.prover import Prover

VERSION = "4.26.0"
DIGEST = "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
CACHE = Path(__file__).parents[2] / ".cache" / "json-schema-suite"
REFUSED: dict[str, list[str]] = json.loads(Path(__file__).with_name("suite_refused.json").read_text("utf-8"))
DRAFTS = {"draft2020-12": None, "draft7": "http://json-schema.org/draft-07/schema#"}


def archive() -> Path:
    found = CACHE / f"jsonschema-{VERSION}.tar.gz"
    if not found.exists():
        wanted = ["--no-deps", "--no-binary", ":all:", "--dest", str(CACHE), f"jsonschema=={VERSION}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], check=True, timeout=300)
    assert hashlib.sha256(found.read_bytes()).hexdigest() == DIGEST
    return found


def read_suite() -> dict[str, list[dict[str, Any]]]:
    """Cases by `draft/file`."""
    cases: dict[str, list[dict[str, Any]]] = {}
    with tarfile.open(archive()) as packed:
        for member in packed:
            *_, folder, draft, name = ("", "", *member.name.split("/"))
            if folder == "tests" and draft in DRAFTS and name.endswith(".json"):
                content = packed.extractfile(member)
                assert content is not None
                cases[f"{draft}/{name.removesuffix('.json')}"] = json.load(content)
    return cases


@pytest.fixture(scope="module")
def suite() -> dict[str, list[dict[str, Any]]]:
    return read_suite()


def accepts(grammar: CompiledGrammar, text: str, stop: int) -> bool:
    matcher = GrammarMatcher(grammar)
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(stop)


def judged(prover: Prover, case: dict[str, Any], draft: str) -> Iterator[tuple[str, bool, bool]]:
    """For each instance: its description, whether it is accepted, whether something was reported."""
    schema = case["schema"]
    if DRAFTS[draft] and isinstance(schema, dict):
        schema = {"$schema": DRAFTS[draft], **schema}
    wanted = Conversation((), response_format=ResponseFormat(FormatKind.JSON_SCHEMA, schema))
    try:
        constraint = prover.constraint(wanted, Bounds.production())
    except InvalidSchema:
        yield from ((test["description"], False, False) for test in case["tests"])
        return
    assert constraint.structural_tag is not None
    grammar = prover.grammars.compile_structural_tag(constraint.structural_tag)
    for test in case["tests"]:
        texts = {json.dumps(test["data"]), json.dumps(test["data"], ensure_ascii=False)}
        taken = any(accepts(grammar, text, prover.vocabulary.stop_ids[0]) for text in texts)
        yield test["description"], taken, bool(constraint.relaxed)


@pytest.mark.slow
def test_what_the_suite_refuses_is_refused_and_what_it_accepts_is_accepted_or_listed(
    prover: Prover, suite: dict[str, list[dict[str, Any]]]
) -> None:
    listed = {name for names in REFUSED.values() for name in names}
    unsound, refused, judgements = [], set(), 0
    for place, cases in suite.items():
        for case in cases:
            valid = {test["description"]: test["valid"] for test in case["tests"]}
            for description, taken, reported in judged(prover, case, place.partition("/")[0]):
                judgements += 1
                name = f"{place}: {case['description']}: {description}"
                if taken and not valid[description] and not reported:
                    unsound.append(name)
                if not taken and valid[description]:
                    refused.add(name)
    assert judgements > 2000
    assert unsound == []
    assert sorted(refused) == sorted(listed)


def test_no_reason_lists_an_instance_twice() -> None:
    names = [name for names in REFUSED.values() for name in names]
    assert len(names) == len(set(names))
