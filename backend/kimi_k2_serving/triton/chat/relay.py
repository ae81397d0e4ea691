"""One answer whose ids come over the token socket: turns them into responses, in order, on one worker thread at a time.

All of them go out as responses of one of the ensemble's steps, which stays open until the engine's last response has
come and all of the answer's ids have: `open`, `put`, `end`. Ids that arrive during a send go out together as the next
response. After an error the rest is dropped, but the step still waits for the engine's last response and ends with
that: Triton 24.10 keeps an ensemble's request for ever if a step fails while another one runs.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.triton.reply import Reply
from kimi_k2_serving.triton.senders import Workers

# How long an answer whose end has come waits for ids that are still on their way.
LOST_SECONDS = 5.0
LOST = "the end of this answer was lost; send the request again"


@dataclass(frozen=True, slots=True)
class LastResponse:
    """The engine's last response: the number of ids in the whole answer, or an error. `reply`: where the answer's last
    response goes; None if the client has left and nobody reads it.
    """

    reply: Reply | None
    total: int = 0
    finish: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error: Exception | None = None


class Relay:
    """Calls `pass_on(relay, ids)` for each response, which may raise, and `finish(relay, ids, last)` once at the end.
    `failed(relay)` follows an error of `pass_on`: it should end the engine's run, and must not raise. Any thread may
    call the methods.
    """

    def __init__(
        self,
        line: str,
        workers: Workers,
        *,
        pass_on: Callable[[Relay, Sequence[int]], None],
        failed: Callable[[Relay], None],
        finish: Callable[[Relay, Sequence[int], LastResponse], None],
        rest: float = LOST_SECONDS,
    ) -> None:
        # The first line of the request's context.
        self.line = line
        self._workers = workers
        self._pass_on, self._failed, self._finish = pass_on, failed, finish
        self._rest = rest
        self._lock = threading.Lock()
        self._ids = array("i")
        # The number of ids that were passed on or came before `open`.
        self._passed = 0
        self._last: LastResponse | None = None
        self._error: Exception | None = None
        self._timer: threading.Timer | None = None
        self._active = self._over = False
        # Whether the last ids have come over the socket.
        self._drained = False
        # When a response of the engine model last came, by time.monotonic().
        self.heard_at = 0.0
        # The open step, from `open` to the end.
        self.reply: Reply | None = None

    @property
    def uid(self) -> str:
        return self.line.partition(" ")[0]

    def put(self, ids: Sequence[int], *, last: bool) -> None:
        """`last`: the engine's last response is on its way, and these ids go out with it."""
        with self._lock:
            self._ids.extend(ids)
            self._drained = self._drained or last
            if not last or self._last is not None:
                self._wake()

    def begin(self, ids: int) -> None:
        """Count ids that came through Triton, before `open`."""
        self._passed += ids

    def open(self, reply: Reply) -> None:
        with self._lock:
            self.reply, self.heard_at = reply, time.monotonic()
            self._wake()

    def fail(self, error: Exception) -> None:
        """Drop all further ids, and end with this error when the engine's last response has come."""
        with self._lock:
            self._error = self._error or error

    def end(self, last: LastResponse) -> bool:
        """False if the answer has ended already: then `last.reply` is still the caller's to end. Without a reply, the
        answer ends at once; a last response that has come before keeps its reply.
        """
        with self._lock:
            if self._over or (self._last is not None and last.reply is not None):
                return False
            self._last = last if self._last is None else replace(self._last, error=last.error)
            if not self._complete:
                self._wait()
            self._wake()
            return True

    def _wait(self) -> None:
        """Wait a bounded time for the ids that are still on their way."""
        self._timer = threading.Timer(self._rest, self._give_up)
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError as error:
            assert self._last is not None
            self._last = replace(self._last, error=error)

    def _give_up(self) -> None:
        with self._lock:
            if self._last is not None and not self._complete:
                self._last = replace(self._last, error=EngineLost(LOST))
                self._wake()

    @property
    def _complete(self) -> bool:
        """Whether the last response has come, and nothing more is to wait for."""
        last = self._last
        if last is None:
            return False
        whole = self._passed + len(self._ids) >= last.total
        return bool(last.error or self._error) or whole or self._drained

    def _wake(self) -> None:
        if not self._active and not self._over and self.reply is not None and (self._ids or self._complete):
            self._active = True
            self._workers.submit(self._run)

    def _run(self) -> None:
        while True:
            with self._lock:
                last = self._last if self._complete else None
                if last is None and not self._ids:
                    self._active = False
                    return
                ids, self._ids = self._ids, array("i")
                self._passed += len(ids)
                self._over = last is not None
            if last is not None:
                if self._timer is not None:
                    self._timer.cancel()
                error = self._error or last.error or (EngineLost(LOST) if self._passed < last.total else None)
                self._finish(self, ids, replace(last, error=error))
                return
            if self._error is None:
                try:
                    self._pass_on(self, ids)
                except Exception as error:
                    self.fail(error)
                    self._failed(self)
