"""Traces: a request is a span, a client's trace is continued, and its context goes on to the engine model."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from kimi_k2_serving.engine.port import Generation
from kimi_k2_serving.frontend import tracing
from kimi_k2_serving.frontend.tracing import Traced
from kimi_k2_serving.frontend.triton_engine import request

memory = pytest.importorskip(
    "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="needs the extra [trace], which test.txt locks"
)
pytestmark = pytest.mark.anyio
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RUN = Generation("u", [1], {}, stream=True)


def sent_with(run: Generation) -> str:
    """The trace context of a request to Triton."""
    return str(request(run).parameters["traceparent"].string_param) if "traceparent" in request(run).parameters else ""


async def ask(status: int, *headers: tuple[bytes, bytes]) -> tuple[str, Any]:
    """What went on to Triton, and the span."""
    exporter = memory.InMemorySpanExporter()
    passed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            passed.append(sent_with(RUN))
            await send({"type": "http.response.start", "status": status, "headers": [(b"x-request-id", b"req_1")]})
            await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    traced = Traced(app, "", exporter)
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": list(headers)}
    await traced(scope, receive, send)
    assert tracing.current() == "", "nothing is left for the next request"
    await traced({"type": "lifespan"}, receive, send)
    (span,) = exporter.get_finished_spans()
    return passed[0], span


async def test_a_clients_trace_is_continued_to_the_engine_model() -> None:
    passed, span = await ask(200, (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()))
    assert format(span.context.trace_id, "032x") == TRACE
    assert format(span.parent.span_id, "016x") == PARENT
    assert passed == f"00-{TRACE}-{span.context.span_id:016x}-01"


async def test_a_span_has_the_route_the_status_and_the_request_id_and_no_content() -> None:
    _, span = await ask(503)
    assert span.name == "/v1/chat/completions"
    assert dict(span.attributes) == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 503,
        "request.id": "req_1",
    }
    assert span.parent is None
    assert not span.status.is_ok


def test_without_tracing_nothing_goes_on() -> None:
    assert sent_with(RUN) == ""
