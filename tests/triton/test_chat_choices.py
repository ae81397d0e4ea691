"""Several answers in the ensemble: each is what it is alone and ends once, and the request has one last response."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from fake_pb_utils import FailingSender, Request, Sender, outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat_response import LINE, RELAXED, REPORT, SEAL, TOOL_ANSWER, Harness, context, merged
from test_postprocess import Aborts
from tests.support.enforcer import CheckingWorker
from tests.support.vocabulary import small_checkpoint, small_vocabulary

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.inspection import Inspector
from kimi_k2_serving.triton.chat.answers import Ending
from kimi_k2_serving.triton.chat.choice import Part, parts_of
from kimi_k2_serving.triton.chat.context import RequestContext, address
from kimi_k2_serving.triton.chat.metrics import EnforcementMetrics
from kimi_k2_serving.triton.chat.postprocess import Postprocess

__all__ = ["small_checkpoint", "small_vocabulary"]

TEXT = list("Zürich, a \U0001f3c3 END of it".encode())
ANSWERS = [TOOL_ANSWER, TOOL_ANSWER[:-4], TEXT, [], TOOL_ANSWER + TEXT, TEXT[:3]]
Piece = tuple[list[int], str | None]


def alone(ids: list[int], finish: str, *, stream: bool = True, **options: Any) -> list[dict[str, Any]]:
    return [Harness().feed(context(stream=stream, **options), ids, finish)]


def view(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client has of one answer in the end."""
    return {
        "content": "".join(part["text_output"] for part in parts),
        "calls": merged([part for part in parts if part.get("tool_calls")]),
        "finish": [part["finish_reason"] for part in parts if "finish_reason" in part],
        "enforcement": [part["enforcement"] for part in parts if "enforcement" in part],
    }


@st.composite
def interleavings(draw: Any) -> tuple[list[tuple[list[int], str]], list[tuple[int, list[int], str | None]]]:
    """Answers with their finish reasons, and the parts of all in any order that keeps each answer's."""
    answers = draw(
        st.lists(st.tuples(st.sampled_from(ANSWERS), st.sampled_from(["stop", "length"])), min_size=2, max_size=8)
    )
    queues: dict[int, list[Piece]] = {}
    for number, (ids, finish) in enumerate(answers):
        cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=5)))
        edges = [0, *cuts, len(ids)]
        pieces: list[Piece] = [(ids[a:b], None) for a, b in pairwise(edges)]
        pieces[-1] = (pieces[-1][0], finish)
        queues[number] = pieces
    order: list[tuple[int, list[int], str | None]] = []
    while queues:
        number = draw(st.sampled_from(sorted(queues)))
        order.append((number, *queues[number].pop(0)))
        if not queues[number]:
            del queues[number]
    return answers, order


@settings(max_examples=150, deadline=None)
@given(interleavings(), st.sampled_from([(), ("END",)]), st.sampled_from([None, RELAXED]))
def test_however_their_parts_interleave_each_answer_is_what_it_is_alone(
    case: Any, stops: tuple[str, ...], relaxed: Any
) -> None:
    answers, order = case
    options = {"stops": stops, "relaxed": relaxed}
    harness, found = Harness(), []
    for number, (choice, ids, finish) in enumerate(order):
        text = context(choices=len(answers), notices="[]", **options) if number == 0 else LINE
        found.append((choice, harness.feed(text, ids, finish, choice=choice)))
    for choice, (ids, finish) in enumerate(answers):
        mine = [part for number, part in found if number == choice]
        assert view(mine) == view(alone(ids, finish, **options))
        assert {part["index"] for part in mine} == {choice}
        assert "finish_reason" in mine[-1]
    # What the request has once comes with its last response.
    assert [("usage" in part, "notices" in part) for _, part in found] == [(False, False)] * (len(order) - 1) + [
        (True, True)
    ]
    usage = json.loads(found[-1][1]["usage"])
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, sum(len(ids) for ids, _ in answers))
    assert len(harness.streams) == 0


@pytest.mark.parametrize("relaxed", [None, RELAXED])
def test_one_whole_response_has_an_element_for_each_answer(relaxed: Any) -> None:
    given = [TOOL_ANSWER, TEXT, TOOL_ANSWER]
    ids = [token for each in given for token in each]
    parts = parts_of(ids, [0, 1, 2], [len(each) for each in given], ["stop", "length", "stop"])
    harness = Harness()
    made = harness.streams.feed(
        context(stream=False, choices=3, relaxed=relaxed), parts, prompt_tokens=10, cached_tokens=4
    )
    found = {tensor.name: value for tensor, value in harness.ended(made)}  # type: ignore[arg-type]
    for number, each in enumerate(given):
        (single,) = alone(each, parts[number].finish or "", stream=False, relaxed=relaxed)
        for name in ("text_output", "finish_reason", "tool_calls", "enforcement"):
            assert found.get(name, [""] * 3)[number] == single.get(name, ""), name
    assert found["index"] == [0, 1, 2]
    assert json.loads(found["usage"][0])["completion_tokens"] == len(ids)
    assert ("enforcement" in found) == (relaxed is not None)
    if relaxed is not None:
        assert json.loads(found["enforcement"][0]) == REPORT


def test_a_stop_string_ends_the_run_of_its_own_answer_alone() -> None:
    harness = Harness()
    harness.feed(context(stops=("STOP",), choices=3), list(b"one"), choice=1)
    harness.feed(LINE, list(b"two STOP"), choice=2)
    assert harness.aborted == ["uid 2"]
    assert harness.feed(LINE, list(b" more"), "abort", choice=2)["finish_reason"] == "stop"
    assert harness.feed(LINE, list(b" more"), choice=1)["text_output"] == " more"
    harness.streams.drop(LINE)
    assert harness.aborted == ["uid 2", "uid"]


def test_a_heartbeat_after_the_first_answer_s_end_says_nothing() -> None:
    harness = Harness()
    harness.feed(context(choices=2), [65], "stop", choice=0)
    assert harness.feed(LINE, [], choice=0) == {"text_output": "", "index": 0}
    assert "usage" in harness.feed(LINE, [66], "stop", choice=1)


@pytest.mark.parametrize("part", [Part(2, [65]), Part(-1, [65]), Part(0, [65]), Part(0, [], "stop")])
def test_what_no_run_of_the_request_can_have_made_ends_it(part: Part) -> None:
    harness = Harness()
    harness.feed(context(choices=2), [65], "stop", choice=0)
    with pytest.raises(InvalidValue):
        harness.streams.feed(LINE, [part], prompt_tokens=1, cached_tokens=0)
    assert (len(harness.streams), harness.aborted) == (0, ["uid"])


@pytest.mark.parametrize(
    ("choices", "counts", "finishes"),
    [
        ([0, 1], None, ["stop", "stop"]),
        ([0, 1], [1], ["stop", "stop"]),
        ([0, 1], [1, 1], ["stop", "stop"]),
        ([0, 1], [1, 2], ["stop"]),
        ([0, 1], [1, 2], ["stop", ""]),
        ([0], [3], ["stop", "stop"]),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(choices: list[int], counts: Any, finishes: list[str]) -> None:
    with pytest.raises(InvalidValue, match="index"):
        parts_of([65, 66, 67], choices, counts, finishes)


@pytest.fixture
def step(small_vocabulary: Vocabulary) -> Iterator[tuple[Postprocess, Aborts]]:
    aborts = Aborts()
    metrics = EnforcementMetrics("kimi_k2_postprocess")
    made = Postprocess(small_vocabulary, SEAL, aborts, CheckingWorker(), metrics)
    yield made, aborts
    made.stop()


@pytest.mark.parametrize(
    ("fault", "is_relaxed", "ids"),
    [
        ("the check of its schema", True, b"[1, 1]"),
        ("its response", True, b"[1, 1]"),
        ("its response", False, b"[1, 1]"),
        ("the way to Triton", True, b"[1, 1]"),
        ("the way to Triton", False, b"[1, 1]"),
        ("an id of no token", False, [10**8]),
        ("an id of no token", False, [10**8] * 200),
    ],
)
def test_an_answer_that_fails_at_its_end_ends_the_runs_of_the_others(
    step: tuple[Postprocess, Aborts],
    fault: str,
    is_relaxed: bool,
    ids: Sequence[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running, aborts = step
    if fault == "the check of its schema":
        monkeypatch.setattr(Inspector, "report", lambda *_, **__: 1 // 0)
    if fault == "its response":
        monkeypatch.setattr(Ending, "outputs", lambda *_: 1 // 0)
    sender = FailingSender(1) if fault == "the way to Triton" else Sender()
    relaxed = json.dumps(RELAXED.encode()) if is_relaxed else None
    first = RequestContext("u", True, 3, (), 0, True, (), relaxed).encode(SEAL, time.monotonic())
    given = {"request_context": first, "output_ids": [*ids], "index": 1, "finish_reason": "stop"}
    running.execute([Request(given, sender=sender)])
    deadline = time.monotonic() + 30
    while not (sender.finals and aborts.uids) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sender.sent[0].error is not None
    assert aborts.uids == ["u"]


def test_every_response_but_the_last_of_the_request_is_confirmed(step: tuple[Postprocess, Aborts]) -> None:
    running, aborts = step
    first = RequestContext("u", True, 2, (), 0, True, ()).encode(SEAL, time.monotonic())
    line, found = address("u", SEAL), []
    for text, ids, choice, finish in (
        (first, [65], 1, None),
        (line, [66], 0, "stop"),
        (line, list(range(65, 91)) * 9, 1, "length"),
    ):
        sender = Sender()
        given = {"request_context": text, "output_ids": ids, "index": choice}
        running.execute([Request(given | ({"finish_reason": finish} if finish else {}), sender=sender)])
        deadline = time.monotonic() + 10
        while not sender.finals and time.monotonic() < deadline:
            time.sleep(0.001)
        found.append(outputs(sender.sent[0]))
    assert aborts.receipts == [["u"], ["u"], []]
    assert [each["index"] for each in found] == [1, 0, 1]
    assert ["usage" in each for each in found] == [False, False, True]
