"""Clients of the real server that watch how every request ends: whole, with one error of the catalogue, or badly.

`Ending.BAD` is what must never be: a stream that ends without an ending, or goes on after one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

ENGINE = "kimi_k2_engine"
WHOLE, BAD, REFUSED_BY_TRITON = "whole", "BAD", "triton_closed"


@dataclass(slots=True)
class Outcome:
    """`kind` is WHOLE, BAD, or an error's code. Times are time.monotonic(); `retry_after` is what a refusal said."""

    kind: str
    began: float
    ended: float
    responses: int
    retry_after: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def code_of(message: str) -> str:
    """The stable code at the start of one of our messages, with or without the ensemble's prefix."""
    text = message.removeprefix("in ensemble 'kimi_k2', ")
    return text.split(":")[0] if ":" in text and " " not in text.split(":")[0] else f"{BAD} {text[:60]}"


def retry_after(message: str) -> float:
    """Seconds that a refusal tells its client to wait, 0 if it says none."""
    _, said, rest = message.rpartition("retry in ")
    return float(rest.split()[0]) if said else 0.0


@dataclass(slots=True)
class Judge:
    """What one stream has sent so far."""

    endings: list[str] = field(default_factory=list)
    responses: int = 0
    after: bool = False

    def response(self, ending: str | None) -> None:
        self.after = self.after or bool(self.endings)
        self.responses += 1
        if ending is not None:
            self.endings.append(ending)

    def verdict(self) -> str:
        return self.endings[0] if len(self.endings) == 1 and not self.after else BAD


async def http_stream(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Outcome:
    """One `generate_stream`, to its end."""
    judge, began = Judge(), time.monotonic()
    try:
        async with client.stream("POST", url, json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    data = json.loads(line[6:])
                    error = data.get("error")
                    judge.response(code_of(error) if error else WHOLE if "finish_reason" in data else None)
        kind = judge.verdict()
    except httpx.TransportError:
        kind = BAD if judge.responses else REFUSED_BY_TRITON
    return Outcome(kind, began, time.monotonic(), judge.responses)


class HttpStream:
    """One `generate_stream` on a socket of its own, to be left in the middle."""

    def __init__(self, port: int, path: str, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        self._port = port
        self._sent = head.encode() + content
        self._judge = Judge()
        self._writer: asyncio.StreamWriter | None = None
        self._cancelled = False
        self.arrived = asyncio.Event()

    async def outcome(self) -> Outcome:
        """Timed from the moment that the connection is there."""
        began = time.monotonic()
        try:
            reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            began = time.monotonic()
            self._writer.write(self._sent)
            # Each event is a chunk; an empty chunk ends the answer.
            while (line := await reader.readline()) and line != b"0\r\n":
                if line.startswith(b"data: "):
                    self._take(json.loads(line[6:]))
            kind = self._judge.verdict()
            self._writer.close()
        except ConnectionError:
            kind = BAD
        return Outcome(
            "cancelled" if self._cancelled else kind,
            began,
            time.monotonic(),
            self._judge.responses,
        )

    def _take(self, data: dict[str, Any]) -> None:
        error = data.get("error")
        self._judge.response(code_of(error) if error else WHOLE if "finish_reason" in data else None)
        self.arrived.set()

    def cancel(self) -> None:
        self._cancelled = True
        if self._writer is not None:
            self._writer.transport.abort()


def engine_request(tokens: int, ids: list[int], *, stream: int = True, **integers: int) -> Any:
    """A generation of exactly `tokens` ids; `integers` are more inputs."""
    given = {"input_ids": ids, "max_tokens": tokens, "stream": bool(stream), "ignore_eos": True, **integers}
    return named_request(ENGINE, given)


def named_request(model: str, given: dict[str, Any]) -> Any:
    """Inputs from Python values: a list is of integers, anything else one element."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, value in given.items():
        datatype, raw = encoded(value)
        request.inputs.add(name=name, datatype=datatype, shape=[len(value) if isinstance(value, list) else 1])
        request.raw_input_contents.append(raw)
    return request


def encoded(value: bool | int | str | list[int]) -> tuple[str, bytes]:
    match value:
        case bool():
            return "BOOL", bytes([value])
        case str():
            text = value.encode()
            return "BYTES", struct.pack("<I", len(text)) + text
        case _:
            return "INT32", np.array(value, dtype=np.int32).tobytes()


async def prepared_request(channel: grpc.aio.Channel, chat: dict[str, Any], **integers: int) -> Any:
    """What the ensemble would hand the engine's model for this chat: preprocess's outputs under the engine's names."""
    request = named_request(ENGINE, {"ignore_eos": True, **integers})
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    call = stub.ModelStreamInfer(only(named_request("kimi_k2_preprocess", chat)))
    async for message in call:
        assert not message.error_message, message.error_message
        made = message.infer_response
        for output, raw in zip(made.outputs, made.raw_output_contents, strict=True):
            name = PREPARED.get(output.name, output.name)
            request.inputs.add(name=name, datatype=output.datatype, shape=output.shape)
            request.raw_input_contents.append(raw)
        break
    call.cancel()
    return request


PREPARED = {"engine_stream": "stream", "engine_sampling": "sampling_parameters"}


async def only(request: Any) -> AsyncIterator[Any]:
    yield request


class GrpcStream:
    """One ModelStreamInfer with one request; `cancel` ends it from the client's side."""

    def __init__(self, channel: grpc.aio.Channel, request: Any) -> None:
        self._request = request
        self._call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(self._requests())
        self._judge = Judge()
        self.began = time.monotonic()
        self._over = asyncio.Event()
        self.arrived = asyncio.Event()
        self.retry_after = 0.0

    async def _requests(self) -> AsyncIterator[Any]:
        yield self._request
        await self._over.wait()

    async def responses(self) -> AsyncIterator[int]:
        """The number of responses so far, after each."""
        async for message in self._call:
            self.arrived.set()
            final = message.infer_response.parameters["triton_final_response"].bool_param
            if message.error_message:
                self.retry_after = retry_after(message.error_message)
                self._judge.response(code_of(message.error_message))
            else:
                self._judge.response(WHOLE if final else None)
            yield self._judge.responses
            if message.error_message or final:
                self._over.set()

    async def outcome(self, first: Callable[[], None] = lambda: None) -> Outcome:
        """`first` is called when it has been answered anything but an ending."""
        try:
            async for count in self.responses():
                if count == 1 and not self._judge.endings:
                    first()
            kind = self._judge.verdict()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            kind = "cancelled"
        return Outcome(kind, self.began, time.monotonic(), self._judge.responses, self.retry_after)

    def cancel(self) -> None:
        self._over.set()
        self._call.cancel()


class Load:
    """`width` clients, each with one request after another until `stop`: half chat over HTTP, half engine over gRPC.
    No request is sent twice, in any Load: one that the engine dies under twice is a suspect.
    """

    ROUNDS = itertools.count()

    def __init__(self, url: str, grpc_port: int, *, width: int, tokens: int, seed: int = 6) -> None:
        self._url = url
        self._grpc_port = grpc_port
        self._width = width
        self._tokens = tokens
        self._chance = random.Random(seed)
        self._round = next(self.ROUNDS)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.outcomes: list[Outcome] = []
        self.flying = 0

    async def __aenter__(self) -> Load:
        self._http = httpx.AsyncClient(timeout=180, limits=httpx.Limits(max_connections=self._width + 10))
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._grpc_port}")
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self._width)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._http.aclose()
        await self._channel.close()

    async def stop(self) -> None:
        """No new requests; those in flight go to their end."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def counted(self, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
        return Counter(each.kind for each in self.outcomes if since <= each.ended <= until)

    async def _client(self, number: int) -> None:
        for turn in itertools.count():
            if self._stopping:
                return
            self.flying += 1
            outcome = await (self._chat(number, turn) if number % 2 else self._engine(number, turn))
            self.flying -= 1
            self.outcomes.append(outcome)
            if outcome.kind != WHOLE:
                await asyncio.sleep(0.25)

    async def _chat(self, number: int, turn: int) -> Outcome:
        body = {
            "text_input": f"Tell me {self._round} {number} {turn}",
            "stream": True,
            "ignore_eos": True,
            "max_tokens": self._length(),
        }
        return await http_stream(self._http, f"{self._url}/v2/models/kimi_k2/generate_stream", body)

    async def _engine(self, number: int, turn: int) -> Outcome:
        ids = [100 + number, 200 + turn, 300 + self._round]
        return await GrpcStream(self._channel, engine_request(self._length(), ids)).outcome()

    def _length(self) -> int:
        return self._chance.randint(self._tokens // 2, self._tokens * 2)
