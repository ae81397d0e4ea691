"""The engine model while postprocess reads the ids itself: what still comes through Triton, and that it ends once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_pb_utils as triton
import pytest
from scripted_engine import ScriptedEngine, Step, Wait
from test_engine_service import ROOMY, Bytes, chunk, until

from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.engine.port import Chunk, End, EndReason, TokenUsage
from kimi_k2_serving.triton.engine import flight
from kimi_k2_serving.triton.engine.service import EngineService
from kimi_k2_serving.triton.engine.serving import Serving

# What the ensemble asks for.
OUTPUTS = ("output_ids", "finish_reason", "num_input_tokens", "num_cached_tokens", "num_output_tokens", "index")
OUTPUTS += ("request_context", "relay")
RELAYED = Chunk((), "", TokenUsage(7), relayed=True)
SCRIPTS: dict[int, tuple[Step, ...]] = {
    1: (chunk("a"), Wait(0.05), RELAYED, Wait(0.1), Chunk((), "", TokenUsage(7, 9, 3), End(EndReason.STOP))),
    2: (chunk("a"), Wait(0.05), RELAYED, Wait(0.1), EngineLost("the engine died")),
    3: (chunk("a"), Wait(0.05), RELAYED, Wait(30), EngineLost("the engine died")),
    4: (chunk("a"), Wait(0.05), EngineLost("the engine died")),
    5: (chunk("a"), RELAYED, EngineLost("the engine died")),
    6: (chunk("a"), chunk("b"), RELAYED, Chunk((), "", TokenUsage(7, 9, 3), End(EndReason.STOP))),
}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EngineService, ScriptedEngine]]:
    monkeypatch.setattr(flight, "RELAYED_SECONDS", 0.2)
    scripted = ScriptedEngine(SCRIPTS)
    running = EngineService(scripted, Bytes(), Serving("engine", tmp_path / "runtime", ROOMY, 5.0, None))
    running.start()
    yield running, scripted
    running.stop()


def ask(running: EngineService, number: int, outputs: tuple[str, ...] = OUTPUTS, **more: Any) -> triton.Sender:
    inputs = {"input_ids": [number], "stream": True, "request_context": "u tag\nrest", **more}
    request = triton.Request(inputs, outputs=outputs)
    running.execute([request])
    return request.sender


def found(sender: triton.Sender) -> list[dict[str, Any]]:
    until(lambda: sender.finals == 1)
    return [triton.outputs(each) for each in sender.sent if each.error is None]


def test_after_relay_only_the_end_comes_with_the_number_of_all_ids(
    engine: tuple[EngineService, ScriptedEngine],
) -> None:
    running, scripted = engine
    first, relay, last = found(ask(running, 1))
    assert scripted.generations[0].relayed
    assert (first["output_ids"], first["request_context"], "relay" in first) == (97, "u tag\nrest", False)
    assert (relay["output_ids"], relay["relay"], relay["request_context"]) == ([], "", "u tag")
    assert (last["output_ids"], last["finish_reason"], last["num_output_tokens"]) == ([], "stop", 9)
    assert "relay" not in last


def test_an_error_after_relay_is_an_output_and_before_it_tritons(engine: tuple[EngineService, ScriptedEngine]) -> None:
    running, _ = engine
    last = ask(running, 2)
    assert found(last)[-1] == {
        "output_ids": [],
        "relay": "engine_lost: the engine died",
        "request_context": "u tag",
    }
    assert last.sent[-1].error is None
    before = ask(running, 4)
    until(lambda: before.finals == 1)
    assert str(before.sent[-1].error) == "engine_lost: the engine died"


def test_an_error_that_overtakes_relay_is_tritons(engine: tuple[EngineService, ScriptedEngine]) -> None:
    """Postprocess has then no open response."""
    running, _ = engine
    sender = ask(running, 5)
    until(lambda: sender.finals == 1)
    relayed = any("relay" in triton.outputs(each) for each in sender.sent[:-1])
    assert (sender.sent[-1].error is None) == relayed


def test_a_relayed_request_gets_empty_responses_and_ends_at_its_deadline(
    engine: tuple[EngineService, ScriptedEngine],
) -> None:
    running, scripted = engine
    begin = time.monotonic()
    responses = found(ask(running, 3, timeout_ms=1500))
    assert time.monotonic() - begin < 20
    ticks = responses[2:-1]
    assert 3 <= len(ticks) <= 8
    assert all(each == {"output_ids": [], "request_context": "u tag"} for each in ticks)
    assert responses[-1]["relay"].startswith("deadline_exceeded: ")
    until(lambda: scripted.in_flight == 0)


@pytest.mark.parametrize(
    "asked",
    [
        {"stream": False},
        {"n": 2},
        {"heartbeat_ms": 1000},
        {"return_logprobs": True},
        {"return_cumulative_logprob": True},
        {"return_prompt_logprobs": True},
        {"token_reader": "claim"},
        {"outputs": (*OUTPUTS, "text_output")},
    ],
    ids=str,
)
def test_only_plain_ids_of_one_streamed_answer_may_be_relayed(
    engine: tuple[EngineService, ScriptedEngine], asked: dict[str, Any]
) -> None:
    running, scripted = engine
    ask(running, 4, **asked)
    until(lambda: bool(scripted.generations))
    assert not any(each.relayed for each in scripted.generations)


def test_the_end_never_comes_with_the_response_that_tells_of_the_relay(
    engine: tuple[EngineService, ScriptedEngine],
) -> None:
    """Postprocess would end the answer without the ids that come past Triton."""
    running, _ = engine
    for _ in range(20):
        responses = found(ask(running, 6))
        assert [each for each in responses if "relay" in each and "finish_reason" in each] == []
        assert ("relay" in responses[-2], responses[-1]["num_output_tokens"]) == (True, 9)
