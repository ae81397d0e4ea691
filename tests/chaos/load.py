"""Clients of the real server that watch how every request ends: whole, with one error of the catalogue, or badly.

`Ending.BAD` is what must never be: a stream that ends without an ending, or goes on after one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
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
    """`kind` is WHOLE, BAD, or an error's code. Times are time.monotonic()."""

    kind: str
    began: float
    ended: float
    responses: int

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def code_of(message: str) -> str:
    """The stable code at the start of one of our messages, with or without the ensemble's prefix."""
    text = message.removeprefix("in ensemble 'kimi_k2', ")
    return text.split(":")[0] if ":" in text and " " not in text.split(":")[0] else f"{BAD} {text[:60]}"


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


async def plain_stream(port: int, path: str, body: dict[str, Any]) -> Outcome:
    """As `http_stream`, on a socket of its own and next to no CPU time: for thousands at once."""
    judge, began = Judge(), time.monotonic()
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + content)
        # Each event is a chunk; an empty chunk ends the answer.
        while (line := await reader.readline()) and line != b"0\r\n":
            if line.startswith(b"data: "):
                data = json.loads(line[6:])
                error = data.get("error")
                judge.response(code_of(error) if error else WHOLE if "finish_reason" in data else None)
        writer.close()
        kind = judge.verdict()
    except ConnectionError:
        kind = BAD
    return Outcome(kind, began, time.monotonic(), judge.responses)


def engine_request(tokens: int, ids: list[int], **integers: int) -> Any:
    """A streamed generation of exactly `tokens` ids; `integers` are more INT32 inputs."""
    request = service_pb2.ModelInferRequest(model_name=ENGINE)
    given = {"input_ids": ids, "max_tokens": [tokens], **{name: [value] for name, value in integers.items()}}
    for name, values in given.items():
        request.inputs.add(name=name, datatype="INT32", shape=[len(values)])
        request.raw_input_contents.append(np.array(values, dtype=np.int32).tobytes())
    for name in ("stream", "ignore_eos"):
        request.inputs.add(name=name, datatype="BOOL", shape=[1])
        request.raw_input_contents.append(b"\x01")
    return request


class GrpcStream:
    """One ModelStreamInfer with one request; `cancel` ends it from the client's side."""

    def __init__(self, channel: grpc.aio.Channel, request: Any) -> None:
        self._request = request
        self._call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(self._requests())
        self._judge = Judge()
        self.began = time.monotonic()
        self._over = asyncio.Event()
        self.arrived = asyncio.Event()

    async def _requests(self) -> AsyncIterator[Any]:
        yield self._request
        await self._over.wait()

    async def responses(self) -> AsyncIterator[int]:
        """The number of responses so far, after each."""
        async for message in self._call:
            self.arrived.set()
            final = message.infer_response.parameters["triton_final_response"].bool_param
            if message.error_message:
                self._judge.response(code_of(message.error_message))
            else:
                self._judge.response(WHOLE if final else None)
            yield self._judge.responses
            if message.error_message or final:
                self._over.set()

    async def outcome(self) -> Outcome:
        try:
            async for _ in self.responses():
                pass
            kind = self._judge.verdict()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            kind = "cancelled"
        return Outcome(kind, self.began, time.monotonic(), self._judge.responses)

    def cancel(self) -> None:
        self._over.set()
        self._call.cancel()


class Load:
    """`width` clients, each with one request after another until `stop`: half chat over HTTP, half engine over gRPC."""

    def __init__(self, url: str, grpc_port: int, *, width: int, tokens: int, seed: int = 6) -> None:
        self._url = url
        self._grpc_port = grpc_port
        self._width = width
        self._tokens = tokens
        self._chance = random.Random(seed)
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
            outcome = await (self._chat(turn) if number % 2 else self._engine(number, turn))
            self.flying -= 1
            self.outcomes.append(outcome)
            if outcome.kind != WHOLE:
                await asyncio.sleep(0.25)

    async def _chat(self, turn: int) -> Outcome:
        body = {"text_input": f"Tell me {turn}", "stream": True, "ignore_eos": True, "max_tokens": self._length()}
        return await http_stream(self._http, f"{self._url}/v2/models/kimi_k2/generate_stream", body)

    async def _engine(self, number: int, turn: int) -> Outcome:
        return await GrpcStream(self._channel, engine_request(self._length(), [100 + number, 200 + turn])).outcome()

    def _length(self) -> int:
        return self._chance.randint(self._tokens // 2, self._tokens * 2)
