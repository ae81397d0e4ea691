"""Asks an OpenAI-compatible server, whole or streamed, several cases at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from kimi_k2_serving.demo.evaluation.cases import Case, Object
from kimi_k2_serving.demo.evaluation.scoring import Outcome, judge
from kimi_k2_serving.demo.openai_answer import BadAnswer, EndpointAnswer, StreamedAnswer, read_whole

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
            try:
                outcome = judge(case, await ask(client, endpoint, case))
            except BadAnswer as error:
                outcome = judge(case, EndpointAnswer(), problem=str(error))
        done += 1
        progress(done)
        return outcome

    async with httpx.AsyncClient(headers=headers, timeout=endpoint.timeout) as client:
        return list(await asyncio.gather(*(one(client, case) for case in cases)))


async def ask(client: httpx.AsyncClient, endpoint: ChatEndpoint, case: Case) -> EndpointAnswer:
    """Raises BadAnswer."""
    url = f"{endpoint.url.rstrip('/')}/chat/completions"
    try:
        async with client.stream("POST", url, json=endpoint.body(case)) as response:
            if response.status_code != 200:
                raise BadAnswer(f"HTTP {response.status_code}: {(await response.aread())[:150]!r}")
            return await (_streamed(response) if endpoint.stream else _whole(response))
    except httpx.HTTPError as error:
        raise BadAnswer(f"{type(error).__name__}: {error}"[:200]) from None


async def _whole(response: httpx.Response) -> EndpointAnswer:
    return read_whole(await response.aread())


async def _streamed(response: httpx.Response) -> EndpointAnswer:
    answer = StreamedAnswer()
    async for line in response.aiter_lines():
        answer.feed(line)
    return answer.finish()
