"""One final flag per request, and no question about a request while it gets that."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fake_pb_utils as triton
import pytest
from held_work import Queue

from kimi_k2_serving.core.errors import Cancelled
from kimi_k2_serving.engine.port import Chunk, End, EndReason, TokenUsage
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.engine.outbox import AHEAD, Outbox
from kimi_k2_serving.triton.engine.response import OUTPUTS


class FreedSender(triton.Sender):
    """Like Triton's 24.10: it must not be asked for a cancellation while or after it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.asking = 0
        self.clashes = 0

    def send(self, response: Any, flags: int = 0) -> None:
        time.sleep(0.001)
        self.clashes += self.asking > 0
        super().send(response, flags)

    def is_cancelled(self) -> bool:
        self.asking += 1
        time.sleep(0.002)
        self.clashes += self.finals
        self.asking -= 1
        return False


@pytest.mark.slow
def test_a_cancellation_is_never_asked_for_while_the_final_response_is_sent_or_after_it() -> None:
    with ThreadPoolExecutor(2) as workers:
        for _ in range(100):
            sender = FreedSender()
            outbox = Outbox(sender, workers, broken=lambda _: None)
            over = threading.Event()

            def ask(outbox: Outbox = outbox, over: threading.Event = over) -> None:
                while not over.is_set():
                    outbox.cancelled()

            asker = threading.Thread(target=ask)
            asker.start()
            outbox.fail(Cancelled("x"))
            while not outbox.finished or not outbox.idle:
                time.sleep(0.0005)
            over.set()
            asker.join()
            assert (sender.finals, sender.clashes) == (1, 0)


def test_after_its_end_a_request_is_not_cancelled() -> None:
    with ThreadPoolExecutor(1) as workers:
        sender = triton.Sender()
        outbox = Outbox(sender, workers, broken=lambda _: None)
        outbox.fail(Cancelled("x"))
        while not outbox.idle:
            time.sleep(0.001)
        sender.cancelled = True
        assert not outbox.cancelled()


@pytest.mark.parametrize(("failures", "finals"), [(1, 1), (2, 1), (99, 0)])
def test_a_final_response_that_fails_is_tried_again_and_triton_s_sender_let_go(failures: int, finals: int) -> None:
    with ThreadPoolExecutor(1) as workers:
        sender = triton.FailingSender(failures)
        outbox = Outbox(sender, workers, broken=lambda _: None)
        outbox.fail(Cancelled("x"))
        while not outbox.idle:
            time.sleep(0.001)
        assert (outbox.finished, sender.finals) == (True, finals)
        assert sys.getrefcount(sender) == 2


class Ids:
    """An answer that is its chunks' ids."""

    def feed(self, chunk: Chunk) -> tuple[Any, bool]:
        return [(OUTPUTS["output_ids"], chunk.ids)], chunk.end is not None

    failure = staticmethod(tensors.failure)


def held(*, confirms: bool) -> tuple[Outbox, Queue, triton.Sender]:
    """An outbox whose first AHEAD + 1 responses of one id were put, and as many sent as may be."""
    sender, queue = triton.Sender(), Queue()
    outbox = Outbox(sender, queue, broken=lambda _: None)
    outbox.answer = Ids()  # type: ignore[assignment]
    if confirms:
        outbox.confirm()
    for number in range(AHEAD + 1):
        outbox.put(chunk(number))
        queue.run()
    return outbox, queue, sender


def chunk(*ids: int, last: bool = False) -> Chunk:
    return Chunk(ids, "", TokenUsage(1), End(EndReason.STOP) if last else None)


def sent(sender: triton.Sender) -> list[list[int]]:
    return [each.output_tensors[0].as_numpy().tolist() for each in sender.sent]


def test_without_receipts_no_response_waits() -> None:
    _, _, sender = held(confirms=False)
    assert sent(sender) == [[number] for number in range(AHEAD + 1)]


def test_ids_wait_for_the_next_step_and_then_go_together() -> None:
    outbox, queue, sender = held(confirms=True)
    first = [[number] for number in range(AHEAD)]
    assert sent(sender) == first
    outbox.put(chunk(10, 11))
    queue.run()
    assert (sent(sender), outbox.idle) == (first, True)
    outbox.confirm()
    queue.run()
    assert sent(sender) == [*first, [AHEAD, 10, 11]]


def test_the_last_ids_and_errors_wait_for_nothing() -> None:
    outbox, queue, sender = held(confirms=True)
    outbox.put(chunk(10, last=True))
    queue.run()
    assert (sent(sender)[-1], sender.finals) == ([AHEAD, 10], 1)
    outbox, queue, sender = held(confirms=True)
    outbox.fail(Cancelled("x"))
    queue.run()
    assert sender.finals == 1


def test_a_lost_receipt_delays_a_moment_and_a_surplus_one_changes_nothing() -> None:
    outbox, queue, sender = held(confirms=True)
    outbox.hasten(time.monotonic() - 60)
    queue.run()
    assert len(sender.sent) == AHEAD
    outbox.hasten(time.monotonic() + 1)
    queue.run()
    assert sent(sender)[-1] == [AHEAD]
    for _ in range(9):
        outbox.confirm()
    for number in range(AHEAD + 1):
        outbox.put(chunk(number))
        queue.run()
    assert len(sender.sent) == 2 * AHEAD + 1
