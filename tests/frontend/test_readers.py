"""Large bodies are read in another process: the same answers and errors, and a reader that dies fails one request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from kimi_k2_serving.core.errors import DeadlineExceeded, Internal, Overloaded
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.openai import texts
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.reader import Description
from kimi_k2_serving.frontend.readers import SMALL_BYTES, USUAL_BYTES, Readers
from kimi_k2_serving.frontend.service import Service
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.reading import lane
from tests.frontend.asking import ANTHROPIC_LOOK, FLAT_LOOK, LOOK, chat, messages
from tests.support.enforcer import chat_model

pytestmark = pytest.mark.anyio

# White space that JSON allows: the same request, and as large as one likes.
PADDING = " " * SMALL_BYTES


def described(vocabulary: Vocabulary, checkpoint: Path) -> bytes:
    model = chat_model(vocabulary, names=("kimi_k2", "kimi-k2-alias"), context=4096)
    return msgspec.json.encode(Description.of(model, checkpoint, Bounds.demo(), Policy()))


@pytest.fixture
async def readers(small_vocabulary: Vocabulary, small_checkpoint: Path) -> AsyncIterator[Readers]:
    found = Readers(described(small_vocabulary, small_checkpoint))
    await found.open()
    yield found
    await found.close()


@asynccontextmanager
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
        yield http


LOOSE: dict[str, Any] = {"type": "object", "$comment": "loose", "properties": {"city": {"type": "string"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
WIDE = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**64, "default": 10**25}}}
ASKED: list[tuple[str, Any]] = [
    ("/v1/chat/completions", chat("say é\u2028 done", n=2, seed=2**63 - 1)),
    ("/v1/chat/completions", chat('call look {"city":"Bonn"}', tools=[LOOK], stream=True)),
    ("/v1/chat/completions", chat("say {}", response_format=SCHEMA, logprobs=True, top_logprobs=2)),
    (
        "/v1/chat/completions",
        chat('call l {"city":3}', tools=[{"type": "function", "function": {"name": "l", "parameters": LOOSE}}]),
    ),
    (
        "/v1/chat/completions",
        chat("say a", tools=[{"type": "function", "function": {"name": "l", "parameters": WIDE}}]),
    ),
    ("/v1/responses", {"model": "kimi_k2", "input": "say \ud83d", "tools": [{**FLAT_LOOK, "parameters": WIDE}]}),
    ("/v1/chat/completions/render", chat("say é", tools=[LOOK], temperature=0.25)),
    ("/v1/completions", {"model": "kimi_k2", "prompt": ["say a", [5, 6]], "stop": ["x"]}),
    ("/v1/responses", {"model": "kimi_k2", "input": 'call look {"city":"Bonn"}', "tools": [FLAT_LOOK]}),
    ("/v1/responses", {"model": "kimi_k2", "input": "say a", "instructions": "é\u2029", "stream": True}),
    ("/v1/messages", messages('call look {"city":"Bonn"}', tools=[ANTHROPIC_LOOK])),
    ("/v1/messages/count_tokens", messages("say a")),
    ("/tokenize", {"prompt": "several words", "return_token_strs": True}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
    ("/v1/chat/completions", chat("x", model="other")),
    ("/v1/chat/completions", chat("x", temperature="hot")),
    ("/v1/chat/completions", chat("word " * 9000)),
    ("/v1/chat/completions", chat("x", tools=[{"type": "function", "function": {"name": "a", "parameters": 3}}])),
    ("/v1/messages", {**messages("x"), "max_tokens": None}),
]


async def test_large_bodies_are_answered_as_small_ones(make_service: Callable[..., Service], readers: Readers) -> None:
    headers = {"content-type": "application/json", "x-request-id": "r"}
    for path, asked in ASKED:
        text = json.dumps(asked)
        async with client(make_service(new_uid=lambda: "u")) as http:
            small = await http.post(path, content=text, headers=headers)
        async with client(make_service(new_uid=lambda: "u", readers=readers)) as http:
            large = await http.post(path, content=text + PADDING, headers=headers)
        assert (large.status_code, large.text) == (small.status_code, small.text), (path, asked)


async def test_what_is_no_json_is_refused_too(make_service: Callable[..., Service], readers: Readers) -> None:
    for wrong in (b"[" * 20_000, b"{" + b" " * 20_000, b'"' + b"\xff" * 20_000, b"9" * 20_000):
        async with client(make_service(readers=readers)) as http:
            refused = await http.post("/v1/messages", content=wrong, headers={"content-type": "application/json"})
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"


def children() -> list[psutil.Process]:
    found = []
    for each in psutil.Process().children():
        # An earlier test's child may be dead and not collected yet.
        with contextlib.suppress(psutil.Error):
            if "frontend.reader" in " ".join(each.cmdline()):
                found.append(each)
    return found


BODY = b'{"prompt":"a"}' + b" " * USUAL_BYTES


@pytest.mark.slow
async def test_a_reader_that_dies_fails_its_body_and_the_next_is_read(readers: Readers) -> None:
    assert (await readers.read(texts.tokenizing, BODY)).echo
    process = readers._large._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    asked = asyncio.create_task(readers.read(texts.tokenizing, BODY))
    await asyncio.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(Internal):
        await asked
    assert (await readers.read(texts.tokenizing, BODY)).echo


@pytest.mark.slow
async def test_one_that_takes_too_long_is_ended(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    await readers.read(texts.tokenizing, BODY)
    monkeypatch.setattr(lane, "READ_SECONDS", replace(lane.READ_SECONDS, value=1))
    process = readers._large._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded):
        await readers.read(texts.tokenizing, BODY)
    assert process.returncode is not None


async def test_one_that_does_not_start_is_said_and_tried_again(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await readers.read(texts.tokenizing, BODY)
    await readers._large._end()
    start, failures = asyncio.create_subprocess_exec, [OSError("no process"), OSError("no process")]

    async def fails(*command: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return await start(*command, **options)

    monkeypatch.setattr(lane, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", fails)
    for _ in range(2):
        with pytest.raises(Overloaded):
            await readers.read(texts.tokenizing, BODY)
    assert (await readers.read(texts.tokenizing, BODY)).echo


async def test_usual_bodies_do_not_wait_for_the_largest(readers: Readers) -> None:
    await readers.read(texts.tokenizing, BODY)
    process = readers._large._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    stuck = asyncio.create_task(readers.read(texts.tokenizing, BODY))
    assert (await readers.read(texts.tokenizing, b'{"prompt":"a"}')).echo
    assert not stuck.done()
    os.kill(process.pid, signal.SIGCONT)
    assert (await stuck).echo


async def test_no_reader_outlives_its_owner(readers: Readers) -> None:
    await readers.read(texts.tokenizing, BODY)
    running = children()
    assert running
    await readers.close()
    _, alive = psutil.wait_procs(running, timeout=10)
    assert alive == []


async def test_what_waits_to_be_read_is_bounded(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    await readers.read(texts.tokenizing, BODY)
    monkeypatch.setattr(lane, "READING_BYTES", replace(lane.READING_BYTES, value=2 * len(BODY)))
    process = readers._large._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    waiting = [asyncio.create_task(readers.read(texts.tokenizing, BODY)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await readers.read(texts.tokenizing, BODY)
    os.kill(process.pid, signal.SIGCONT)
    assert all(found.echo for found in await asyncio.gather(*waiting))
    assert (await readers.read(texts.tokenizing, BODY)).echo
