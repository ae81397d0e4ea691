"""Asks an OpenAI-compatible server, whole or streamed, and reads its answers, several at a time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from kimi_k2_serving.demo.evaluation.cases import Case, Object
from kimi_k2_serving.demo.evaluation.reply import EndpointReply
from kimi_k2_serving.demo.evaluation.scoring import Outcome, judge

# The longest right answer has some 150 tokens.
MAX_TOKENS = 320


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """`url`: up to `/v1`. `enforced`: false asks that calls need not satisfy their schemas (`strict: false`)."""

    url: str
    model: str = "kimi_k2"
    key: str = ""
    stream: bool = False
    enforced: bool = True
    timeout: float = 300

    def body(self, case: Case) -> Object:
        """The request for a case: greedy and bounded."""
        body = {"model": self.model, "temperature": 0, "max_tokens": MAX_TOKENS, "stream": self.stream, **case.request}
        if not self.enforced and "tools" in body:
            body["tools"] = [
                {**tool, "function": {**tool["function"], "strict": False}} for tool in case.request["tools"]
            ]
        return body


def evaluate(
    endpoint: ChatEndpoint,
    cases: Sequence[Case],
    *,
    concurrency: int = 8,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Ask all cases. A request that fails is an outcome, too: nothing right in it."""
    return asyncio.run(_evaluate(endpoint, cases, concurrency, progress or (lambda _: None)))


async def _evaluate(
    endpoint: ChatEndpoint, cases: Sequence[Case], concurrency: int, progress: Callable[[int], None]
) -> list[Outcome]:
    places = asyncio.Semaphore(concurrency)
    done = 0
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}

    async def one(client: httpx.AsyncClient, case: Case) -> Outcome:
        nonlocal done
        async with places:
            reply = await ask(client, endpoint, case)
        done += 1
        progress(done)
        return judge(case, reply)

    async with httpx.AsyncClient(headers=headers, timeout=endpoint.timeout) as client:
        return list(await asyncio.gather(*(one(client, case) for case in cases)))


async def ask(client: httpx.AsyncClient, endpoint: ChatEndpoint, case: Case) -> EndpointReply:
    """One request. No exception: what went wrong is in the reply."""
    reply = EndpointReply()
    begin = time.monotonic()
    url = f"{endpoint.url.rstrip('/')}/chat/completions"
    try:
        if endpoint.stream:
            await _streamed(client, url, endpoint.body(case), reply)
        else:
            response = await client.post(url, json=endpoint.body(case))
            _read_whole(response.status_code, response.content, reply)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        reply.problem = f"{type(error).__name__}: {error}"[:200]
    reply.seconds = time.monotonic() - begin
    return reply


def _read_whole(status: int, content: bytes, reply: EndpointReply) -> None:
    if status != 200:
        reply.problem = f"HTTP {status}: {content[:150]!r}"
        return
    choice = json.loads(content)["choices"][0]
    reply.add(choice["message"])
    reply.reason = choice["finish_reason"]


async def _streamed(client: httpx.AsyncClient, url: str, body: Object, reply: EndpointReply) -> None:
    ended = False
    async with client.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            _read_whole(response.status_code, await response.aread(), reply)
            return
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                ended = True
                continue
            _add_chunk(json.loads(data), reply)
    if not ended and not reply.problem:
        reply.problem = "the stream ended without [DONE]"


def _add_chunk(chunk: dict[str, Any], reply: EndpointReply) -> None:
    if "error" in chunk:
        reply.problem = f"error in the stream: {str(chunk['error'])[:150]}"
    for choice in chunk.get("choices") or ():
        reply.add(choice.get("delta") or {})
        reply.reason = choice.get("finish_reason") or reply.reason
