"""Schema accuracy and trigger F1, counted as Kimi K2's vendor verifier counts them.

Schema accuracy is the share of answers that end with `tool_calls` in which every call names a declared tool and has
arguments that its schema accepts. Trigger F1 compares which answers call a tool with which should.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema

from kimi_k2_serving.demo.openai_answer import EndpointAnswer, EndpointCall


@dataclass(frozen=True, slots=True)
class TriggerScore:
    right_calls: int
    wrong_calls: int
    missed_calls: int

    @property
    def precision(self) -> float | None:
        """None if nothing was called."""
        called = self.right_calls + self.wrong_calls
        return self.right_calls / called if called else None

    @property
    def recall(self) -> float | None:
        """None if nothing should have been called."""
        expected = self.right_calls + self.missed_calls
        return self.right_calls / expected if expected else None

    @property
    def f1(self) -> float:
        wrong = self.wrong_calls + self.missed_calls
        return 2 * self.right_calls / (2 * self.right_calls + wrong) if self.right_calls or wrong else 1.0


def trigger_score(pairs: Iterable[tuple[bool, bool]]) -> TriggerScore:
    """`pairs` are (a call was expected, a call was made)."""
    counted = list(pairs)
    return TriggerScore(
        right_calls=counted.count((True, True)),
        wrong_calls=counted.count((False, True)),
        missed_calls=counted.count((True, False)),
    )


def schema_problem(call: EndpointCall, tools: Sequence[dict[str, Any]]) -> str:
    """What is wrong with a call, "" if nothing."""
    functions = [tool.get("function") or {} for tool in tools]
    declared = {function.get("name"): function.get("parameters") or {} for function in functions}
    if call.name not in declared:
        return f"{call.name!r} is not a declared tool"
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return f"{call.name}: the arguments are not JSON"
    try:
        found = next(jsonschema.Draft202012Validator(declared[call.name]).iter_errors(arguments), None)
    except Exception as error:  # jsonschema raises what it likes for a stranger's schema that is none
        return f"{call.name}: its schema can't be used ({type(error).__name__})"
    return f"{call.name}: {found.json_path}: {found.message[:120]}" if found else ""


def schema_problems(answer: EndpointAnswer, tools: Sequence[dict[str, Any]]) -> list[str]:
    return [problem for call in answer.calls if (problem := schema_problem(call, tools))]
