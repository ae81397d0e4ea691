"""What grammars admit: this project's compiler beside xgrammar's own, as SGLang calls it.

    scripts/bench soundness [--answers 4]

Two tables. The JSON-Schema-Test-Suite (drafts 2020-12 and 7, without formats): how many valid instances each grammar
refuses and how many invalid ones it admits, reported as relaxed or not. The project's corpus: random answers drawn from
each grammar and validated with jsonschema. Each schema has a process and SECONDS of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import xgrammar

from kimi_k2_cli.draw import draw
from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.messages import Conversation, FormatKind, ResponseFormat
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar.constraint import constrain
from kimi_k2_serving.grammar.xgrammar_vocabulary import compiler, token_info
from kimi_k2_serving.json_schema.bounds import Bounds
from tests.grammar.test_json_schema_suite import DRAFTS, accepts, read_suite
from tests.support.schemas import corpus, problems
from tests.support.vocabulary import write_small_checkpoint

SECONDS = 20
MOST_TOKENS = 2_000
# A schema's grammar and whether something of it was reported as relaxed; None if the schema is refused.
Made = tuple[xgrammar.CompiledGrammar, bool] | None


class Grammars:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._grammars = compiler(token_info(vocabulary))

    def ours(self, schema: Any) -> Made:
        wanted = Conversation((), response_format=ResponseFormat(FormatKind.JSON_SCHEMA, schema))
        try:
            constraint = constrain(wanted, self.vocabulary, bounds=Bounds.production())
        except ServingError:
            return None
        assert constraint.structural_tag is not None
        return self._grammars.compile_structural_tag(constraint.structural_tag), bool(constraint.relaxed)

    def stock(self, schema: Any) -> Made:
        try:
            return self._grammars.compile_json_schema(json.dumps(schema), any_whitespace=True), False
        except (RuntimeError, ValueError):
            return None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench soundness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        grammars = Grammars(Vocabulary.load(write_small_checkpoint(Path(directory))))
    makers = {"this compiler": grammars.ours, "xgrammar's own": grammars.stock}
    print("| suite | schemas refused | valid admitted | valid refused | invalid admitted, reported | unreported |")
    print("|---|---|---|---|---|---|")
    for name, make in makers.items():
        count: Counter[str] = Counter()
        for case in _cases():
            count += _in_child(lambda case=case, make=make: _admitted(grammars, make, case))  # type: ignore[misc]
        _row(name, count, ("refused", "valid", "valid refused", "reported", "unreported"))
    print("| corpus | schemas refused | valid answers | unfinished | invalid, reported | unreported |")
    print("|---|---|---|---|---|---|")
    for name, make in makers.items():
        count = Counter()
        for schema in corpus().values():
            count += _in_child(lambda s=schema, make=make: _drawn(grammars, make, s, args.answers))  # type: ignore[misc]
        _row(name, count, ("refused", "valid", "unfinished", "reported", "unreported"))


def _row(name: str, count: Counter[str], columns: tuple[str, ...]) -> None:
    late = f" ({count['late']} took over {SECONDS} s or died)" if count["late"] else ""
    print(f"| {name}{late} | " + " | ".join(str(count[column]) for column in columns) + " |", flush=True)


def _cases() -> Iterator[dict[str, Any]]:
    for place, cases in read_suite().items():
        draft = DRAFTS[place.partition("/")[0]]
        for case in cases:
            named = isinstance(case["schema"], dict) and draft is not None
            yield {**case, "schema": {"$schema": draft, **case["schema"]} if named else case["schema"]}


def _admitted(grammars: Grammars, make: Callable[[Any], Made], case: dict[str, Any]) -> Counter[str]:
    count: Counter[str] = Counter()
    made = make(case["schema"])
    if made is None:
        return Counter({"refused": 1, "valid refused": sum(test["valid"] for test in case["tests"])})
    for test in case["tests"]:
        texts = {json.dumps(test["data"], ensure_ascii=escaped) for escaped in (True, False)}
        admitted = any(accepts(made[0], text, grammars.vocabulary.stop_ids[0]) for text in texts)
        if test["valid"]:
            count["valid" if admitted else "valid refused"] += 1
        elif admitted:
            count["reported" if made[1] else "unreported"] += 1
    return count


def _drawn(grammars: Grammars, make: Callable[[Any], Made], schema: Any, answers: int) -> Counter[str]:
    count: Counter[str] = Counter()
    made = make(schema)
    if made is None:
        return Counter({"refused": 1})
    stops = frozenset(grammars.vocabulary.stop_ids)
    for seed in range(answers):
        try:
            drawn = draw(made[0], stops, Random(seed), limit=MOST_TOKENS)
        except ValueError:
            # The mask was empty, or admitted a token that the grammar then refused.
            count["unfinished"] += 1
            continue
        text = b"".join(map(grammars.vocabulary.token_bytes, drawn.ids))
        if not drawn.ended:
            count["unfinished"] += 1
        elif _valid(schema, text):
            count["valid"] += 1
        else:
            count["reported" if made[1] else "unreported"] += 1
            if make == grammars.ours and not made[1]:
                print(f"unreported: {json.dumps(schema)[:300]} admits {text[:300]!r}", file=sys.stderr)
    return count


def _valid(schema: Any, text: bytes) -> bool:
    try:
        return not problems(schema, json.loads(text))
    except ValueError:
        return False


def _in_child(work: Callable[[], Counter[str]]) -> Counter[str]:
    """The result of `work`, done in a forked process that ends after SECONDS."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(SECONDS)
        os.write(write, json.dumps(work()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return Counter(json.loads(answer)) if answer else Counter({"late": 1})


if __name__ == "__main__":
    main()
