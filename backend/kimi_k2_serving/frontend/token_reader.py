"""Reads token ids directly from an engine on this machine, not through Triton: the other end of `engine/token_socket`.

Each frontend process has one connection. The engine's first message is a claim. The ids of a request that names the
claim are sent here. Without a connection (no engine yet, or a restart) there is no claim, and ids come through Triton.
`Inbox` collects what has arrived for one generation, from here and from Triton, until its reader takes it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from kimi_k2_serving.core.errors import EngineLost, Internal, ServingError
from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.flight import token_logprobs
from kimi_k2_serving.engine.port import Chunk, End, TokenLogprob, TokenUsage
from kimi_k2_serving.engine.token_socket import peer_user

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
# How long an answer whose end has come through Triton waits for the next ids that are still on their way here.
REST_SECONDS = 5.0
LOST = "the end of this answer was lost; send the request again"


class Inbox:
    """Create it on the event loop. One reader calls `take`, until a chunk has `end`."""

    def __init__(self, *, rest: float = REST_SECONDS) -> None:
        self._loop = asyncio.get_running_loop()
        self._rest = rest
        self._ids = array("i")
        self._logprobs: list[TokenLogprob] = []
        self._prompt_logprobs: tuple[TokenLogprob, ...] = ()
        # The number of prompt tokens from the cache, as far as known.
        self.cached = 0
        # The number of ids that have arrived, and the total number once it is known.
        self.arrived = 0
        self._total: int | None = None
        self._end: End | None = None
        self._error: ServingError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def put(
        self,
        ids: Sequence[int],
        logprobs: Sequence[TokenLogprob] = (),
        cached: int = 0,
        prompt_logprobs: tuple[TokenLogprob, ...] = (),
    ) -> None:
        self._ids.extend(ids)
        self._prompt_logprobs += prompt_logprobs
        self._logprobs.extend(logprobs)
        self.cached = max(self.cached, cached)
        self.arrived += len(ids)
        self._wake()

    def end(self, end: End, total: int) -> None:
        """Note that the generation has ended, with `total` ids. It fails if the missing ids do not arrive: none comes
        for `rest` seconds, or the connection ends.
        """
        self._end, self._total = end, total
        if not self._complete:
            self._timer = self._loop.call_later(self._rest, self._look, self.arrived)
        self._wake()

    def broken(self) -> None:
        """Note that the connection has ended: nothing more comes from it."""
        if self._total is not None and not self._complete:
            self.fail(EngineLost(LOST))

    def _look(self, before: int) -> None:
        if self._complete:
            return
        if self.arrived == before:
            self.fail(EngineLost(LOST))
        else:
            self._timer = self._loop.call_later(self._rest, self._look, self.arrived)

    def fail(self, error: ServingError) -> None:
        self._error = error
        self._wake()

    async def take(self) -> Chunk:
        """Wait for new output and return all of it. Raises the error of `fail` after all output that came before it."""
        while not (self._ids or self._complete):
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
        ids, logprobs, end = tuple(self._ids), tuple(self._logprobs), self._end if self._complete else None
        self._ids, self._logprobs = array("i"), []
        prompt, self._prompt_logprobs = self._prompt_logprobs, ()
        return Chunk(ids, "", TokenUsage(completion=len(ids), cached=self.cached), end, logprobs, prompt)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def failed(self) -> bool:
        return self._error is not None

    @property
    def _complete(self) -> bool:
        return self._total is not None and self.arrived >= self._total

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class TokenReader:
    """`path` is the engine's socket. Await `open` on the event loop that will use the object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._claim = ""
        self._connection: TokenConnection | None = None
        self._inboxes: dict[str, Inbox] = {}
        self._connecting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and connect again whenever the connection ends."""
        self._connecting = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)

    def expect(self, uid: str, inbox: Inbox) -> str:
        """The claim to send with the request, whose ids then go to `inbox`; "" if there is no connection."""
        if self._claim:
            self._inboxes[uid] = inbox
        return self._claim

    def forget(self, uid: str, *, ended: bool) -> bool:
        """Stop reading the request's ids. If the request has not ended, ask the engine to end it. Returns whether the
        engine was asked.
        """
        expected = self._inboxes.pop(uid, None) is not None
        if not expected or ended or self._connection is None:
            return False
        self._connection.write(wire.frame(wire.Abort(uid)))
        return True

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, connection = await loop.create_unix_connection(lambda: TokenConnection(self), str(self._path))
            except OSError:
                # No engine listens: it has not started yet, or starts again.
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._connection = connection
            try:
                await connection.ended
            finally:
                self._claim, self._connection = "", None
                connection.close()
                for inbox in self._inboxes.values():
                    inbox.broken()
            logger.info("the engine's token socket has closed; ids come through Triton until it is back")
            await asyncio.sleep(RETRY_SECONDS)

    def claimed(self, token: str) -> None:
        self._claim = token

    def received(self, output: wire.Output) -> None:
        """Pass on an output. It is dropped if its request is not expected any more."""
        inbox = self._inboxes.get(output.uid)
        if inbox is not None:
            logprobs = token_logprobs(output.logprobs) if output.logprobs else ()
            prompt = token_logprobs(output.prompt_logprobs) if output.prompt_logprobs else ()
            inbox.put(output.ids, logprobs, output.cached_tokens, prompt)

    def failed(self, uid: str) -> None:
        inbox = self._inboxes.get(uid)
        if inbox is not None:
            inbox.fail(Internal("the engine's answer could not be read"))


class TokenConnection(asyncio.Protocol):
    """Resolves `ended` when it has ended."""

    def __init__(self, owner: TokenReader) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._frames = wire.FrameReader(wire.ToReader)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are no instances of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if peer_user(transport.get_extra_info("socket")) != os.geteuid():
            logger.error("another user listens on the engine's token socket; it is not used")
            transport.close()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            messages = self._frames.feed(data)
        except ValueError:
            logger.error("the engine's token socket sends something else")
            self._transport.close()
            return
        for message in messages:
            match message:
                case wire.Output():
                    self._owner.received(message)
                case wire.Claim(token=token):
                    self._owner.claimed(token)
                case wire.Unreadable(uid=uid):
                    logger.error("a message on the engine's token socket could not be read")
                    self._owner.failed(uid)
                case _:
                    pass

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
