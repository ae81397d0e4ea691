"""An answer whose ids come past Triton: all of them, in order, one ending, whatever comes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from fake_pb_utils import Request
from held_work import Queue
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.triton.chat.relay import LastResponse, Relay
from kimi_k2_serving.triton.reply import Reply
from kimi_k2_serving.triton.senders import Senders


class Answer:
    def __init__(self, *, fails: bool = False, rest: float = 30.0) -> None:
        self.queue = Queue()
        self.passed: list[list[int]] = []
        self.ends: list[tuple[list[int], LastResponse]] = []
        self.failures = 0
        self._fails = fails
        self.relay = Relay(
            "u tag", self.queue, pass_on=self._pass_on, failed=self._failed, finish=self._finish, rest=rest
        )

    def _pass_on(self, relay: Relay, ids: Sequence[int]) -> None:
        if self._fails:
            raise ValueError("no token")
        self.passed.append(list(ids))

    def _failed(self, relay: Relay) -> None:
        self.failures += 1

    def _finish(self, relay: Relay, ids: Sequence[int], last: LastResponse) -> None:
        self.ends.append((list(ids), last))

    @property
    def ids(self) -> list[int]:
        return [each for part in (*self.passed, *(ids for ids, _ in self.ends)) for each in part]


def reply() -> Reply:
    return Reply(Request({}))


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=6), st.data())
def test_every_order_gives_all_ids_once_and_one_ending(parts: list[list[int]], data: st.DataObject) -> None:
    answer = Answer()
    answer.relay.begin(2)
    last = LastResponse(reply(), 2 + sum(map(len, parts)))
    # The engine's two responses keep their order, anywhere among the ids and among the turns of a worker.
    opened, ended = sorted(data.draw(st.tuples(*[st.integers(0, len(parts))] * 2)))
    for number in range(len(parts) + 1):
        if number == opened:
            answer.relay.open(reply())
        if number == ended:
            answer.relay.end(last)
        if number < len(parts):
            answer.relay.put(parts[number], last=number == len(parts) - 1)
        if data.draw(st.booleans()):
            answer.queue.run()
    answer.queue.run()
    assert answer.ids == [each for part in parts for each in part]
    assert [each.error for _, each in answer.ends] == [None]


def test_ids_that_arrive_during_a_send_go_out_together() -> None:
    answer = Answer()
    answer.relay.open(reply())
    answer.relay.put([1], last=False)
    answer.relay.put([2], last=False)
    answer.queue.run()
    answer.relay.put([3], last=False)
    answer.queue.run()
    assert answer.passed == [[1, 2], [3]]


def test_the_last_ids_go_out_with_the_last_response() -> None:
    answer = Answer()
    answer.relay.open(reply())
    answer.relay.put([1], last=True)
    assert not answer.queue.work
    answer.relay.end(LastResponse(reply(), 1, "stop"))
    answer.queue.run()
    assert (answer.passed, answer.ends[0][0]) == ([], [1])


def test_after_a_failure_the_rest_is_dropped_and_the_end_has_the_error() -> None:
    answer = Answer(fails=True)
    answer.relay.open(reply())
    for number in range(3):
        answer.relay.put([number], last=False)
        answer.queue.run()
    assert (answer.failures, answer.ends) == (1, [])
    answer.relay.end(LastResponse(reply(), 99, "abort"))
    answer.queue.run()
    assert isinstance(answer.ends[0][1].error, ValueError)


def test_ids_that_never_come_are_a_lost_answer() -> None:
    answer = Answer(rest=0.05)
    answer.relay.open(reply())
    answer.relay.end(LastResponse(reply(), 3, "stop"))
    answer.queue.run()
    assert answer.ends == []
    deadline = time.monotonic() + 30
    while not answer.queue.work:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    answer.queue.run()
    assert isinstance(answer.ends[0][1].error, EngineLost)


def test_a_second_end_is_refused_and_a_stop_keeps_the_reply_that_waits() -> None:
    answer, waiting = Answer(), reply()
    answer.relay.open(reply())
    assert answer.relay.end(LastResponse(waiting, 9, "stop"))
    assert not answer.relay.end(LastResponse(reply(), 9, "stop"))
    assert answer.relay.end(LastResponse(None, error=EngineLost("stopping")))
    answer.queue.run()
    ((_, last),) = answer.ends
    assert (last.reply, last.error is None) == (waiting, False)
    assert not answer.relay.end(LastResponse(reply(), 9, "stop"))


def test_an_end_whose_ids_can_not_come_any_more_fails_at_once() -> None:
    answer = Answer()
    answer.relay.open(reply())
    answer.relay.put([1], last=True)
    answer.relay.end(LastResponse(reply(), 5, "stop"))
    answer.queue.run()
    assert isinstance(answer.ends[0][1].error, EngineLost)


def test_an_answer_without_a_reader_ends_at_once() -> None:
    answer = Answer()
    answer.relay.open(reply())
    answer.relay.put([1], last=False)
    answer.relay.end(LastResponse(None, error=EngineLost("x")))
    answer.queue.run()
    assert answer.ends[0][1].reply is None


@pytest.mark.slow
def test_many_threads_lose_nothing() -> None:
    senders, answers = Senders(4, "test"), [Answer() for _ in range(50)]
    for each in answers:
        each.relay._workers = senders
    threads = [threading.Thread(target=feed, args=(each,)) for each in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 30
    while not all(each.ends for each in answers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    senders.shutdown()
    assert all(each.ids == list(range(300)) for each in answers)


def feed(answer: Answer) -> None:
    for number in range(300):
        answer.relay.put([number], last=number == 299)
        if number == 100:
            answer.relay.open(reply())
    answer.relay.end(LastResponse(reply(), 300, "stop"))
