"""What is measured: each arm is one way to reach the engine, with the server and the driver that it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.bench.serving import servers, workload
from tests.bench.serving.load import Driver, Load
from tests.bench.serving.servers import Server
from tests.bench.serving.workload import Chat

SSE, GRPC = "sse_client", "grpc_client"


@dataclass(frozen=True, slots=True)
class Arm:
    """`address`: which of the server's addresses. `client`: the module of the driver; None: the server has its own."""

    name: str
    label: str
    server: str
    body: Callable[[Chat], dict[str, Any]]
    address: str = ""
    path: str = ""
    client: str | None = None

    def load(self, server: Server, chats: list[Chat], concurrency: int) -> Load:
        return Load(server.addresses.get(self.address, ""), self.path, concurrency, [self.body(chat) for chat in chats])

    def driver(self, server: Server, clients: dict[str, Driver]) -> Driver:
        found = server.driver if self.client is None else clients[self.client]
        assert found is not None
        return found


CHAT = "/v1/chat/completions"
STREAM = "/v2/models/kimi_k2/generate_stream"
ARMS = (
    Arm("engine", "SGLang's Engine", servers.BARE, workload.bare),
    Arm("sglang_http", "SGLang's Python server", servers.PYTHON, workload.openai, "openai", CHAT, SSE),
    Arm("sglang_rust", "SGLang's Rust server", servers.RUST, workload.openai, "openai", CHAT, SSE),
    Arm("engine_model", "kimi_k2_engine, gRPC", servers.OURS, workload.engine_model, "grpc", "kimi_k2_engine", GRPC),
    Arm("ensemble", "kimi_k2, gRPC", servers.OURS, workload.ensemble, "grpc", "kimi_k2", GRPC),
    Arm("ensemble_http", "kimi_k2, generate_stream", servers.OURS, workload.ensemble, "http", STREAM, SSE),
    Arm("frontend", "frontend, OpenAI chat", servers.OURS, workload.openai, "openai", CHAT, SSE),
)
# Name -> the arm and the one that it is divided by.
RATIOS = {
    "frontend_over_sglang_http": ("frontend", "sglang_http"),
    "frontend_over_sglang_rust": ("frontend", "sglang_rust"),
    "engine_model_over_engine": ("engine_model", "engine"),
    "ensemble_over_engine": ("ensemble", "engine"),
    "ensemble_http_over_engine": ("ensemble_http", "engine"),
}
