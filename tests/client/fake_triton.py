"""A Triton that plays a script, over real wires: HTTP through httpx's mock transport, gRPC through a real server.

The shapes are recorded from Triton 2.51 (an ensemble with a decoupled step, and a decoupled model called directly): one
SSE event or stream message per response, noise keys on an ensemble, an empty final message on gRPC.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

NOISE = {"model_name": "kimi_k2", "model_version": "1", "sequence_end": False, "sequence_id": 0}
INDEX = [
    {"name": "kimi_k2", "version": "1", "state": "READY"},
    {"name": "b", "state": "UNAVAILABLE", "reason": "why"},
]
STATISTICS = {
    "model_stats": [
        {
            "name": "kimi_k2",
            "version": "1",
            "inference_stats": {
                "success": {"count": 4, "ns": 2_000_000_000},
                "fail": {"count": 1, "ns": 5},
                "queue": {"count": 4, "ns": 400_000_000},
            },
            "response_stats": {"0": {"cancel": {"count": 2, "ns": 1}}},
        }
    ]
}
IDS = [1, 2]  # numbers, wherever text is expected
UINT32 = {"num_input_tokens", "num_output_tokens", "num_cached_tokens"}


@dataclass(frozen=True)
class Refusal:
    """An error in place of a response. Over HTTP Triton gives a status only to a first one."""

    message: str
    status: int = 400


@dataclass(frozen=True)
class Broken:
    """The connection ends here, in the middle of the answer."""


@dataclass(frozen=True)
class Failed:
    """The gRPC call itself fails with this status."""

    status: grpc.StatusCode


Step = Mapping[str, Any] | Refusal | Broken | Failed


@dataclass
class Script:
    """One answer per request, the last one for all that follow; what was asked; whether a client left early."""

    answers: list[Sequence[Step]]
    asked: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    abandoned: threading.Event = field(default_factory=threading.Event)

    def next(self, model: str, inputs: dict[str, Any]) -> Sequence[Step]:
        self.models.append(model)
        self.asked.append(inputs)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def script(*answers: Sequence[Step]) -> Script:
    return Script(list(answers))


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response's bytes in pieces of `size`; closing it before the end is what a client that leaves does."""

    def __init__(self, script: Script, content: bytes, size: int, *, breaks: bool) -> None:
        self.script = script
        self.pieces = [content[at : at + size] for at in range(0, len(content), size)]
        self.breaks = breaks
        self.is_over = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.breaks:
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        self.is_over = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        if not self.is_over:
            self.script.abandoned.set()

    async def aclose(self) -> None:
        self.close()


@dataclass
class HttpTriton:
    """A handler for httpx.MockTransport."""

    script: Script
    piece: int = 2**20

    def __call__(self, request: httpx.Request) -> httpx.Response:
        model, endpoint = request.url.path.split("/")[-2:]
        if endpoint in ("live", "ready"):
            return httpx.Response(200 if model in ("kimi_k2", "health") else 400)
        if endpoint == "stats":
            return httpx.Response(200, json=STATISTICS)
        if endpoint == "index":
            return httpx.Response(200, json=INDEX)
        steps = self.script.next(model, json.loads(request.content))
        first = steps[0] if steps else None
        status = first.status if isinstance(first, Refusal) else 200
        documents = [_document(step) for step in steps if not isinstance(step, Broken)]
        if endpoint == "generate_stream":
            content = "".join(f"data: {document}\n\n" for document in documents)
        else:
            content = "".join(documents)
        breaks = any(isinstance(step, Broken) for step in steps)
        return httpx.Response(status, stream=Body(self.script, content.encode(), self.piece, breaks=breaks))


def _document(step: Step) -> str:
    if isinstance(step, Refusal):
        return json.dumps({"error": step.message})
    assert not isinstance(step, Broken | Failed)
    return json.dumps({**NOISE, **step}, ensure_ascii=False)


class GrpcTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Plays the script to each request of a stream."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            is_over = threading.Event()
            context.add_callback(lambda over=is_over: over.is_set() or self.script.abandoned.set())
            for step in self.script.next(request.model_name, _inputs(request)):
                if isinstance(step, Broken | Failed):
                    is_over.set()
                    status = step.status if isinstance(step, Failed) else grpc.StatusCode.UNAVAILABLE
                    context.abort(status, "Socket closed")
                if isinstance(step, Refusal):
                    is_over.set()
                    yield service_pb2.ModelStreamInferResponse(error_message=step.message)
                    break
                yield service_pb2.ModelStreamInferResponse(infer_response=_response(step))
            else:
                is_over.set()
                if "triton_enable_empty_final_response" in request.parameters:
                    yield service_pb2.ModelStreamInferResponse(infer_response=_response({}, final=True))

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=request.name == "kimi_k2")

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return ParseDict(STATISTICS, service_pb2.ModelStatisticsResponse())

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        row = service_pb2.RepositoryIndexResponse.ModelIndex
        return service_pb2.RepositoryIndexResponse(models=[row(**line) for line in INDEX])


@contextmanager
def grpc_triton(script: Script) -> Iterator[str]:
    """The address of a real gRPC server on a free port of the loopback."""
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(GrpcTriton(script), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def _inputs(request: Any) -> dict[str, Any]:
    """The tensors as `generate` would have had them in JSON."""
    inputs: dict[str, Any] = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            values: list[Any] = []
            while raw:
                size = int.from_bytes(raw[:4], "little")
                values.append(raw[4 : 4 + size].decode())
                raw = raw[4 + size :]
        else:
            values = np.frombuffer(raw, dtype=triton_to_np_dtype(tensor.datatype)).tolist()
        assert list(tensor.shape) == [len(values)]
        inputs[tensor.name] = values
    return inputs


def _response(outputs: Mapping[str, Any], *, final: bool = False) -> Any:
    response = service_pb2.ModelInferResponse(model_name="kimi_k2")
    response.parameters["triton_final_response"].bool_param = final
    for name, value in outputs.items():
        values = value if isinstance(value, list) else [value]
        if name == "output_ids" or name in UINT32 or values == IDS:
            array = np.array(values, dtype=np.uint32 if name in UINT32 else np.int32)
            raw = array.tobytes()
        else:
            array = np.array([item.encode(errors="surrogateescape") for item in values], dtype=np.object_)
            raw = serialize_byte_tensor(array).item()
        datatype = np_to_triton_dtype(array.dtype)
        response.outputs.add(name=name, datatype=datatype, shape=[len(values)])
        response.raw_output_contents.append(raw)
    return response
