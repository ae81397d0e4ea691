"""Whatever is put, failed, asked for and refused, in any order, on real threads: text in order, one final response, and
no question to Triton once that is on its way.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import fake_pb_utils as triton
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from kimi_k2_serving.core.errors import Cancelled
from kimi_k2_serving.engine.port import Chunk, End, EndReason, TokenUsage
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.engine.outbox import Outbox
from kimi_k2_serving.triton.engine.response import OUTPUTS

ATTEMPTS = 3
# What lets another thread have its turn, most of the time: none of what is asserted depends on it.
TURN_SECONDS = 0.0005


class Triton(triton.Sender):
    """A send waits while `reading` is clear, a question while `answering` is; the next `failing` sends raise. It counts
    what would crash Triton 24.10.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Event()
        self.reading.set()
        self.answering = threading.Event()
        self.answering.set()
        self.asked = 0
        self.failing = 0
        self.failed: list[int] = []
        self.begun_final = False
        self.crashes = 0

    def send(self, response: Any = None, flags: int = 0) -> None:
        self.crashes += self.finals or (flags and self.asked)
        self.begun_final = self.begun_final or bool(flags)
        self.reading.wait(10)
        if self.failing:
            self.failing -= 1
            self.failed.append(flags)
            raise RuntimeError("/dev/shm is full")
        super().send(response or triton.InferenceResponse(), flags)

    def is_cancelled(self) -> bool:
        self.crashes += self.begun_final
        self.asked += 1
        self.answering.wait(10)
        self.asked -= 1
        return self.cancelled

    def text(self) -> str:
        return "".join(triton.outputs(each).get("text_output", "") for each in self.sent)


class Echo:
    """An answer that is its chunks' text."""

    def feed(self, chunk: Chunk) -> tuple[Any, bool]:
        return [(OUTPUTS["text_output"], [chunk.text])], chunk.end is not None

    failure = staticmethod(tensors.failure)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.workers = ThreadPoolExecutor(2)
        self.asking = ThreadPoolExecutor(2)
        self.answers: list[Future[bool]] = []
        self.sender = Triton()
        self.broken: list[Outbox] = []
        self.outbox = Outbox(self.sender, self.workers, broken=self.broken.append)
        self.outbox.answer = Echo()  # type: ignore[assignment]
        self.expected = ""
        self.last_put = self.failed = False

    @precondition(lambda self: not self.last_put)
    @rule(text=st.text("ab", min_size=1, max_size=3), last=st.booleans())
    def put(self, text: str, last: bool) -> None:
        self.expected += text
        self.last_put = last
        self.outbox.put(Chunk((), text, TokenUsage(1), End(EndReason.STOP) if last else None))
        time.sleep(TURN_SECONDS)

    @rule()
    def fail(self) -> None:
        self.failed = True
        self.outbox.fail(Cancelled("x"))
        time.sleep(TURN_SECONDS)

    @rule()
    def confirm(self) -> None:
        self.outbox.confirm()
        time.sleep(TURN_SECONDS)

    @rule(gone=st.booleans())
    def ask(self, gone: bool) -> None:
        self.sender.cancelled = gone
        self.answers.append(self.asking.submit(self.outbox.cancelled))
        time.sleep(TURN_SECONDS)

    @rule()
    def stop_answering(self) -> None:
        self.sender.answering.clear()

    @rule()
    def answer(self) -> None:
        self.sender.answering.set()

    @rule()
    def stop_reading(self) -> None:
        self.sender.reading.clear()

    @rule()
    def read(self) -> None:
        self.sender.reading.set()

    @rule(sends=st.integers(1, ATTEMPTS + 1))
    def be_out_of_memory(self, sends: int) -> None:
        self.sender.failing = sends

    def teardown(self) -> None:
        self.sender.reading.set()
        self.sender.answering.set()
        # Receipts that are lost delay what waits for them, no more.
        self.outbox.hasten(time.monotonic() + 1)
        for each in self.answers:
            each.result(10)
        deadline = time.monotonic() + 10
        while not self.outbox.idle:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        # Once it has ended nobody is gone, whatever Triton would say.
        assert not (self.outbox.finished and self.outbox.cancelled())
        self.workers.shutdown()
        self.asking.shutdown()
        sender = self.sender
        assert sender.crashes == 0
        assert self.expected.startswith(sender.text())
        ended = self.last_put or self.failed or bool(sender.failed)
        assert self.outbox.finished == ended
        tried = sender.failed.count(triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        assert sender.finals == (ended and tried < ATTEMPTS)
        # A final response that failed may have been replaced; one that did not fail at all is nobody's fault.
        assert bool(self.broken) == (triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL - 1 in sender.failed)
        if not self.failed and not sender.failed:
            assert sender.text() == self.expected


TestLife = pytest.mark.slow(Life.TestCase)
TestLife.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
