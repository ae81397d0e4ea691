"""An engine is warm before it is reported as started: it has computed a long prompt, a cached prefix, and a grammar."""

from __future__ import annotations

import asyncio
import socket
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kimi_k2_serving.engine import host, wire
from kimi_k2_serving.engine.warm_up import REST, WarmUp, warm_up
from kimi_k2_serving.settings import Settings


class Engine:
    """Remembers what it is asked to generate. `resolved` are SGLang's arguments after resolution."""

    def __init__(self, longest: int = 100_000, **resolved: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        arguments = {
            "chunked_prefill_size": 8192,
            "attn_dp_size": 1,
            "dp_size": 1,
            "grammar_backend": "xgrammar",
            "device": "cuda",
            **resolved,
        }
        self._scheduler_init_result = SimpleNamespace(
            scheduler_infos=[{"max_req_input_len": longest, "max_total_num_tokens": 100}]
        )
        self.tokenizer_manager = SimpleNamespace(
            context_len=100,
            num_reserved_tokens=0,
            model_config=SimpleNamespace(vocab_size=163_840),
            load_snapshot_reader=SimpleNamespace(read_all=list, path="/dev/shm/loads"),
            server_args=SimpleNamespace(resolved_dict=lambda: arguments, enable_deterministic_inference=False),
        )

    async def async_generate(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        await asyncio.sleep(0)
        return {}


def asked_of(engine: Engine) -> list[dict[str, Any]]:
    asyncio.run(warm_up(engine, "warm"))
    return engine.asked


def test_the_first_prompt_is_longer_than_a_chunk_and_the_second_begins_like_it() -> None:
    first, second = (each["input_ids"] for each in asked_of(Engine()))
    assert len(first) == len(second) > 8192
    assert first[:8192] == second[:8192]
    assert first != second
    # As in a text, where most tokens differ: equal ones would all go to the same experts.
    assert len(set(first)) > 2_000
    assert all(0 <= id_ < 163_840 for id_ in first)


def test_the_second_request_has_a_grammar_if_the_engine_has_them() -> None:
    assert ["regex" in each["sampling_params"] for each in asked_of(Engine())] == [False, True]
    assert ["regex" in each["sampling_params"] for each in asked_of(Engine(grammar_backend="none"))] == [False, False]


def test_every_data_parallel_group_gets_a_prompt_of_its_own() -> None:
    asked = asked_of(Engine(attn_dp_size=4))
    firsts = {tuple(each["input_ids"]) for each in asked if each["rid"].endswith("prompt")}
    assert len(firsts) == 4
    assert len({each["rid"] for each in asked}) == 8
    # All groups at once, so that SGLang's balancing gives each of them one.
    assert all(each["rid"].endswith("prompt") for each in asked[:4])


@pytest.mark.parametrize("longest", [10, 100, 5000])
def test_a_prompt_is_never_longer_than_the_engine_allows(longest: int) -> None:
    for each in asked_of(Engine(longest)):
        assert 0 < len(each["input_ids"]) + each["sampling_params"]["max_new_tokens"] < longest


def test_without_chunks_and_on_a_cpu_the_prompt_has_a_length_too() -> None:
    assert WarmUp.of_engine(Engine(chunked_prefill_size=-1)).length > 8192
    assert WarmUp.of_engine(Engine(device="cpu", chunked_prefill_size=2048)).length == 2 * REST


def test_an_engine_that_can_t_compute_the_prompts_can_t_start() -> None:
    class Broken(Engine):
        async def async_generate(self, **asked: Any) -> dict[str, Any]:
            raise RuntimeError("no kernel image")

    with pytest.raises(RuntimeError, match="no kernel image"):
        asked_of(Broken())


@pytest.mark.parametrize(("wanted", "generations"), [(True, 3), (False, 1)])
def test_it_is_done_before_started_unless_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, generations: int
) -> None:
    monkeypatch.setitem(sys.modules, "sglang", ModuleType("sglang"))
    monkeypatch.setitem(sys.modules, "sglang.version", SimpleNamespace(__version__="0"))
    monkeypatch.setattr("multiprocessing.resource_tracker.register", lambda *_: None)
    engine = Engine()
    assert asyncio.run(asked_before_started(engine, wire.Start({}, warm_up=wanted))) == generations


async def asked_before_started(engine: Engine, start: wire.Start) -> int:
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(host.serve(engine, SimpleNamespace(), start, theirs))
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    async for message in wire.messages(reader, wire.FromHost):
        assert isinstance(message, wire.Started)
        break
    asked = len(engine.asked)
    writer.close()
    await serving
    return asked


def test_the_variable_switches_it_off() -> None:
    assert Settings.read({"KIMI_K2_WARMUP": "0"}).warm_up is False
    assert Settings.read({"KIMI_K2_WARMUP": "1"}).warm_up is True
    assert Settings.read({}).warm_up is True
