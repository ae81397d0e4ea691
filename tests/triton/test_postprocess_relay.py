"""The last step while ids come past Triton: one ending each, errors and leavers as before, and nothing left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fake_pb_utils import FailingSender, Request, Sender, outputs
from tests.support.enforcer import CheckingWorker
from tests.support.vocabulary import small_checkpoint, small_vocabulary
from tests.triton.test_postprocess import SEAL, Aborts, context, until

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.triton.chat import postprocess
from kimi_k2_serving.triton.chat.context import RequestContext, address
from kimi_k2_serving.triton.chat.metrics import EnforcementMetrics
from kimi_k2_serving.triton.chat.postprocess import Postprocess
from kimi_k2_serving.triton.chat.token_feed import Put

__all__ = ["small_checkpoint", "small_vocabulary"]

LINE = address("u", SEAL)


class Tokens:
    """An engine that is asked, and may be there or not."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.there = True
        self.put: Put = lambda *_: None
        self.closed = False

    def want(self, uid: str) -> bool:
        self.asked.append(uid)
        return self.there

    def close(self) -> None:
        self.closed = True


class Step:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens, self.aborts = Tokens(), Aborts()
        self.made = Postprocess(
            vocabulary, SEAL, self.aborts, CheckingWorker(), EnforcementMetrics("kimi_k2_postprocess"), self._open
        )

    def _open(self, put: Put) -> Tokens:
        self.tokens.put = put
        return self.tokens

    def ask(self, text: str, ids: list[int], *, sender: Sender | None = None, **more: Any) -> Sender:
        request = Request({"request_context": text, "output_ids": ids, **more}, sender=sender)
        self.made.execute([request])
        return request.sender

    def opened(self, sender: Sender | None = None) -> Sender:
        """An answer with one id, whose further ids come over the socket. The sender that stays open."""
        assert self.ask(context("u"), [65]).finals == 1
        return self.ask(LINE, [66], sender=sender, relay="")


@pytest.fixture
def step(small_vocabulary: Vocabulary) -> Iterator[Step]:
    made = Step(small_vocabulary)
    yield made
    made.made.stop()


def text(sender: Sender) -> str:
    return "".join(outputs(each).get("text_output", "") for each in sender.sent)


def test_ids_of_the_socket_go_out_on_the_open_response_and_the_end_on_the_last(step: Step) -> None:
    opened = step.opened()
    assert step.tokens.asked == ["u"]
    assert (text(opened), opened.finals) == ("B", 0)
    for number in (67, 68):
        step.tokens.put("u", [number], False)
    until(lambda: text(opened) == "BCD")
    tick = step.ask(LINE, [])
    assert (tick.sent, tick.finals) == ([], 1)
    step.tokens.put("u", [69], True)
    last = step.ask(LINE, [], finish_reason="stop", num_output_tokens=5, num_input_tokens=7)
    until(lambda: last.finals)
    found = outputs(last.sent[0])
    assert (found["text_output"], found["finish_reason"]) == ("E", "stop")
    assert json.loads(found["usage"])["completion_tokens"] == 5
    assert opened.finals == 1
    assert step.aborts.receipts == [["u"], ["u"], ["u"], []]
    # Nothing of it is left: its context is spent, and ids for it are dropped.
    step.tokens.put("u", [70], False)
    assert step.ask(context("u"), [65]).sent[0].error is not None


def test_the_end_waits_for_ids_that_are_still_on_their_way(step: Step) -> None:
    opened = step.opened()
    last = step.ask(LINE, [], finish_reason="length", num_output_tokens=4)
    time.sleep(0.02)
    assert (last.finals, opened.finals) == (0, 0)
    step.tokens.put("u", [67], False)
    step.tokens.put("u", [68], True)
    until(lambda: last.finals)
    assert text(opened) + text(last) == "BCD"


def test_ids_before_the_opening_response_wait_for_it(step: Step) -> None:
    step.ask(context("u"), [65])
    step.tokens.put("u", [67], False)
    opened = step.ask(LINE, [66], relay="")
    until(lambda: text(opened) == "BC")


def test_an_error_of_the_engine_comes_with_the_last_response_and_closes_the_open_one(step: Step) -> None:
    opened = step.opened()
    last = step.ask(LINE, [], relay="engine_lost: the engine died; send it again")
    until(lambda: last.finals)
    assert (opened.finals, opened.sent[-1].error) == (1, None)
    assert str(last.sent[0].error) == "engine_lost: the engine died; send it again"
    step.tokens.put("u", [67], False)


@pytest.mark.parametrize("stated", ["nonsense", ""])
def test_an_error_without_a_code_is_an_internal_one(step: Step, stated: str) -> None:
    step.opened()
    last = step.ask(LINE, [], relay=stated or "x: y")
    until(lambda: last.finals)
    assert str(last.sent[0].error).startswith("internal: ")


def test_a_client_that_leaves_ends_the_run_and_closes_the_open_response(step: Step) -> None:
    opened = step.opened()
    gone = Sender()
    gone.cancelled = True
    time.sleep(0.3)  # Triton is asked four times a second
    assert step.ask(LINE, [], sender=gone).finals == 1
    until(lambda: opened.finals)
    assert (step.aborts.uids, gone.sent[0].error) == (["u"], None)
    late = Sender()
    late.cancelled = True
    assert step.ask(LINE, [], sender=late, finish_reason="abort").finals == 1
    assert late.sent[0].error is None


def test_a_response_that_triton_does_not_take_ends_the_run(step: Step) -> None:
    opened = FailingSender(0)
    step.opened(opened)
    opened.failures = 1
    step.tokens.put("u", [67], False)
    until(lambda: step.aborts.uids == ["u"])
    last = step.ask(LINE, [], finish_reason="abort", num_output_tokens=3)
    until(lambda: last.finals)
    assert (last.sent[0].error is not None, opened.finals) == (True, 1)


def test_nobody_else_can_end_an_open_answer(step: Step) -> None:
    opened = step.opened()
    for forged in ("u", "u tag", f"u {'0' * 32}"):
        for given in ({"finish_reason": "stop"}, {"relay": "internal: x"}, {}):
            assert step.ask(forged, [], **given).sent[0].error is not None
    assert opened.finals == 0
    step.tokens.put("u", [67], False)
    until(lambda: text(opened) == "BC")


def test_a_client_that_leaves_before_the_response_that_opens_leaves_nothing(step: Step) -> None:
    step.ask(context("u"), [65])
    gone = Sender()
    gone.cancelled = True
    time.sleep(0.3)  # Triton is asked four times a second
    assert step.ask(LINE, [66], sender=gone, relay="").finals == 1
    assert (step.aborts.uids, step.made._relays) == (["u"], {})


def test_an_error_in_place_of_the_opening_ends_the_request(step: Step) -> None:
    step.ask(context("u"), [65])
    last = step.ask(LINE, [], relay="internal: an internal error; see the server's log")
    assert str(last.sent[0].error).startswith("internal: ")
    assert (last.finals, step.made._relays) == (1, {})


def test_a_client_that_ends_its_answer_twice_gets_an_answer_to_each(step: Step) -> None:
    opened = step.opened()
    ends = [step.ask(LINE, [], finish_reason="stop", num_output_tokens=1000) for _ in range(2)]
    assert ends[1].finals == 1
    assert ends[1].sent[0].error is not None
    step.tokens.put("u", [67], True)
    until(lambda: ends[0].finals)
    assert (opened.finals, ends[0].sent[0].error is not None) == (1, True)


def test_an_engine_model_that_falls_silent_leaves_no_open_response(
    small_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, "SILENT_SECONDS", 0.5)
    step = Step(small_vocabulary)
    opened = step.opened()
    until(lambda: opened.finals)
    assert (step.aborts.uids, step.made._relays) == (["u"], {})
    step.made.stop()


def test_a_stop_gives_every_open_request_its_end(small_vocabulary: Vocabulary) -> None:
    step = Step(small_vocabulary)
    opened = step.opened()
    last = step.ask(LINE, [], finish_reason="stop", num_output_tokens=1000)
    step.made.stop()
    assert (opened.finals, last.finals) == (1, 1)


def test_a_source_that_fails_is_no_source(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(uid: str) -> bool:
        raise OSError("no descriptor is left")

    monkeypatch.setattr(step.tokens, "want", broken)
    assert step.ask(context("u"), [65]).finals == 1
    assert step.ask(LINE, [66], finish_reason="stop").finals == 1


def test_a_second_opening_is_refused_and_ends_nothing(step: Step) -> None:
    opened = step.opened()
    assert str(step.ask(LINE, [], relay="").sent[0].error).startswith("invalid_value: request_context: ")
    assert opened.finals == 0


def test_an_opening_that_was_not_asked_for_is_refused(step: Step) -> None:
    step.tokens.there = False
    step.ask(context("u"), [65])
    assert step.ask(LINE, [66], relay="").sent[0].error is not None


def test_without_an_engine_to_ask_all_ids_come_through_triton(step: Step) -> None:
    step.tokens.there = False
    assert step.ask(context("u"), [65]).finals == 1
    assert step.ask(LINE, [66]).finals == 1
    last = step.ask(LINE, [67], finish_reason="stop")
    assert (last.finals, outputs(last.sent[0])["text_output"]) == (1, "C")


def test_an_answer_that_ends_before_the_engine_was_asked_ends_as_before(step: Step) -> None:
    step.ask(context("u"), [65])
    last = step.ask(LINE, [66], finish_reason="stop")
    assert (last.finals, outputs(last.sent[0])["text_output"]) == (1, "B")
    assert step.made._relays == {}


@pytest.mark.parametrize(("stream", "choices"), [(False, 1), (True, 2)])
def test_whole_answers_and_several_are_not_asked_for(step: Step, stream: bool, choices: int) -> None:
    given = RequestContext("u", stream, choices, (), 0, True, ()).encode(SEAL, time.monotonic())
    step.ask(given, [65], index=0)
    assert step.tokens.asked == []


def test_a_stop_closes_what_is_open(small_vocabulary: Vocabulary) -> None:
    step = Step(small_vocabulary)
    opened = step.opened()
    step.made.stop()
    until(lambda: opened.finals)
    assert step.tokens.closed
