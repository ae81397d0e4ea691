"""Postprocess over real ids: streams kept by uid, ended once, dropped when nobody waits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fake_pb_utils import MetricFamily
from tests.support.enforcer import CheckingWorker

from kimi_k2_serving.core.errors import EngineLost, InvalidValue, LimitExceeded
from kimi_k2_serving.core.limits import CONTEXT_BYTES, OPEN_CONTEXT_BYTES, OPEN_CONTEXTS, SPENT_CONTEXTS
from kimi_k2_serving.enforcer.inspection import Relaxed
from kimi_k2_serving.triton.chat.answers import IDLE_SECONDS, Ending, Streams, reported
from kimi_k2_serving.triton.chat.choice import Outputs, Part
from kimi_k2_serving.triton.chat.context import LIFE_SECONDS, RequestContext, address
from kimi_k2_serving.triton.chat.metrics import EnforcementMetrics
from kimi_k2_serving.triton.chat.seal import Seal


class Bytes:
    """Ids 0 to 255 are bytes; control tokens from 256 on."""

    NAMES = (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|im_end|>",
    )

    def control(self, name: str) -> int:
        return 256 + self.NAMES.index(name)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""


BEGIN, END, CALL, ARGUMENTS, CALL_END, STOP = range(256, 262)
TOOL_ANSWER = [
    *b"Let me look. ",
    BEGIN,
    CALL,
    *b"functions.look:4",
    ARGUMENTS,
    *'{"city": "Zürich"}'.encode(),
    CALL_END,
    END,
    STOP,
]


SEAL = Seal(b"k" * 32)
# What the engine repeats with every response after the first.
LINE = address("uid", SEAL)


class Harness:
    def __init__(self) -> None:
        self.now = 0.0
        self.aborted: list[str] = []
        self.worker = CheckingWorker()
        self.metrics = EnforcementMetrics("kimi_k2_postprocess")
        self.streams = Streams(
            Bytes(),  # type: ignore[arg-type]
            seal=SEAL,
            abort=self.aborted.append,
            clock=lambda: self.now,
            inspecting=self.inspecting,
        )

    def inspecting(self) -> None:
        self.worker.start()
        self.metrics.began()

    def ended(self, ending: Ending) -> Outputs:
        values = ending.values()
        for number, inspector in enumerate(ending.inspectors()):
            report = inspector.report(self.worker)
            self.metrics.reported(report)
            values[number] = reported(values[number], report)
        return ending.outputs(values)

    def feed(self, context: str, ids: list[int], finish: str | None = None, *, choice: int = 0) -> dict[str, Any]:
        made = self.streams.feed(context, [Part(choice, ids, finish)], prompt_tokens=10, cached_tokens=4)
        outputs = self.ended(made) if isinstance(made, Ending) else made
        return {tensor.name: value[0] for tensor, value in outputs}


def json_of(relaxed: Relaxed | None) -> str | None:
    return None if relaxed is None else json.dumps(relaxed.encode())


def context(
    *,
    uid: str = "uid",
    stream: bool = True,
    tools: tuple[str, ...] = ("look",),
    stops: tuple[str, ...] = (),
    relaxed: Relaxed | None = None,
    notices: str | None = None,
    seal: Seal = SEAL,
    choices: int = 1,
) -> str:
    return RequestContext(uid, stream, choices, tools, 4, True, stops, json_of(relaxed), notices).encode(seal, 0.0)


def merged(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tool-call deltas put together as clients do."""
    calls: list[dict[str, Any]] = []
    for part in parts:
        for delta in json.loads(part.get("tool_calls", "[]")):
            if delta["index"] == len(calls):
                calls.append({"id": delta["id"], "type": delta["type"], "function": dict(delta["function"])})
            else:
                calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
    return calls


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_streamed_deltas_put_together_are_the_whole_answer(size: int) -> None:
    whole = Harness().feed(context(stream=False), TOOL_ANSWER, "stop")
    streaming = Harness()
    parts = []
    for start in range(0, len(TOOL_ANSWER), size):
        last = start + size >= len(TOOL_ANSWER)
        given = context() if start == 0 else LINE
        parts.append(streaming.feed(given, TOOL_ANSWER[start : start + size], "stop" if last else None))
    assert "".join(part["text_output"] for part in parts) == whole["text_output"]
    assert merged(parts) == json.loads(whole["tool_calls"])
    assert parts[-1]["finish_reason"] == whole["finish_reason"] == "tool_calls"
    assert json.loads(parts[-1]["usage"]) == json.loads(whole["usage"])
    assert ["finish_reason" in part for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_call_is_named_and_numbered_over_the_whole_conversation() -> None:
    (call,) = json.loads(Harness().feed(context(stream=False), TOOL_ANSWER, "stop")["tool_calls"])
    assert call["id"] == "functions.look:4"
    assert json.loads(call["function"]["arguments"]) == {"city": "Zürich"}


def test_usage_counts_every_id_and_the_cached_prompt() -> None:
    usage = json.loads(Harness().feed(context(), TOOL_ANSWER, "stop")["usage"])
    assert usage == {
        "prompt_tokens": 10,
        "completion_tokens": len(TOOL_ANSWER),
        "total_tokens": 10 + len(TOOL_ANSWER),
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_a_stop_string_aborts_the_engine_and_the_answer_still_ends_once() -> None:
    harness = Harness()
    first = harness.feed(context(stops=("STOP",)), list(b"one STOP two"))
    assert first["text_output"] == "one "
    assert harness.aborted == ["uid"]
    last = harness.feed(LINE, list(b" three"), "abort")
    assert (last["text_output"], last["finish_reason"]) == ("", "stop")
    assert len(harness.streams) == 0


def test_a_cancelled_answer_is_forgotten_and_its_engine_run_ended() -> None:
    harness = Harness()
    harness.feed(context(), [65])
    harness.streams.drop(LINE)
    assert harness.aborted == ["uid"]
    assert len(harness.streams) == 0


def test_an_answer_that_nobody_finishes_is_forgotten_after_a_while() -> None:
    harness = Harness()
    harness.feed(context(), [65])
    harness.now = IDLE_SECONDS
    harness.feed(context(uid="other"), [65])
    assert len(harness.streams) == 1
    with pytest.raises(EngineLost):
        harness.feed(LINE, [65])


def test_answers_that_nobody_finishes_are_bounded_in_number_and_those_in_use_stay() -> None:
    harness = Harness()
    harness.feed(context(), [65])
    for number in range(OPEN_CONTEXTS.value):
        harness.feed(context(uid=f"u{number}"), [65])
        harness.feed(LINE, [66])
    assert len(harness.streams) == OPEN_CONTEXTS.value
    harness.feed(address(f"u{OPEN_CONTEXTS.value - 1}", SEAL), [66])
    with pytest.raises(EngineLost):
        harness.feed(address("u0", SEAL), [66])
    assert harness.aborted == ["u0"]


def test_what_is_open_is_bounded_in_bytes() -> None:
    harness = Harness()
    large = Relaxed(("x",), {"look": {"enum": ["y" * (CONTEXT_BYTES.value // 2)]}})
    for number in range(2 * OPEN_CONTEXT_BYTES.value // CONTEXT_BYTES.value + 5):
        harness.feed(context(uid=f"u{number}", relaxed=large), [65])
    assert len(harness.streams) * (CONTEXT_BYTES.value // 2) <= OPEN_CONTEXT_BYTES.value


def test_a_context_is_bounded_by_itself() -> None:
    with pytest.raises(LimitExceeded, match="context_bytes"):
        context(relaxed=Relaxed(("x",), {"look": {"enum": ["y" * CONTEXT_BYTES.value]}}))


def forged() -> dict[str, str]:
    line, _, rest = context(uid="new").partition("\n")
    tag, _, data = rest.partition(" ")
    return {
        "nothing": "",
        "a uid alone": "uid",
        "an untagged context": 'uid\n{"stream": true}',
        "another key's": context(uid="new", seal=Seal(b"x" * 32)),
        "another uid": f"{LINE}\n{rest}",
        "other data": f"{line}\n{tag} {data.replace('true', 'false')}",
        "the line's own tag": f"{line}\n{line.partition(' ')[2]} {data}",
        "no tag": f"{line}\n{data}",
        "a tag cut short": f"{line}\n{tag[:8]} {data}",
        "not ascii": f"{line}\nü {data}",
        "large": f"{line}\n{tag} {data}{' ' * CONTEXT_BYTES.value}",
        "a long line": "u" * 10_000_000,
    }


@pytest.mark.parametrize("text", forged().values(), ids=forged())
def test_what_this_server_did_not_make_opens_nothing_and_ends_nobody_s_answer(text: str) -> None:
    harness = Harness()
    harness.feed(context(), [65])
    with pytest.raises(InvalidValue, match="request_context"):
        harness.feed(text, [66])
    harness.streams.drop(text if not text.startswith(LINE) else "uid forged")
    assert len(harness.streams) == 1
    assert "uid" not in harness.aborted
    assert harness.feed(LINE, [67])["text_output"] == "C"


def test_a_context_opens_state_once() -> None:
    harness = Harness()
    harness.feed(context(), [65])
    with pytest.raises(InvalidValue):
        harness.feed(context(), [66])
    assert harness.feed(LINE, [67], "stop")["text_output"] == "C"
    with pytest.raises(InvalidValue):
        harness.feed(context(), [66])
    assert (len(harness.streams), harness.aborted) == (0, [])


def test_a_context_is_good_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()
    harness.now = LIFE_SECONDS - 1
    harness.feed(context(), [65])
    harness.now = LIFE_SECONDS
    with pytest.raises(InvalidValue):
        harness.feed(context(uid="late"), [65])


def test_the_uids_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kimi_k2_serving.triton.chat.answers.SPENT_CONTEXTS", replace(SPENT_CONTEXTS, value=3))
    harness = Harness()
    for number in range(10):
        harness.feed(context(uid=f"u{number}"), [65], "stop")
    for number in (7, 8, 9):
        with pytest.raises(InvalidValue):
            harness.feed(context(uid=f"u{number}"), [65])


def test_without_tools_declared_no_marker_shows_and_nothing_is_called() -> None:
    answer = Harness().feed(context(stream=False, tools=()), TOOL_ANSWER, "stop")
    assert "tool_calls" not in answer
    assert "<|" not in answer["text_output"]
    assert answer["finish_reason"] == "stop"


PLACE = "tools[0].function.parameters.properties.city: maxLength"
RELAXED = Relaxed((PLACE,), {"look": {"properties": {"city": {"maxLength": 3}}}})
REPORT = {"relaxed": [PLACE], "invalid": [{"index": 0, "problems": ["arguments.city: maxLength"]}]}


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_what_no_grammar_held_is_reported_with_the_last_response_streamed_as_whole(size: int) -> None:
    whole = Harness().feed(context(stream=False, relaxed=RELAXED), TOOL_ANSWER, "stop")
    assert json.loads(whole["enforcement"]) == REPORT
    harness, parts = Harness(), []
    for start in range(0, len(TOOL_ANSWER), size):
        last = start + size >= len(TOOL_ANSWER)
        given = context(relaxed=RELAXED) if start == 0 else LINE
        parts.append(harness.feed(given, TOOL_ANSWER[start : start + size], "stop" if last else None))
    assert ["enforcement" in part for part in parts] == [False] * (len(parts) - 1) + [True]
    assert json.loads(parts[-1]["enforcement"]) == REPORT
    # Reported, and delivered all the same.
    assert merged(parts) == json.loads(whole["tool_calls"])
    assert parts[-1]["finish_reason"] == whole["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("relaxed", [None, RELAXED])
def test_notices_come_once_and_last(stream: bool, relaxed: Relaxed | None) -> None:
    given, harness = context(stream=stream, relaxed=relaxed, notices='["seed: has no effect"]'), Harness()
    parts = [harness.feed(given, TOOL_ANSWER[:9])] if stream else []
    parts.append(harness.feed(LINE if stream else given, TOOL_ANSWER[9 * stream :], "stop"))
    assert [part.get("notices") for part in parts] == [None] * (len(parts) - 1) + ['["seed: has no effect"]']
    assert ("enforcement" in parts[-1]) == (relaxed is not None)


def test_a_call_that_the_length_cut_off_is_not_judged() -> None:
    answer = Harness().feed(context(relaxed=RELAXED), TOOL_ANSWER[:-5], "length")
    assert answer["finish_reason"] == "length"
    assert json.loads(answer["enforcement"]) == {"relaxed": [PLACE]}


def test_where_everything_was_held_nothing_is_reported_and_no_worker_started() -> None:
    harness = Harness()
    assert "enforcement" not in harness.feed(context(), TOOL_ANSWER, "stop")
    assert not harness.worker.started
    harness.feed(context(uid="other", relaxed=RELAXED), [65])
    assert harness.worker.started


def test_relaxed_requests_and_what_was_judged_are_counted() -> None:
    harness = Harness()
    harness.feed(context(relaxed=RELAXED), TOOL_ANSWER, "stop")
    harness.feed(context(uid="other"), TOOL_ANSWER, "stop")
    counted = {
        (name, metric.labels.get("kind")): metric.value
        for name, metrics in MetricFamily.made.items()
        for metric in metrics
        if name.startswith("kimi_k2:")
    }
    assert counted == {
        ("kimi_k2:relaxed_requests", None): 1,
        ("kimi_k2:inspected", "call"): 1,
        ("kimi_k2:inspected", "content"): 0,
        ("kimi_k2:invalid", "call"): 1,
        ("kimi_k2:invalid", "content"): 0,
    }


def test_a_server_without_metrics_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MetricFamily, "available", False)
    assert json.loads(Harness().feed(context(relaxed=RELAXED), TOOL_ANSWER, "stop")["enforcement"]) == REPORT
