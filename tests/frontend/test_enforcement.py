"""What no grammar held is said in every dialect, whole as streamed; waiting for an unknown schema takes no thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import httpx
import pytest

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.inspection import Report
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.reports import enforcement
from kimi_k2_serving.frontend.service import Service
from kimi_k2_serving.grammar.constraint import Constraint
from tests.frontend.asking import ANTHROPIC_LOOK, FLAT_LOOK, LOOK, chat, events, frames, messages
from tests.support.enforcer import LOOSE as LOOSE_COMMENT
from tests.support.enforcer import InlineEnforcer

pytestmark = pytest.mark.anyio

PARAMETERS = {"$comment": LOOSE_COMMENT, "type": "object", "properties": {"n": {"maxLength": 2}}}
PLACE = "tools[0].function.parameters: loose"
LOOSE = {"type": "function", "function": {"name": "loose", "parameters": PARAMETERS}}
ASK = 'call loose {"n": "ab"} ; loose {"n": "abc"}'
# The same places as the other dialects' clients know them.
FLAT_PLACE = "tools[0].parameters: loose"
ANTHROPIC_PLACE = "tools[0].input_schema: loose"
REPORT = {"relaxed": [PLACE], "invalid": [{"index": 1, "problems": ["arguments.n: maxLength"]}]}


async def test_chat_completions(http: httpx.AsyncClient) -> None:
    body = chat(ASK, tools=[LOOSE])
    document = (await http.post("/v1/chat/completions", json=body)).json()
    assert document["enforcement"] == REPORT
    assert document["choices"][0]["finish_reason"] == "tool_calls"
    arguments = [each["function"]["arguments"] for each in document["choices"][0]["message"]["tool_calls"]]
    assert arguments == ['{"n": "ab"}', '{"n": "abc"}']
    chunks = frames(await http.post("/v1/chat/completions", json={**body, "stream": True}))
    (found,) = [chunk for chunk in chunks if "enforcement" in chunk and chunk != "[DONE]"]
    assert found["enforcement"] == REPORT
    assert found["choices"][0]["finish_reason"] == "tool_calls"


async def test_of_several_choices_each_is_named(http: httpx.AsyncClient) -> None:
    body = chat(ASK, tools=[LOOSE], n=2)
    document = (await http.post("/v1/chat/completions", json=body)).json()
    assert document["enforcement"] == {
        "relaxed": [PLACE],
        "invalid": [{"choice": choice, **REPORT["invalid"][0]} for choice in (0, 1)],  # type: ignore[dict-item]
    }
    chunks = frames(await http.post("/v1/chat/completions", json={**body, "stream": True}))
    found = {chunk["choices"][0]["index"]: chunk["enforcement"] for chunk in chunks if "enforcement" in chunk}
    assert found == {0: REPORT, 1: REPORT}


async def test_responses(http: httpx.AsyncClient) -> None:
    tool = {"type": "function", **LOOSE["function"]}  # type: ignore[dict-item]
    body = {"model": "kimi_k2", "input": ASK, "tools": [tool]}
    report = {**REPORT, "relaxed": [FLAT_PLACE]}
    assert (await http.post("/v1/responses", json=body)).json()["enforcement"] == report
    named = events(await http.post("/v1/responses", json={**body, "stream": True}))
    assert named[-1][1]["response"]["enforcement"] == report
    assert not any("enforcement" in json.dumps(value) for _, value in named[:-1])


async def test_messages(http: httpx.AsyncClient) -> None:
    body = messages(ASK, tools=[{"name": "loose", "input_schema": PARAMETERS}])
    document = (await http.post("/v1/messages", json=body)).json()
    report = {**REPORT, "relaxed": [ANTHROPIC_PLACE]}
    assert document["enforcement"] == report
    assert document["stop_reason"] == "tool_use"
    named = dict(events(await http.post("/v1/messages", json={**body, "stream": True})))
    assert named["message_delta"]["enforcement"] == report


async def test_content_that_was_to_be_json(http: httpx.AsyncClient) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    document = (await http.post("/v1/chat/completions", json=chat('say {"n": "abc"}', response_format=wanted))).json()
    assert document["enforcement"] == {
        "relaxed": ["response_format.json_schema.schema: loose"],
        "invalid_content": ["answer.n: maxLength"],
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat('call look {"city": 5}', tools=[LOOK])),
        ("/v1/responses", {"model": "kimi_k2", "input": "say a", "tools": [FLAT_LOOK]}),
        ("/v1/messages", messages("say a", tools=[ANTHROPIC_LOOK])),
    ],
)
async def test_where_everything_is_held_nothing_is_said(http: httpx.AsyncClient, path: str, body: Any) -> None:
    for stream in (False, True):
        assert "enforcement" not in (await http.post(path, json={**body, "stream": stream})).text


async def test_what_was_relaxed_and_judged_is_counted(http: httpx.AsyncClient) -> None:
    await http.post("/v1/chat/completions", json=chat(ASK, tools=[LOOSE]))
    await http.post("/v1/chat/completions", json=chat("say a", tools=[LOOK]))
    lines = dict(line.rsplit(" ", 1) for line in (await http.get("/metrics")).text.splitlines() if line[0] != "#")
    assert float(lines["kimi_k2_frontend_relaxed_requests_total"]) == 1
    assert float(lines['kimi_k2_frontend_inspected_total{kind="call"}']) == 2
    assert float(lines['kimi_k2_frontend_invalid_total{kind="call"}']) == 1
    assert float(lines['kimi_k2_frontend_inspected_total{kind="content"}']) == 0


def test_reports_of_several_choices_add_up() -> None:
    fine, wrong = Report(("p",), calls=1), Report(("p",), contents=1, invalid_content=("answer: type",))
    assert enforcement((None, None)) == {}
    assert enforcement((fine, wrong)) == {
        "enforcement": {"relaxed": ["p"], "invalid_content": [{"choice": 1, "problems": ["answer: type"]}]}
    }


class Slow(InlineEnforcer):
    """Never says anything of tools by itself."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.waiting: list[Future[Constraint]] = []

    def ask(self, conversation: Conversation) -> Future[Constraint]:
        if not conversation.tools:
            return super().ask(conversation)
        self.waiting.append(Future())
        return self.waiting[-1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - futures of another thread
            await asyncio.sleep(0.001)


async def test_unknown_schemas_hold_no_thread_and_those_who_leave_wait_no_longer(
    make_service: Callable[..., Service], small_vocabulary: Vocabulary
) -> None:
    service = make_service()
    slow = Slow(small_vocabulary)
    service.model = replace(service.model, enforcer=slow)
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        ask = chat("say a", tools=[LOOK])
        asking = [asyncio.create_task(client.post("/v1/chat/completions", json=ask)) for _ in range(12)]
        await until(lambda: len(slow.waiting) == len(asking))
        assert (await client.post("/v1/chat/completions", json=chat("say a"))).status_code == 200
        left = asking.pop()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await until(lambda: any(future.cancelled() for future in slow.waiting))
        for future in slow.waiting:
            if not future.cancelled():
                future.set_exception(InvalidSchema("takes more than 2 s", field="tools[0].function.parameters"))
        for answer in await asyncio.gather(*asking):
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "tools[0].function.parameters"


async def test_the_worker_ends_with_the_service(service: Service) -> None:
    worker = service.model.enforcer.worker
    await service.close()
    assert getattr(worker, "closed", False)
