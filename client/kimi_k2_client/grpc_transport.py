"""Triton's gRPC through tritonclient. Every request has a bidirectional stream of its own, so closing the stream
cancels only that request. A whole answer also needs one, because a decoupled model has no other call.

The blocking client recognises the end of an answer by Triton's `triton_final_response` parameter. The asyncio client
closes its half of the stream after the request and recognises the end of an answer by the end of the stream. A refusal
is a response with a message but no status.
"""

from __future__ import annotations

import asyncio
import queue
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from kimi_k2_client.decoder import Outputs
from kimi_k2_client.errors import KimiError, UnexpectedAnswer, is_http, lost, refusal, timed_out, unreachable
from kimi_k2_client.request import Datatype, InputTensor, Request
from kimi_k2_client.transport import READY_TIMEOUT, Model, Stats, stats_of

# Reconnects quickly, so that `wait_ready` sees soon that a server is up. Message sizes are limited by the server only.
CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
DTYPES = {
    Datatype.BYTES: np.object_,
    Datatype.BOOL: np.bool_,
    Datatype.INT32: np.int32,
    Datatype.UINT64: np.uint64,
    Datatype.FP32: np.float32,
}


class GrpcTransport:
    """Safe to share between threads. A tritonclient carries one stream at a time, so idle ones are kept and reused."""

    def __init__(self, address: str, *, timeout: float, secure: bool = False) -> None:
        self._address = address
        self._timeout = timeout
        self._secure = secure
        self._idle: list[Any] = []

    def responses(self, request: Request) -> Generator[Outputs]:
        call = _call(request)
        client = self._take()
        inbox: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = queue.SimpleQueue()
        is_over = has_begun = False
        client.start_stream(callback=lambda result, error: inbox.put((result, error)))
        try:
            with suppress(InferenceServerException):  # the stream has failed already, and the inbox gets the error
                client.async_stream_infer(**call, enable_empty_final_response=True)
            while not is_over:
                try:
                    result, error = inbox.get(timeout=self._timeout)
                except queue.Empty:
                    raise timed_out(self._timeout) from None
                if error is not None:
                    raise _refused(error, self._address, self._timeout, has_begun=has_begun)
                has_begun = True
                is_over = _is_final(result)
                if outputs := _outputs(result):
                    yield outputs
        finally:
            client.stop_stream(cancel_requests=not is_over)
            self._idle.append(client)

    def is_ready(self, model: str) -> bool:
        return bool(self._ask(lambda client: client.is_model_ready(model, client_timeout=READY_TIMEOUT)))

    def is_live(self) -> bool:
        return bool(self._ask(lambda client: client.is_server_live(client_timeout=READY_TIMEOUT)))

    def is_server_ready(self) -> bool:
        return bool(self._ask(lambda client: client.is_server_ready(client_timeout=READY_TIMEOUT)))

    def stats(self, model: str) -> Stats:
        timeout = self._timeout
        return _stats(self._ask(lambda client: client.get_inference_statistics(model, client_timeout=timeout)))

    def models(self) -> list[Model]:
        timeout = self._timeout
        return _models(self._ask(lambda client: client.get_model_repository_index(client_timeout=timeout)))

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        client = self._take()
        try:
            return question(client)
        except InferenceServerException as error:
            raise _refused(error, self._address, self._timeout) from None
        finally:
            self._idle.append(client)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return triton.InferenceServerClient(self._address, ssl=self._secure, channel_args=CHANNEL)


class AsyncGrpcTransport:
    def __init__(self, address: str, *, timeout: float, secure: bool = False) -> None:
        self._address = address
        self._timeout = timeout
        self._client = triton_aio.InferenceServerClient(address, ssl=secure, channel_args=CHANNEL)

    async def responses(self, request: Request) -> AsyncGenerator[Outputs]:
        stream = self._client.stream_infer(_once(_call(request)))
        has_begun = False
        try:
            while True:
                async with asyncio.timeout(self._timeout):
                    result, error = await anext(stream)
                if error is not None:
                    raise await self._error(error, has_begun=has_begun)
                has_begun = True
                if outputs := _outputs(result):
                    yield outputs
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise timed_out(self._timeout) from None
        except grpc.RpcError as error:
            status, details = error.code().name, error.details()
            raise await asyncio.to_thread(_broken, status, details, self._address, self._timeout, has_begun) from None
        finally:
            stream.cancel()

    async def is_ready(self, model: str) -> bool:
        return bool(await self._ask(self._client.is_model_ready(model, client_timeout=READY_TIMEOUT)))

    async def is_live(self) -> bool:
        return bool(await self._ask(self._client.is_server_live(client_timeout=READY_TIMEOUT)))

    async def is_server_ready(self) -> bool:
        return bool(await self._ask(self._client.is_server_ready(client_timeout=READY_TIMEOUT)))

    async def stats(self, model: str) -> Stats:
        return _stats(await self._ask(self._client.get_inference_statistics(model, client_timeout=self._timeout)))

    async def models(self) -> list[Model]:
        return _models(await self._ask(self._client.get_model_repository_index(client_timeout=self._timeout)))

    async def _ask(self, question: Awaitable[Any]) -> Any:
        try:
            return await question
        except InferenceServerException as error:
            raise await self._error(error) from None

    async def _error(self, error: InferenceServerException, *, has_begun: bool = False) -> KimiError:
        """Find the error in a thread, because a probe of the port's protocol may wait."""
        return await asyncio.to_thread(_refused, error, self._address, self._timeout, has_begun=has_begun)

    async def close(self) -> None:
        await self._client.close()


async def _once(call: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield call


def _call(request: Request) -> dict[str, Any]:
    return {"model_name": request.model, "inputs": [_infer_input(tensor) for tensor in request.tensors]}


def _infer_input(tensor: InputTensor) -> Any:
    values: list[Any] = list(tensor.values)
    if tensor.datatype is Datatype.BYTES:
        values = [str(value).encode() for value in values]
    array = np.array(values, dtype=DTYPES[tensor.datatype])
    return triton.InferInput(tensor.name, [len(values)], tensor.datatype.value).set_data_from_numpy(array)


def _outputs(result: Any) -> Outputs:
    return {output.name: _values(result.as_numpy(output.name)) for output in result.get_response().outputs}


def _values(array: Any) -> list[Any]:
    values = array.reshape(-1).tolist()
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError:
        raise UnexpectedAnswer("a text output is not UTF-8") from None


def _is_final(result: Any) -> bool:
    parameters = result.get_response().parameters
    return "triton_final_response" in parameters and parameters["triton_final_response"].bool_param


def _models(index: Any) -> list[Model]:
    return [Model(row.name, row.version, row.state == "READY", row.reason) for row in index.models]


def _stats(answer: Any) -> Stats:
    (row,) = answer.model_stats
    counts = row.inference_stats
    success, queue = ({"count": each.count, "ns": each.ns} for each in (counts.success, counts.queue))
    cancelled = sum(each.cancel.count for each in row.response_stats.values())
    return stats_of(row.name, success, queue, counts.fail.count, cancelled)


def _refused(error: InferenceServerException, address: str, timeout: float, *, has_begun: bool = False) -> KimiError:
    """A model's refusal has a message but no status. A call that failed has a status."""
    status = error.status()
    if status is None:
        return refusal(error.message())
    return _broken(str(status).removeprefix("StatusCode."), error.message(), address, timeout, has_begun)


def _broken(status: str, message: str | None, address: str, timeout: float, has_begun: bool) -> KimiError:
    match status:
        case "UNAVAILABLE" if has_begun:
            return lost()
        case "UNAVAILABLE":
            return is_http(address) if _answers_http(address) else unreachable(address)
        case "DEADLINE_EXCEEDED":
            return timed_out(timeout)
    return refusal(message or "", status=HTTP_STATUS.get(status, 500))


def _answers_http(address: str) -> bool:
    """Whether the server there speaks HTTP/1. gRPC's own error texts for such a peer differ from server to server."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=HTTP_TIMEOUT) as peer:
            peer.settimeout(HTTP_TIMEOUT)
            peer.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return peer.recv(5, socket.MSG_WAITALL) == b"HTTP/"
    except (OSError, ValueError):
        return False


HTTP_TIMEOUT = 2.0  # seconds
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
}
