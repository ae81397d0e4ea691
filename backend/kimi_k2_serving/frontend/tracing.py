"""Traces each HTTP request as one span, with OpenTelemetry's own packages, and passes its context to the engine model.

Off unless KIMI_K2_TRACE_ENDPOINT names a collector; then `Traced` wraps the application, and nothing else changes. A
client's W3C `traceparent` is continued. `current` is the context that goes on to Triton, "" when tracing is off.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kimi_k2_serving.core.errors import Unsupported

SERVICE = "kimi-k2-frontend"
_current: ContextVar[str] = ContextVar("traceparent", default="")


def current() -> str:
    """The `traceparent` of the request that this task works on."""
    return _current.get()


class Traced:
    """An ASGI application whose requests are spans. `endpoint`: an OTLP collector, host:port, over gRPC."""

    def __init__(self, app: ASGIApp, endpoint: str, exporter: Any = None) -> None:
        """`exporter`: replaces the one to `endpoint`. Raises Unsupported without OpenTelemetry's packages."""
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise Unsupported("traces need OpenTelemetry: pip install 'kimi-k2-triton[trace]'") from None
        self._app = app
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: SERVICE}))
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=endpoint, insecure=True))
        )
        self._tracer = self._provider.get_tracer(SERVICE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            if scope["type"] == "lifespan":
                self._provider.shutdown()
            return
        await self._trace(scope, receive, send)

    async def _trace(self, scope: Scope, receive: Receive, send: Send) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracer.start_span(
            scope["path"],
            context=propagator.extract(given),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
        )

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_status(Status(StatusCode.ERROR))
                for name, value in message["headers"]:
                    if name == b"x-request-id":
                        span.set_attribute("request.id", value.decode("latin-1"))
            await send(message)

        passed: dict[str, str] = {}
        propagator.inject(passed, set_span_in_context(span))
        token = _current.set(passed.get("traceparent", ""))
        try:
            await self._app(scope, receive, watched)
        finally:
            _current.reset(token)
            span.end()
