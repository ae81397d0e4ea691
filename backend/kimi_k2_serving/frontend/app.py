"""The routes, and the ASGI application that contains them.

Every route is an `Endpoint`, even that for unknown paths, so that keys, limits, envelopes and the log work the same for
all. No CORS header is ever sent, so a web page of another origin can't read an answer.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from kimi_k2_serving.core.errors import EngineUnavailable
from kimi_k2_serving.frontend import openapi
from kimi_k2_serving.frontend.anthropic import messages
from kimi_k2_serving.frontend.anthropic.envelope import AnthropicEnvelope
from kimi_k2_serving.frontend.errors import RouteNotFound
from kimi_k2_serving.frontend.exchange import Endpoint, Envelope, Handler, JsonDocument, PlainText, Reply
from kimi_k2_serving.frontend.openai import chat, completions, responses, texts
from kimi_k2_serving.frontend.openai.envelope import OpenAIEnvelope, ResponsesEnvelope
from kimi_k2_serving.frontend.page import Page
from kimi_k2_serving.frontend.service import Call, Service

Operation = Callable[[Service, Call], Awaitable[Reply]]
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


async def live(service: Service, call: Call) -> Reply:
    """Answer 200: this process works."""
    return JsonDocument({"status": "live"})


async def ready(service: Service, call: Call) -> Reply:
    """Whether the engine accepts requests now. Starts no generation."""
    health = await service.engine.health()
    if not health.ready:
        raise EngineUnavailable(health.reason, retry_after=5.0)
    return JsonDocument({"status": "ready"})


async def metrics(service: Service, call: Call) -> Reply:
    return PlainText(service.metrics.text(), PROMETHEUS)


async def show_openapi(service: Service, call: Call) -> Reply:
    return JsonDocument(openapi.build_openapi(service.model.names, secured=bool(service.keys.keys)))


async def show_engine(service: Service, call: Call) -> Reply:
    """The engine's state, 200 also while it is not ready."""
    return JsonDocument((await service.watch.status()).document())


async def missing(service: Service, call: Call) -> Reply:
    raise RouteNotFound("no such path; see /openapi.json")


async def by_model(operation: Operation, service: Service, call: Call) -> Reply:
    """Let the service of the model that the request names perform the operation."""
    return await operation(await service.for_body(call.body), call)


OPENAI, ANTHROPIC = OpenAIEnvelope(), AnthropicEnvelope()
PAGE, ENGINE = "/", "/engine"
PUBLIC = ("/health", "/health/live", "/health/ready", "/ping")
ROUTES: tuple[tuple[str, Envelope, str, Operation], ...] = (
    ("/v1/chat/completions", OPENAI, "POST", chat.create),
    ("/v1/chat/completions/render", OPENAI, "POST", chat.show),
    ("/v1/completions", OPENAI, "POST", completions.create),
    ("/v1/responses", ResponsesEnvelope(), "POST", responses.create),
    ("/v1/models", OPENAI, "GET", texts.list_models),
    ("/v1/models/{id:path}", OPENAI, "GET", texts.show_model),
    ("/tokenize", OPENAI, "POST", texts.tokenize),
    ("/detokenize", OPENAI, "POST", texts.detokenize),
    ("/v1/messages", ANTHROPIC, "POST", messages.create),
    ("/v1/messages/count_tokens", ANTHROPIC, "POST", messages.count),
    ("/health", OPENAI, "GET", ready),
    ("/ping", OPENAI, "GET", ready),
    ("/health/live", OPENAI, "GET", live),
    ("/health/ready", OPENAI, "GET", ready),
    ("/metrics", OPENAI, "GET", metrics),
    ("/openapi.json", OPENAI, "GET", show_openapi),
    (ENGINE, OPENAI, "GET", show_engine),
)


# Paths that also have a form of Anthropic's. All of Anthropic's clients send the header VERSION, which selects it.
ANTHROPICS: dict[str, Operation] = {"/v1/models": messages.list_models, "/v1/models/{id:path}": messages.show_model}
VERSION = b"anthropic-version"


class ByDialect:
    """One path with two dialects. It is a class, because starlette treats a function as a request handler."""

    def __init__(self, plain: ASGIApp, anthropic: ASGIApp) -> None:
        self._plain = plain
        self._anthropic = anthropic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_anthropic = any(name == VERSION for name, _ in scope["headers"])
        await (self._anthropic if is_anthropic else self._plain)(scope, receive, send)


def create_app(
    service: Service, *, opened: Callable[[], Awaitable[None]] | None = None, page: Page | None = None
) -> ASGIApp:
    """`opened` is awaited at startup, on the event loop. The service is closed at shutdown. `page` is served at `/`."""

    def endpoint(path: str, envelope: Envelope, method: str, operation: Operation) -> ASGIApp:
        methods: dict[str, Handler] = {method: functools.partial(by_model, operation, service)}
        if method == "GET":
            # uvicorn leaves the body out of the response.
            methods["HEAD"] = methods["GET"]
        public = path in PUBLIC or path == PAGE
        made = Endpoint(service, path, envelope, methods, public=public, polled=public or path == ENGINE)
        if path in ANTHROPICS and envelope is OPENAI:
            return ByDialect(made, endpoint(path, ANTHROPIC, method, ANTHROPICS[path]))
        return made

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        if opened is not None:
            await opened()
        try:
            yield
        finally:
            await service.close()

    routes = ROUTES if page is None else (*ROUTES, (PAGE, OPENAI, "GET", _shown(page)))
    return Router(
        [Route(route[0], endpoint(*route), include_in_schema=False) for route in routes],
        redirect_slashes=False,
        default=_unknown(service),
        lifespan=lifespan,
    )


def _shown(page: Page) -> Operation:
    async def show(service: Service, call: Call) -> Reply:
        return PlainText(page.body, "text/html; charset=utf-8", page.headers)

    return show


def _unknown(service: Service) -> ASGIApp:
    handler: Handler = functools.partial(missing, service)
    methods = dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"), handler)
    plain = Endpoint(service, "unknown", OPENAI, methods, reads=False)
    anthropic = Endpoint(service, "unknown", ANTHROPIC, methods, reads=False)

    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        is_anthropic = scope["path"].startswith("/v1/messages")
        await (anthropic if is_anthropic else plain)(scope, receive, send)

    return unknown
