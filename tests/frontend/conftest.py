"""The application over the scripted engine, without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.service import Service
from tests.frontend.scripted import ScriptedEngine
from tests.support.demo import demo
from tests.support.enforcer import chat_model
from tests.support.event_loop import anyio_backend, loop_until_the_end
from tests.support.vocabulary import small_checkpoint, small_vocabulary

__all__ = ["anyio_backend", "demo", "loop_until_the_end", "small_checkpoint", "small_vocabulary"]

# Other people's clients run in an environment of their own: see clients/conftest.py.
collect_ignore = ["clients"]

CONTEXT = 4096


@pytest.fixture
def engine(small_vocabulary: Vocabulary) -> ScriptedEngine:
    return ScriptedEngine(small_vocabulary)


@pytest.fixture
def make_service(small_vocabulary: Vocabulary, engine: ScriptedEngine) -> Callable[..., Service]:
    def make(**options: Any) -> Service:
        model = chat_model(small_vocabulary, names=("kimi_k2", "kimi-k2-alias"), context=CONTEXT)
        return Service(model, engine, now=lambda: 1_700_000_000.0, **options)

    return make


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    return make_service()


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
