"""Sends one request's responses to Triton: in order, on one worker thread at a time, with the final flag exactly once.

Chunks that arrive during a send go out together as the next response, so a slow reader gets fewer, larger responses. If
the next step of an ensemble confirms responses (`confirm`), chunks that arrive before it has taken the last one also go
out together. Otherwise its backlog would be in Triton, where every token stays a response of its own.

`put` and `fail` never block; an error replaces the chunks that are not sent yet. Two rules keep the stub alive:

- The sender is released with the final response: one that the garbage collector or the interpreter's exit frees crashes
  the stub.
- `is_cancelled()` must not overlap the final `send()`: Triton 24.10 then reads memory that it has freed, and crashes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.engine.port import Chunk, merge_choices
from kimi_k2_serving.triton import journal, tensors
from kimi_k2_serving.triton.engine.response import ResponseWriter
from kimi_k2_serving.triton.reply import end, internal
from kimi_k2_serving.triton.senders import Workers

# At most this many responses of one request wait for the next step of an ensemble. With two, first tokens wait twice as
# long.
AHEAD = 1


class Outbox:
    """Calls `broken(self)` on a worker thread when a response could not be made or sent, after ending the request."""

    def __init__(self, sender: Any, workers: Workers, *, broken: Callable[[Outbox], None]) -> None:
        self._sender: Any = sender
        self._workers = workers
        self._broken = broken
        self._lock = threading.Lock()
        # Held during `is_cancelled()` and during the final `send()`.
        self._asking = threading.Lock()
        self._chunks: list[Chunk] = []
        self._error: ServingError | None = None
        self._active = False
        self._sending_since: float | None = None
        # Responses that the next step has not taken. Counted only if it confirms any.
        self._confirms = False
        self._untaken = 0
        self._sent = 0.0
        # Set before the first `put`.
        self.answer: ResponseWriter | None = None
        # Whether the final flag was sent.
        self.finished = False

    @property
    def idle(self) -> bool:
        return not self._active

    def put(self, chunk: Chunk) -> None:
        with self._lock:
            self._chunks.append(chunk)
            self._wake()

    def confirm(self) -> float:
        """Note that the next step has taken a response. Returns the time at which the last response was sent."""
        with self._lock:
            self._confirms = True
            self._untaken = max(self._untaken - 1, 0)
            self._wake()
            return self._sent

    def hasten(self, moment: float) -> None:
        """Stop waiting for the receipt of a response that was sent before `moment`: it is lost."""
        with self._lock:
            if self._untaken and self._sent < moment:
                self._untaken = 0
                self._wake()

    def fail(self, error: ServingError) -> None:
        with self._lock:
            self._chunks.clear()
            self._error = error
            self._wake()

    def stalled_seconds(self) -> float:
        """How long the current send has taken so far; 0 if there is none."""
        since = self._sending_since
        return 0.0 if since is None else time.monotonic() - since

    def cancelled(self) -> bool:
        """Whether Triton says that the client is gone. Blocks for one call to Triton's process. False once the final
        response is being sent.
        """
        if not self._asking.acquire(blocking=False):
            return False
        try:
            return not self.finished and bool(self._sender.is_cancelled())
        finally:
            self._asking.release()

    @property
    def _due(self) -> bool:
        """Whether there is something to send now. The last response never waits."""
        if self._error is not None:
            return True
        held = self._confirms and self._untaken >= AHEAD
        return bool(self._chunks) and (not held or self._chunks[-1].last)

    def _wake(self) -> None:
        if not self._active and self._due:
            self._active = True
            self._workers.submit(self._run)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._active = False
                    return
                chunks, error = self._chunks, self._error
                self._chunks, self._error = [], None
            try:
                self._pass_on(chunks, error)
            except Exception as failure:
                journal.error(f"sending a response failed: {type(failure).__name__}: {failure}")
                self._give_up()

    def _pass_on(self, chunks: list[Chunk], error: ServingError | None) -> None:
        if self.finished:
            return
        if error is not None:
            self._send(self._failure(error), last=True)
            return
        assert self.answer is not None
        for chunk in merge_choices(chunks):
            outputs, last = self.answer.feed(chunk)
            if outputs:
                self._send(tensors.response(outputs), last=last)

    def _failure(self, error: ServingError) -> Any:
        return tensors.failure(error) if self.answer is None else self.answer.failure(error)

    def _send(self, response: Any, *, last: bool) -> None:
        self._sending_since = time.monotonic()
        try:
            if last:
                with self._asking:
                    self.finished = True
                    sender, self._sender = self._sender, None
                    end(sender, response)
            else:
                with self._lock:
                    self._untaken, self._sent = self._untaken + 1, self._sending_since
                self._sender.send(response)
        finally:
            self._sending_since = None

    def _give_up(self) -> None:
        try:
            if not self.finished:
                self._send(self._failure(internal()), last=True)
        except Exception as failure:
            journal.error(f"ending a request failed: {type(failure).__name__}: {failure}")
        self._broken(self)
