"""Judges answers and sums the judgements up: when it calls, with which arguments, whether it stops, what it reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from kimi_k2_serving.demo.call_scoring import schema_problem, trigger_score
from kimi_k2_serving.demo.evaluation.cases import Case
from kimi_k2_serving.demo.openai_answer import EndpointAnswer

# The spelling of K2's control tokens, none of which may be in a text.
_MARKER = "<|"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`None`: the case does not show it. `problem`: why there is no answer, "" if there is one."""

    case: Case
    answer: EndpointAnswer
    problem: str
    called: bool
    # The decision about a call, where the model was free to take it.
    triggers: bool | None
    # Names and arguments of all calls, in any order.
    exact: bool | None
    # The end came by itself, with the reason that fits, and no control token is in the text.
    stops: bool
    # All values of the results are in the answer.
    reads: bool | None
    # The same text, where one is expected.
    same_text: bool | None
    valid_calls: int = 0
    calls: int = 0


def judge(case: Case, answer: EndpointAnswer, *, problem: str = "") -> Outcome:
    """What is right in an answer."""
    called = bool(answer.calls)
    expected = bool(case.calls)
    answered = not problem
    tools, given = case.request.get("tools") or [], [(call.name, call.arguments) for call in answer.calls]
    exact = answered and _counted(given) == _counted((name, json.dumps(wanted)) for name, wanted in case.calls)
    reason = "tool_calls" if called else "stop"
    return Outcome(
        case,
        answer,
        problem,
        called,
        triggers=(answered and called == expected) if case.is_free else None,
        exact=exact if expected else None,
        stops=answered
        and answer.finish_reason == reason
        and _MARKER not in answer.content
        and bool(answer.content or called),
        reads=(answered and all(value in answer.content for value in case.values)) if case.reads_results else None,
        same_text=(answered and not called and answer.content.strip() == case.text.strip()) if case.text else None,
        valid_calls=sum(not schema_problem(call, tools) for call in answer.calls),
        calls=len(answer.calls),
    )


def _counted(calls: Iterable[tuple[str, str]]) -> list[str]:
    """The calls in an order of their own, with the JSON in one form. Text that is no JSON stays as it is."""
    return sorted(f"{name} {_canonical(text)}" for name, text in calls)


def _canonical(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return text


@dataclass(frozen=True, slots=True)
class Summary:
    """Shares from 0 to 1; None if no case shows it. `kinds`: (cases, right ones) of each kind."""

    cases: int
    failed: int
    precision: float | None
    recall: float | None
    f1: float | None
    exact_arguments: float | None
    correct_stop: float | None
    results_read: float | None
    schema_accuracy: float | None
    same_text: float | None
    kinds: dict[str, tuple[int, int]]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def summary(outcomes: Sequence[Outcome]) -> Summary:
    free = [each for each in outcomes if each.triggers is not None]
    score = trigger_score((bool(each.case.calls), each.called) for each in free)
    kinds: dict[str, tuple[int, int]] = {}
    for each in outcomes:
        count, right = kinds.get(each.case.kind, (0, 0))
        kinds[each.case.kind] = (count + 1, right + is_right(each))
    return Summary(
        cases=len(outcomes),
        failed=sum(bool(each.problem) for each in outcomes),
        precision=score.precision,
        recall=score.recall,
        f1=score.f1 if free else None,
        exact_arguments=_share(each.exact for each in outcomes),
        correct_stop=_share(each.stops for each in outcomes),
        results_read=_share(each.reads for each in outcomes),
        schema_accuracy=_ratio(sum(each.valid_calls for each in outcomes), sum(each.calls for each in outcomes)),
        same_text=_share(each.same_text for each in outcomes),
        kinds=dict(sorted(kinds.items())),
    )


def is_right(outcome: Outcome) -> bool:
    """Right in everything that its case shows, except that a text may be worded in another way."""
    shown = (outcome.triggers, outcome.exact, outcome.reads)
    return outcome.stops and all(each is not False for each in shown)


def _share(flags: Iterable[bool | None]) -> float | None:
    known = [flag for flag in flags if flag is not None]
    return _ratio(sum(known), len(known))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def table(given: Summary) -> str:
    """The summary as a table of text."""
    rows = [
        ("trigger precision", given.precision),
        ("trigger recall", given.recall),
        ("trigger F1", given.f1),
        ("exact arguments", given.exact_arguments),
        ("correct stop", given.correct_stop),
        ("results read back", given.results_read),
        ("schema accuracy", given.schema_accuracy),
        ("same text", given.same_text),
    ]
    lines = [f"{name:<22}{'-' if value is None else f'{value:.3f}':>8}" for name, value in rows]
    lines += ["", f"{given.cases} cases, {given.failed} requests failed", ""]
    lines += [f"{kind:<22}{right:>5} of {count}" for kind, (count, right) in given.kinds.items()]
    return "\n".join(lines)
