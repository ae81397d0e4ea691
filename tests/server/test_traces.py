"""Traces on the real server: one goes from a client's header through the frontend and Triton into the scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
import pytest

from tests.frontend.running import over
from tests.server.running import free_ports, running

COLLECTOR, REASON = "opentelemetry.proto.collector.trace.v1", "needs the extra [trace], which test.txt locks"
trace_service_pb2 = pytest.importorskip(f"{COLLECTOR}.trace_service_pb2", reason=REASON)
trace_service_pb2_grpc = pytest.importorskip(f"{COLLECTOR}.trace_service_pb2_grpc", reason=REASON)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VARIABLE = "KIMI_K2_TRACE_ENDPOINT"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    """Receives OTLP; `spans` has (service, name, trace id) of each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.spans: list[tuple[str, str, str]] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        with self._lock:
            for resource in request.resource_spans:
                (service,) = [
                    each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
                ]
                for scope in resource.scope_spans:
                    self.spans += [(service, span.name, span.trace_id.hex()) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def services(self, wanted: str = TRACE) -> set[str]:
        """Those that have sent spans of the client's trace."""
        with self._lock:
            return {service for service, _, trace in self.spans if trace == wanted}


@contextmanager
def collecting(port: int) -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield collector
    finally:
        server.stop(0)


def test_one_trace_goes_from_the_clients_header_into_the_scheduler() -> None:
    (port,) = free_ports(1)
    variables = {VARIABLE: f"127.0.0.1:{port}"}
    with collecting(port) as collector, running(**variables) as server, over(server, **variables) as url:
        body = {"model": "kimi_k2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = httpx.post(
            f"{url}/v1/chat/completions", json=body, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        deadline = time.monotonic() + 30
        while collector.services() != {"kimi-k2-frontend", "kimi-k2-engine"} and time.monotonic() < deadline:
            time.sleep(0.1)
        assert collector.services() == {"kimi-k2-frontend", "kimi-k2-engine"}, collector.spans
        for stream in (False, True):
            trace = TRACE[:-1] + str(int(stream))
            body = {"text_input": "hi", "max_tokens": 4, "stream": stream, "traceparent": f"00-{trace}-{PARENT}-01"}
            answer = httpx.post(server.generate(stream=stream), json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            deadline = time.monotonic() + 30
            while "kimi-k2-engine" not in collector.services(trace) and time.monotonic() < deadline:
                time.sleep(0.1)
            # The ensemble passes a client's parameters on to its steps.
            assert collector.services(trace) == {"kimi-k2-engine"}, collector.spans
        names = {name for service, name, trace in collector.spans if (service, trace) == ("kimi-k2-engine", TRACE)}
        assert any("prefill" in name.lower() for name in names), names
        assert any("decode" in name.lower() for name in names), names
