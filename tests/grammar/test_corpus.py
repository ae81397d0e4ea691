"""Every call drawn from the grammar of every schema of the corpus is valid, and nothing is given up."""

from __future__ import annotations

import json

import pytest

from kimi_k2_serving.json_schema.schema import Schema
from kimi_k2_serving.json_schema.validate import validate
from tests.grammar.prover import Prover, request, stock_problems, tool
from tests.support.schemas import corpus

SCHEMAS = corpus()


def test_the_corpus_is_large() -> None:
    assert len(SCHEMAS) >= 150


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_every_drawn_call_is_valid(schema: Schema, prover: Prover) -> None:
    conversation = request(tool(schema))
    assert prover.constraint(conversation).relaxed == ()
    texts = prover.arguments(conversation, answers=4)
    assert len(texts) >= 4
    for text in texts:
        assert validate(text, tool(schema)) == []
        assert stock_problems(schema, json.loads(text)) == []
