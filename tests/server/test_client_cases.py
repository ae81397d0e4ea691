"""One table of cases for the four clients, blocking and asyncio over HTTP and gRPC, on the real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import pytest

from kimi_k2_client import (
    AsyncClient,
    AsyncStream,
    Client,
    DeadlineExceeded,
    Finished,
    FinishReason,
    InvalidRequest,
    NotFound,
    Stream,
    TooManyRounds,
    WrongPort,
    collect,
    collect_tokens,
)
from tests.server.running import Server

CLIENTS = [(scheme, is_async) for scheme in ("http", "grpc") for is_async in (False, True)]
GREEDY = {"temperature": 0, "max_tokens": 12}


class Ticket(pydantic.BaseModel):
    kind: Literal["bug", "question"]
    open: bool


def get_time(zone: Literal["UTC", "CET"]) -> str:
    """The time in a zone."""
    return f"12:00 {zone}"


@dataclass(frozen=True)
class Caller:
    """One of the clients. `call` gives a method's result; of a stream, all events or the first `take`."""

    url: str
    is_async: bool

    def call(self, method: str, *args: Any, take: int | None = None, **options: Any) -> Any:
        if self.is_async:
            return asyncio.run(self._acall(method, args, take, options))
        with Client(self.url, timeout=120) as client:
            result = getattr(client, method)(*args, **options)
            if not isinstance(result, Stream):
                return result
            with result:
                return [event for event, _ in zip(result, range(take), strict=False)] if take else list(result)

    async def _acall(self, method: str, args: Any, take: int | None, options: Any) -> Any:
        async with AsyncClient(self.url, timeout=120) as client:
            result = getattr(client, method)(*args, **options)
            if not isinstance(result, AsyncStream):
                return await result
            async with result:
                return [await anext(result) for _ in range(take)] if take else [event async for event in result]


@pytest.fixture(params=CLIENTS, ids=[f"{scheme}-{'asyncio' if a else 'blocking'}" for scheme, a in CLIENTS])
def caller(request: pytest.FixtureRequest, server: Server) -> Caller:
    scheme, is_async = request.param
    return Caller(f"{scheme}://127.0.0.1:{server.http if scheme == 'http' else server.grpc}", is_async)


def test_a_chat_has_content_reason_and_usage(caller: Caller) -> None:
    answer = caller.call("chat", "Hello", **GREEDY)
    assert answer.content
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_ends_with_finished_and_adds_up_to_an_answer(caller: Caller) -> None:
    events = caller.call("chat_stream", "Hello", **GREEDY)
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1
    assert collect(events).content


def test_ids_and_text_are_continued(caller: Caller) -> None:
    assert len(caller.call("generate", [100, 200, 300], max_tokens=5, ignore_eos=True).output_ids) == 5
    assert caller.call("complete", "Once upon", max_tokens=5, ignore_eos=True).usage.completion_tokens == 5
    assert len(collect_tokens(caller.call("complete_stream", "Once", max_tokens=5, ignore_eos=True)).output_ids) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 5, "min_p": 0.05, "top_p": 0.9},
        {"frequency_penalty": 0.5, "presence_penalty": 0.5, "repetition_penalty": 1.1},
        {"stop": ["\n"], "stop_token_ids": [1]},
        {"logit_bias": {5: -100.0}, "min_tokens": 2},
        {"priority": 5, "deadline": 60.0},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_sampling_option_is_accepted(caller: Caller, options: dict[str, Any]) -> None:
    assert caller.call("chat", "Hello", max_tokens=4, **options).finish_reason in FinishReason


def test_a_seed_without_effect_comes_with_a_notice(caller: Caller) -> None:
    assert "seed" in caller.call("chat", "Hello", max_tokens=2, seed=3).notices[0]


def test_tools_are_run_until_the_cap(caller: Caller) -> None:
    seen: list[Any] = []
    with pytest.raises(TooManyRounds) as caught:
        caller.call(
            "run_tools", "What time is it?", [get_time], max_rounds=1, tool_choice="required", on_answer=seen.append,
            parallel_tool_calls=False, max_tokens=100,
        )  # fmt: skip
    *_, result = caught.value.messages
    assert result["content"] in ("12:00 UTC", "12:00 CET")
    assert seen[0].tool_calls[0].id == result["tool_call_id"]


def test_an_answer_is_a_pydantic_model(caller: Caller) -> None:
    assert isinstance(caller.call("chat_as", Ticket, "The page does not load.", max_tokens=100), Ticket)


def test_leaving_a_stream_early_leaves_the_server_usable(caller: Caller) -> None:
    assert len(caller.call("chat_stream", "Hello", take=2, max_tokens=4000, ignore_eos=True)) == 2
    assert caller.call("health").model_ready


def test_errors_have_the_same_types(caller: Caller) -> None:
    wrong: list[tuple[type[Exception], Callable[[], Any]]] = [
        (InvalidRequest, lambda: caller.call("chat", "Hello", top_p=3)),
        (InvalidRequest, lambda: caller.call("chat", [{"role": "nobody", "content": "x"}])),
        (DeadlineExceeded, lambda: caller.call("chat", "Hello", deadline=0.3, max_tokens=8000, ignore_eos=True)),
        (NotFound, lambda: caller.call("stats", "no_such_model")),
    ]
    for error, ask in wrong:
        with pytest.raises(error) as caught:
            ask()
        assert type(caught.value) is error, caught.value


def test_health_models_and_stats(caller: Caller) -> None:
    health = caller.call("health")
    assert (health.live, health.ready, health.model_ready, health.detail) == (True, True, True, "")
    assert {"kimi_k2", "kimi_k2_engine"} <= {model.name for model in caller.call("models") if model.is_ready}
    before = caller.call("stats", "kimi_k2_engine").succeeded
    caller.call("generate", "Hello", max_tokens=1)
    assert caller.call("stats", "kimi_k2_engine").succeeded > before
    caller.call("wait_ready", 5)


def test_the_other_ports_are_named(caller: Caller, server: Server) -> None:
    other = server.grpc if caller.url.startswith("http") else server.http
    scheme = caller.url.partition(":")[0]
    wanted = "grpc" if scheme == "http" else "http"
    with pytest.raises(WrongPort, match=f"{wanted}://127.0.0.1:{other}"):
        Caller(f"{scheme}://127.0.0.1:{other}", caller.is_async).call("chat", "Hello")
    if scheme == "http":
        for method, *args in (("chat", "Hello"), ("health",), ("models",), ("stats",)):
            with pytest.raises(WrongPort, match="is not Triton"):
                Caller(f"http://127.0.0.1:{server.metrics}", caller.is_async).call(method, *args)
