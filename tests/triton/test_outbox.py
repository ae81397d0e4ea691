"""One final flag per request, and no question about a request while it gets that."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fake_pb_utils as triton
import pytest

from kimi_k2_serving.core.errors import Cancelled
from kimi_k2_serving.triton.engine.outbox import Outbox


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
