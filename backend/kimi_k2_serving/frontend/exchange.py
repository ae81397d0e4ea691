"""Handles one HTTP request from its first byte to its last: the ASGI side of every route.

If API keys are set, every route that is not public needs one. The size of a body is checked before it is decoded. Every
request ends with one document, one complete stream, or one error in its dialect's envelope. If a client disconnects,
the work for it ends at once, even before the first token. The log contains no content.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from kimi_k2_serving.core.errors import (
    DeadlineExceeded,
    EngineLost,
    Internal,
    ServingError,
    ShuttingDown,
    Unavailable,
)
from kimi_k2_serving.core.limits import BODY_LEAST_SECONDS, BODY_RATE, JSON_BYTES, REQUEST_ID_BYTES
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.frontend import sse
from kimi_k2_serving.frontend.connections import PROVEN
from kimi_k2_serving.frontend.errors import BodyTooLarge, MethodNotAllowed, NotJson
from kimi_k2_serving.frontend.keys import ANONYMOUS
from kimi_k2_serving.frontend.service import Call, Record, Service

access = logging.getLogger("kimi_k2_serving.frontend.access")
logger = logging.getLogger(__name__)

GONE = 499
NOTICES = "x-kimi-k2-notices"
SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


class Envelope(Protocol):
    """A dialect's form of errors (as a document, and as a frame of a stream) and its keep-alive frame, `idle`."""

    idle: bytes

    def error(self, error: ServingError, request_id: str) -> Json: ...

    def frame(self, error: ServingError, request_id: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class JsonDocument:
    body: Json


@dataclass(frozen=True, slots=True)
class LargeDocument:
    """A document of any size, encoded and sent in pieces. `body` is a value for `sse.encode_pieces`."""

    body: Any


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text of any media type, with additional `headers`."""

    body: bytes
    media_type: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class EventStream:
    """`frames` yields server-sent events. It is always closed."""

    frames: AsyncIterator[bytes]


Reply = JsonDocument | LargeDocument | PlainText | EventStream
Handler = Callable[[Call], Awaitable[Reply]]


class ClientGone(Exception):
    """The client closed the connection or stopped reading from it."""


@dataclass(slots=True, eq=False)
class Sender:
    """Sends one response. If the client accepts nothing for too long, the timer abandons it and cancels `work`."""

    send: Send
    headers: dict[str, str]
    record: Record
    last_sent: float
    streaming: bool = False
    # The frame that keeps a stream alive; b"" as long as the response is no stream.
    idle: bytes = b""
    work: asyncio.Task[Any] | None = None
    sending_since: float | None = None
    abandoned: bool = False
    beat: asyncio.Task[None] | None = None

    def abandon(self) -> None:
        self.abandoned = True
        if self.work is not None:
            self.work.cancel()

    def keep_alive(self) -> None:
        if self.idle and (self.beat is None or self.beat.done()):
            self.beat = asyncio.ensure_future(self._keep_alive())

    async def _keep_alive(self) -> None:
        # The stream may have ended since this task was started.
        if self.idle:
            await self.stream(self.idle)

    def close(self) -> None:
        if self.beat is not None:
            self.beat.cancel()

    async def document(self, status: int, body: bytes, media_type: str) -> None:
        await self._start(status, {"content-type": media_type, "content-length": str(len(body))})
        await self._body(body, more=False)

    async def answer(self, pieces: Sequence[bytes]) -> None:
        await self._start(200, {"content-type": "application/json", "content-length": str(sum(map(len, pieces)))})
        for piece in pieces:
            await self._body(piece, more=True)
        await self.end()

    async def stream(self, piece: bytes) -> None:
        if not self.streaming:
            self.streaming = True
            # x-accel-buffering: otherwise nginx buffers the events.
            await self._start(
                200,
                {
                    "content-type": "text/event-stream; charset=utf-8",
                    "cache-control": "no-cache",
                    "x-accel-buffering": "no",
                },
            )
        await self._body(piece, more=True)

    async def end(self) -> None:
        await self._body(b"", more=False)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.record.status = status
        if self.record.notices:
            self.headers[NOTICES] = "; ".join(self.record.notices)
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in {**headers, **self.headers}.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _send(self, message: Message) -> None:
        self.sending_since = time.monotonic()
        try:
            await self.send(message)
        finally:
            self.sending_since, self.last_sent = None, time.monotonic()


class Endpoint:
    """The ASGI application of one route. `route` names it in the log and the metrics.

    `public`: no key is needed. `reads`: a POST has a JSON body. `polled`: too frequent for the log's level INFO.
    """

    def __init__(
        self,
        service: Service,
        route: str,
        envelope: Envelope,
        methods: Mapping[str, Handler],
        *,
        public: bool = False,
        reads: bool = True,
        polled: bool = False,
    ) -> None:
        self._service = service
        self.route = route
        self.public = public
        self.methods = dict(methods)
        self._reads = reads
        self._polled = polled
        self._envelope = envelope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = _request_id(headers.get("x-request-id", "")) or f"req_{service.new_uid()}"
        record = Record(request_id, self.route, scope["method"], service.clock())
        sender = Sender(send, {"x-request-id": request_id, "request-id": request_id}, record, time.monotonic())
        service.timer.add(sender)
        try:
            await self._exchange(scope, headers, receive, sender)
        except ClientGone:
            self._gone(record)
        except ServingError as error:
            await self._refuse(sender, error)
        except asyncio.CancelledError:
            if sender.abandoned:
                self._gone(record)
                return
            if not _cancelled():
                # The work was cancelled, but not by code here: gRPC cancels a call when its channel closes.
                await self._refuse(sender, EngineLost("the answer broke off before its end; send the request again"))
                return
            # The grace period is over: clients that still wait get this error.
            await self._refuse(sender, ShuttingDown("the server is stopping; send the request again"))
            raise
        except Exception:
            logger.exception("request %s failed", request_id, extra={"request": request_id})
            await self._refuse(sender, Internal("an internal error; see the server's log"))
        finally:
            service.timer.remove(sender)
            sender.close()
            self._report(record)

    def _gone(self, record: Record) -> None:
        record.status = GONE
        self._service.metrics.disconnects.inc()

    async def _exchange(self, scope: Scope, headers: dict[str, str], receive: Receive, sender: Sender) -> None:
        service = self._service
        if service.hosts is not None:
            service.hosts.check(scope["headers"])
        key = service.keys.owner(headers) if not self.public else None
        sender.record.key = key.name if key else ""
        if key is not None and PROVEN in scope:
            scope[PROVEN]()
        handler = self.methods.get(scope["method"])
        if handler is None:
            sender.headers["allow"] = ", ".join(sorted(self.methods))
            raise MethodNotAllowed(f"this path accepts only {', '.join(sorted(self.methods))}")
        call = Call(b"", dict(scope.get("path_params", {})), key or ANONYMOUS, sender.record)
        if self.public or scope["method"] != "POST" or not self._reads:
            # No body is read here. If the client sends one, close the connection instead of reading past it.
            if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
                sender.headers["connection"] = "close"
            await self._answer(handler, call, sender)
            return
        # Admit before the body is read, so that a key never has more bodies in memory than requests in flight.
        with service.admitted(call.key):
            _check_media_type(headers)
            body = await _body(headers, receive, service.policy.body_seconds)
            await _unless_gone(receive, self._answer(handler, replace(call, body=body), sender))

    async def _answer(self, handler: Handler, call: Call, sender: Sender) -> None:
        sender.work = asyncio.current_task()
        match await handler(call):
            case JsonDocument(body):
                await sender.document(200, sse.encode_json(body), "application/json")
            case LargeDocument(body):
                await sender.answer([piece async for piece in sse.gather_pieces(sse.encode_pieces(body))])
            case PlainText(text, media_type, headers):
                sender.headers.update(headers)
                await sender.document(200, text, media_type)
            case EventStream(frames):
                sender.idle = self._envelope.idle
                async with aclosing(frames):  # type: ignore[type-var]
                    async for piece in frames:
                        await sender.stream(piece)
                sender.idle = b""
                await sender.end()

    async def _refuse(self, sender: Sender, error: ServingError) -> None:
        """Send the error in the dialect's envelope, as a frame if a stream has begun."""
        record = sender.record
        record.error = error.code
        sender.idle = b""
        sender.work = asyncio.current_task()
        try:
            if sender.streaming:
                await sender.stream(self._envelope.frame(error, record.request_id))
                await sender.end()
            elif not record.status:
                if isinstance(error, Unavailable):
                    sender.headers["retry-after"] = str(max(1, round(error.retry_after)))
                if error.http == 401:
                    sender.headers["www-authenticate"] = "Bearer"
                document = sse.encode_json(self._envelope.error(error, record.request_id))
                await sender.document(error.http, document, "application/json")
        except ClientGone:
            record.status = GONE
        except asyncio.CancelledError:
            if not sender.abandoned:
                raise
            record.status = GONE

    def _report(self, record: Record) -> None:
        metrics, seconds = self._service.metrics, self._service.clock() - record.started
        metrics.requests.labels(record.route, str(record.status)).inc()
        metrics.duration.labels(record.route).observe(seconds)
        level = logging.DEBUG if self._polled else logging.INFO
        if not access.isEnabledFor(level):
            return
        line: dict[str, Any] = {
            "request": record.request_id,
            "key": record.key,
            "method": record.method if record.method in self.methods else "other",
            "route": record.route,
            "status": record.status,
            "seconds": round(seconds, 4),
        }
        if record.first_token is not None:
            line["first_token_seconds"] = round(record.first_token, 4)
            line["prompt_tokens"] = record.prompt_tokens
            line["cached_tokens"] = record.cached_tokens
            line["completion_tokens"] = record.completion_tokens
        if record.generations:
            line["generations"] = record.generations
        if record.notices:
            line["notices"] = list(record.notices)
        if record.error:
            line["error"] = record.error
        summary = f"{line['method']} {record.route} {record.status}"
        access.log(level, "%s", json.dumps(line), extra={"fields": line, "summary": summary})


def _request_id(given: str) -> str:
    """The client's id if it is safe in a header and in the log, else ""."""
    return given if 0 < len(given) <= REQUEST_ID_BYTES.value and SAFE.issuperset(given) else ""


async def _body(headers: Mapping[str, str], receive: Receive, seconds: float) -> bytes:
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise NotJson("compressed bodies are not accepted; send plain JSON", field="content-encoding")
    length = headers.get("content-length", "")
    if length.isdecimal():
        _bound(int(length) if len(length) < 20 else JSON_BYTES.value + 1)
        # A small body has less time, because the request already counts as in flight.
        seconds = min(seconds, BODY_LEAST_SECONDS.value + int(length) / BODY_RATE.value)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                _bound(size)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        raise DeadlineExceeded(f"the body did not arrive within {seconds:g} s", field="body") from None


def _bound(size: int) -> None:
    if size > JSON_BYTES.value:
        raise BodyTooLarge(f"must have at most {JSON_BYTES.value} bytes ({JSON_BYTES.name})", field="body")


def _check_media_type(headers: Mapping[str, str]) -> None:
    """Accept only JSON: browsers let any page send other types to any server without a CORS preflight."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise NotJson("send `content-type: application/json`", field="content-type")


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end. If the client disconnects first, cancel it and raise ClientGone."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


def _cancelled() -> bool:
    """Whether somebody has cancelled the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
