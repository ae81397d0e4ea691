"""Calls an engine model over Triton's gRPC, with one bidirectional stream for each generation.

With an engine on this machine, ids come over its token socket, and only the end and errors come through Triton. Error
texts of gRPC and of Triton itself never reach a client. Tensors: docs/tensors.md.

Closing the iterator ends the request in every phase. After its last response, the call is read to its end: Triton 24.10
may never free a request whose call is cancelled at that moment, and a stop then waits until Triton's exit timeout. An
engine that sends ids over its token socket is also told there, and its last response ends the call. In all other phases
the call is cancelled, which the engine model notices.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from array import array
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import msgspec
from tritonclient.grpc import service_pb2, service_pb2_grpc

from kimi_k2_serving.core.errors import EngineLost, EngineUnavailable, Internal, Overloaded, ServingError, Unavailable
from kimi_k2_serving.engine.port import Chunk, End, EndReason, Generation, TokenLogprob
from kimi_k2_serving.frontend import tracing
from kimi_k2_serving.frontend.errors import from_engine
from kimi_k2_serving.frontend.port import Health
from kimi_k2_serving.frontend.token_reader import Inbox, TokenReader

logger = logging.getLogger(__name__)

MODEL = "kimi_k2_engine"
# Only what `read_response` reads, because each output tensor costs time for every token. Text is decoded here.
OUTPUTS = ("output_ids", "finish_reason", "stop_reason", "num_cached_tokens", "num_output_tokens", "logprobs")
# Timeout of a health check, which runs for every probe.
HEALTH_SECONDS = 2.0
# The engine model sends a heartbeat this often while a stream is silent. A stream that is silent for BEATS heartbeats
# (two, and a margin for the network) ends: a machine that lost power closes no connection.
BEAT_SECONDS = 15.0
BEATS = 2.3
# How long a call may take to end by itself, after the last response or after the engine was told to end the request.
CLOSE_SECONDS = 2.0
CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # For whole answers, which have no heartbeats. Triton treats pings less than five minutes apart as an attack.
    ("grpc.keepalive_time_ms", 310_000),
    # The second, a minute by default, is gRPC's timeout of every ping. It is the one that ends the call.
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # No limit: by default gRPC stops after two pings until other data is sent, and a whole answer sends none.
    ("grpc.http2.max_pings_without_data", 0),
)


class TritonEngine:
    """`address` is host:port. `tokens`: the token socket of an engine on this machine. Await `open` before any other
    method, on the event loop that will use the object.
    """

    def __init__(
        self, address: str, *, model: str = MODEL, beat: float = BEAT_SECONDS, tokens: TokenReader | None = None
    ) -> None:
        self._address = address
        self._model = model
        self._beat = beat
        self._tokens = tokens
        self._listening: set[asyncio.Task[None]] = set()
        self._channel: Any = None
        self._stub: Any = None

    async def open(self) -> None:
        self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        if self._tokens is not None:
            await self._tokens.open()

    async def close(self) -> None:
        if self._tokens is not None:
            await self._tokens.close()
        if self._channel is not None:
            await self._channel.close()

    async def health(self) -> Health:
        """Send an empty request: the engine model checks that its engine is ready before it refuses the request.

        Before release 26.03 Triton's own readiness stays true while an engine restarts.
        """
        health = Health(False, "the engine model does not answer")
        call = self._stub.ModelStreamInfer(timeout=HEALTH_SECONDS)
        try:
            await call.write(empty_request(self._model))
            await call.done_writing()
            async for response in call:
                error = from_engine(response.error_message)
                down = isinstance(error, Unavailable | Internal) and not isinstance(error, Overloaded)
                health = Health(False, error.detail) if down else Health(True)
        except grpc.RpcError:
            return Health(False, "Triton does not answer")
        finally:
            call.cancel()
        return health

    async def generate(self, run: Generation) -> AsyncIterator[Chunk]:
        inbox = Inbox()
        claim = self._tokens.expect(run.uid, inbox) if self._tokens is not None else ""
        listening = asyncio.create_task(self._listen(replace(run, reader=claim), inbox))
        self._listening.add(listening)
        listening.add_done_callback(self._listening.discard)
        ended = False
        try:
            while not ended:
                chunk = await inbox.take()
                ended = chunk.end is not None
                yield chunk
        finally:
            inbox.close()
            over = ended or inbox.failed
            told = self._tokens is not None and self._tokens.forget(run.uid, ended=over)
            # Before its first ids a request may still wait in the engine model, which hears only of the call's end.
            if over or (told and inbox.arrived):
                timer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, listening.cancel)
                listening.add_done_callback(lambda _: timer.cancel())
            else:
                listening.cancel()

    async def _listen(self, run: Generation, inbox: Inbox) -> None:
        """Put everything that Triton says about this generation into `inbox`. Raises only when it is cancelled."""
        over = False
        call = self._stub.ModelStreamInfer()
        silence = SilenceTimeout(call, self._beat * BEATS if run.stream else None)
        try:
            await call.write(request(run, model=self._model, beat=self._beat))
            await call.done_writing()
            async for response in call:
                silence.ends()
                if over:
                    continue
                if response.error_message:
                    over = True
                    inbox.fail(from_engine(response.error_message))
                else:
                    over = read_response(response.infer_response, inbox)
                if not over:
                    silence.begins()
            if not over:
                inbox.fail(EngineLost("the answer broke off before its end; send the request again"))
        except grpc.RpcError as error:
            if not over:
                inbox.fail(_broken(error, began=inbox.arrived > 0))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The call was cancelled, not this task: by SilenceTimeout, or because the channel closed.
            inbox.fail(EngineLost("the connection to the engine broke; send the request again"))
        except Exception as error:
            logger.exception("reading the engine's answer failed")
            inbox.fail(error if isinstance(error, ServingError) else Internal("the engine's answer could not be read"))
        finally:
            silence.close()
            call.cancel()


class SilenceTimeout:
    """Cancels a call that sends nothing for `seconds` while its reader waits. With None it never cancels."""

    def __init__(self, call: Any, seconds: float | None) -> None:
        self._call = call
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since: float | None = self._loop.time()
        # One timer that checks and starts itself again, instead of a new one for every token.
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._look)

    def begins(self) -> None:
        self._since = self._loop.time()

    def ends(self) -> None:
        self._since = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        assert self._seconds is not None
        left = self._seconds
        if self._since is not None:
            left -= self._loop.time() - self._since
        if left <= 0:
            self._call.cancel()
        else:
            self._timer = self._loop.call_later(left, self._look)


def _broken(error: Any, began: bool) -> ServingError:
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if began:
            return EngineLost("the connection to the engine broke; send the request again")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.NOT_FOUND:
            return EngineUnavailable("the engine cannot be reached; retry in 5 s", retry_after=5.0)
        case _:
            return from_engine(error.details() or "")


def empty_request(model: str = MODEL) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model)
    _add(message, "stream", "BOOL", _flag(False))
    return message


def request(run: Generation, *, model: str = MODEL, beat: float = BEAT_SECONDS) -> Any:
    """The request message. Triton drops no input silently: it refuses inputs that the model does not declare."""
    message = service_pb2.ModelInferRequest(model_name=model)
    _add(message, "input_ids", "INT32", array("i", run.input_ids).tobytes(), len(run.input_ids))
    _add(message, "stream", "BOOL", _flag(run.stream))
    # msgspec, because a grammar has megabytes.
    _add(message, "sampling_parameters", "BYTES", _bytes(msgspec.json.encode(run.sampling)))
    _add(message, "request_context", "BYTES", _text(run.uid))
    if run.reader:
        # The reader gets the number of cached tokens with the first ids.
        _add(message, "token_reader", "BYTES", _text(run.reader))
    else:
        _add(message, "return_num_input_tokens", "BOOL", _flag(True))
    if run.stream:
        _add(message, "heartbeat_ms", "INT32", struct.pack("<i", round(beat * 1000)))
    if run.top_logprobs is not None:
        _add(message, "return_logprobs", "BOOL", _flag(True))
        _add(message, "top_logprobs", "INT32", struct.pack("<i", run.top_logprobs))
        _add(message, "return_prompt_logprobs", "BOOL", _flag(run.prompt_logprobs))
    if run.priority is not None:
        _add(message, "request_priority", "INT32", struct.pack("<i", run.priority))
    if run.cache_salt is not None:
        _add(message, "cache_salt", "BYTES", _text(run.cache_salt))
    if trace := tracing.current():
        message.parameters["traceparent"].string_param = trace
    for name in (*OUTPUTS, "prompt_logprobs") if run.prompt_logprobs else OUTPUTS:
        message.outputs.add(name=name)
    return message


def _add(message: Any, name: str, datatype: str, raw: bytes, size: int = 1) -> None:
    message.inputs.add(name=name, datatype=datatype, shape=[size])
    message.raw_input_contents.append(raw)


def _flag(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _text(value: str) -> bytes:
    """One element of KServe's BYTES: the text in UTF-8 behind its length."""
    return _bytes(value.encode())


def _bytes(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def read_response(response: Any, inbox: Inbox) -> bool:
    """Put the ids of one response into `inbox`, and also the end if the response is the last. Returns whether it is the
    last.
    """
    raw = {each.name: data for each, data in zip(response.outputs, response.raw_output_contents, strict=True)}
    ids = array("i")
    ids.frombytes(raw.get("output_ids", b""))
    if ids:
        inbox.put(ids, _logprobs(_string(raw, "logprobs"), ids), 0, _prompt_logprobs(_string(raw, "prompt_logprobs")))
    reason = _string(raw, "finish_reason")
    cached = _number(raw, "num_cached_tokens")
    if cached is not None:
        inbox.cached = max(inbox.cached, cached)
    if reason is None:
        return False
    total = _number(raw, "num_output_tokens")
    inbox.end(End(EndReason(reason), _string(raw, "stop_reason")), inbox.arrived if total is None else total)
    return True


def _string(raw: dict[str, bytes], name: str) -> str | None:
    data = raw.get(name)
    return data[4:].decode() if data else None


def _number(raw: dict[str, bytes], name: str) -> int | None:
    data = raw.get(name)
    return int(struct.unpack("<I", data)[0]) if data else None


def _logprobs(text: str | None, ids: array[int]) -> tuple[TokenLogprob, ...]:
    """For each id its log-probability and the alternatives that have a rank, best first."""
    if not text:
        return ()
    return tuple(_entry(token, entries) for token, entries in zip(ids, msgspec.json.decode(text), strict=False))


def _prompt_logprobs(text: str | None) -> tuple[TokenLogprob, ...]:
    """The log-probabilities of the prompt. The first key of each entry is the prompt's own token. The first entry is
    null.
    """
    if not text:
        return ()
    return tuple(_entry(int(next(iter(entries))), entries) for entries in msgspec.json.decode(text) if entries)


def _entry(token: int, entries: dict[str, Any]) -> TokenLogprob:
    ranked = sorted((each["rank"], int(key), each["logprob"]) for key, each in entries.items() if each["rank"])
    return TokenLogprob(token, entries[str(token)]["logprob"], tuple((key, p) for _, key, p in ranked))
