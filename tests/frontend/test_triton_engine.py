"""The engine model over real gRPC: what is sent, what is read back, what a broken server looks like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from kimi_k2_serving.core import errors
from kimi_k2_serving.engine.port import Chunk, End, EndReason, Generation, TokenLogprob
from kimi_k2_serving.frontend import triton_engine
from kimi_k2_serving.frontend.errors import from_engine
from kimi_k2_serving.frontend.triton_engine import MODEL, TritonEngine
from kimi_k2_serving.triton.signatures import ENGINE_INPUTS

pytestmark = pytest.mark.anyio
INPUTS = frozenset(tensor.name for tensor in ENGINE_INPUTS)
Answer = dict[str, Any] | str | grpc.StatusCode | float


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Plays `answers` to each request: outputs, an error's text, a failing call, or a pause."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []
        self.cancelled = asyncio.Event()
        # How many calls this server ended itself.
        self.ended = 0

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for request in requests:
            raws = zip(request.inputs, request.raw_input_contents, strict=True)
            self.asked.append({each.name: decoded(each.datatype, raw) for each, raw in raws})
            try:
                for answer in self.answers:
                    match answer:
                        case str():
                            yield service_pb2.ModelStreamInferResponse(error_message=answer)
                        case grpc.StatusCode():
                            await context.abort(answer, "/secret/path")
                        case float():
                            await asyncio.sleep(answer)
                        case dict():
                            yield service_pb2.ModelStreamInferResponse(infer_response=response(answer))
                # Triton's stream takes a moment to end after the last response.
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        self.ended += 1


def decoded(datatype: str, raw: bytes) -> Any:
    if datatype == "BYTES":
        return raw[4:].decode()
    kinds: dict[str, Any] = {"INT32": np.int32, "BOOL": np.bool_}
    return np.frombuffer(raw, kinds[datatype]).tolist()


def response(outputs: dict[str, Any]) -> Any:
    message = service_pb2.ModelInferResponse(model_name=MODEL)
    for name, value in outputs.items():
        message.outputs.add(name=name)
        if isinstance(value, str):
            data = value.encode()
            raw = len(data).to_bytes(4, "little") + data
        else:
            raw = np.array(value, np.int32).tobytes()
        message.raw_output_contents.append(raw)
    return message


@asynccontextmanager
async def triton(*answers: Answer) -> AsyncIterator[tuple[TritonEngine, Triton]]:
    servicer = Triton(list(answers))
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    engine = TritonEngine(f"127.0.0.1:{port}")
    await engine.open()
    try:
        yield engine, servicer
    finally:
        await engine.close()
        await server.stop(None)


def run(**options: Any) -> Generation:
    return Generation(
        **{"uid": "u1", "input_ids": [5, 6], "sampling": {"max_new_tokens": 3}, "stream": True, **options}
    )


async def chunks(engine: TritonEngine, asked: Generation) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(asked)]


async def test_a_generation_is_the_models_own_tensors() -> None:
    last = {"output_ids": [8], "finish_reason": "stop", "num_cached_tokens": [1]}
    async with triton({"output_ids": [7, 300_000]}, {**last, "stop_reason": "8"}) as (engine, servicer):
        first, second = await chunks(engine, run(top_logprobs=2, priority=-3))
    assert first.ids == (7, 300_000)
    assert first.end is None
    assert (second.ids, second.end) == ((8,), End(EndReason.STOP, "8"))
    assert (second.usage.completion, second.usage.cached) == (1, 1)
    (asked,) = servicer.asked
    assert asked["input_ids"] == [5, 6]
    assert json.loads(asked["sampling_parameters"]) == {"max_new_tokens": 3}
    assert asked["request_context"] == "u1"
    assert (asked["stream"], asked["return_logprobs"], asked["top_logprobs"]) == ([True], [True], [2])
    assert asked["request_priority"] == [-3]
    assert set(asked) <= INPUTS


async def test_log_probabilities_are_each_ids_own_and_the_best_in_order() -> None:
    entries = [
        {
            "7": {"logprob": -3.0, "rank": None, "decoded_token": "g"},
            "2": {"logprob": -1.0, "rank": 2, "decoded_token": "b"},
            "1": {"logprob": -0.5, "rank": 1, "decoded_token": "a"},
        }
    ]
    answer = {"output_ids": [7], "logprobs": json.dumps(entries), "finish_reason": "stop"}
    async with triton(answer) as (engine, _):
        (chunk,) = await chunks(engine, run(top_logprobs=2))
    assert chunk.logprobs == (TokenLogprob(7, -3.0, ((1, -0.5), (2, -1.0))),)


async def test_what_is_known_of_the_cache_comes_before_the_answers_end() -> None:
    first = {"output_ids": [7], "num_cached_tokens": [1]}
    async with triton(first, {"output_ids": [8], "finish_reason": "stop"}) as (engine, servicer):
        chunk, _ = await chunks(engine, run())
    assert servicer.asked[0]["return_num_input_tokens"] == [True]
    assert chunk.usage.cached == 1


async def test_a_salt_is_sent_and_one_that_the_model_can_not_take_is_never_dropped() -> None:
    message = "[request id: <id_unknown>] unexpected inference input 'cache_salt' for model 'kimi_k2_engine'"
    async with triton(message) as (engine, servicer):
        with pytest.raises(errors.Internal):
            await chunks(engine, run(cache_salt="pepper"))
    assert servicer.asked[0]["cache_salt"] == "pepper"


async def test_closing_the_iterator_cancels_the_call_before_the_first_token() -> None:
    async with triton(60.0) as (engine, servicer):
        asking = asyncio.ensure_future(anext(aiter(engine.generate(run()))))
        async with asyncio.timeout(30):
            while not servicer.asked:  # noqa: ASYNC110 - the server tells by its list alone
                await asyncio.sleep(0.01)
            asking.cancel()
            await servicer.cancelled.wait()


async def test_closing_the_iterator_in_mid_stream_cancels_the_call() -> None:
    async with triton({"output_ids": [7]}, 60.0) as (engine, servicer), asyncio.timeout(30):
        async with aclosing(engine.generate(run())) as answer:  # type: ignore[type-var]
            await anext(answer)
        await servicer.cancelled.wait()


async def test_a_call_whose_last_response_has_come_is_read_to_its_end_not_cancelled() -> None:
    """Triton 24.10 may keep a request for ever whose call is cancelled while it ends."""
    last: Answer = {"output_ids": [7], "finish_reason": "stop"}
    for answer in (last, "overloaded: full", "missing_field: input_ids: give exactly one"):
        async with triton(answer) as (engine, servicer), asyncio.timeout(30):
            with suppress(errors.ServingError):
                await chunks(engine, run())
            await engine.health()
            while servicer.ended < 2:  # noqa: ASYNC110 - the counter alone tells
                await asyncio.sleep(0.01)
            assert not servicer.cancelled.is_set()


async def test_a_call_that_does_not_end_after_its_last_response_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_engine, "CLOSE_SECONDS", 0.05)
    async with triton({"output_ids": [7], "finish_reason": "stop"}, 60.0) as (engine, servicer), asyncio.timeout(30):
        await chunks(engine, run())
        await servicer.cancelled.wait()


@pytest.mark.parametrize(
    ("message", "kind", "field"),
    [
        ("invalid_value: temperature: too hot", errors.InvalidValue, "temperature"),
        ("in ensemble 'x', overloaded: the queue is full", errors.Overloaded, ""),
        ("engine_unavailable: the engine is restarting; retry in 12 s", errors.EngineUnavailable, ""),
        ("deadline_exceeded: past timeout_ms", errors.DeadlineExceeded, ""),
        ("Request for unknown model: 'kimi_k2_engine' is not found", errors.EngineUnavailable, ""),
        ("something with a /path: in it", errors.Internal, ""),
    ],
)
async def test_the_models_own_errors_come_back_into_the_tree(
    message: str, kind: type[errors.ServingError], field: str
) -> None:
    async with triton(message) as (engine, _):
        with pytest.raises(kind) as caught:
            await chunks(engine, run())
    assert caught.value.field == field
    assert "/path" not in str(caught.value)


def test_the_time_to_retry_is_read_from_the_sentence() -> None:
    error = from_engine("engine_unavailable: the engine is restarting; retry in 12 s")
    assert isinstance(error, errors.EngineUnavailable)
    assert error.retry_after == 12
    assert from_engine("overloaded: full").retry_after == 1  # type: ignore[attr-defined]


async def test_a_connection_that_breaks_is_unavailable_before_and_lost_after_the_first_chunk() -> None:
    async with triton(grpc.StatusCode.UNAVAILABLE) as (engine, _):
        with pytest.raises(errors.EngineUnavailable):
            await chunks(engine, run())
    async with triton({"output_ids": [7]}, grpc.StatusCode.UNAVAILABLE) as (engine, _):
        with pytest.raises(errors.EngineLost) as caught:
            await chunks(engine, run())
    assert "/secret" not in str(caught.value)


async def test_health_is_the_engines_own_word_and_costs_no_generation() -> None:
    async with triton("missing_field: input_ids: give exactly one") as (engine, servicer):
        assert (await engine.health()).ready
        assert set(servicer.asked[0]) == {"stream"}
    async with triton("overloaded: full") as (engine, _):
        assert (await engine.health()).ready
    async with triton("engine_unavailable: the engine is restarting; retry in 12 s") as (engine, _):
        health = await engine.health()
        assert not health.ready
        assert "restarting" in health.reason
    async with triton(grpc.StatusCode.UNAVAILABLE) as (engine, _):
        assert not (await engine.health()).ready


async def collect_into(engine: TritonEngine, found: list[Chunk], *, pause: float = 0.0) -> None:
    async for chunk in engine.generate(run()):
        found.append(chunk)
        await asyncio.sleep(pause)


async def test_two_missing_beats_are_the_end_of_the_engine() -> None:
    async with triton({"output_ids": [7]}, 30.0) as (engine, servicer):
        engine._beat = 0.5
        found: list[Chunk] = []
        with pytest.raises(errors.EngineLost):
            await collect_into(engine, found)
        assert [chunk.ids for chunk in found] == [(7,)]
        assert servicer.asked[-1]["heartbeat_ms"] == [500]


@pytest.mark.slow
async def test_beats_are_no_chunks_and_a_slow_reader_is_no_silence() -> None:
    beat: Answer = {"output_ids": []}
    last: Answer = {"output_ids": [8], "finish_reason": "stop"}
    # Silence would be the end after 2.3 s; the beats go on for longer, and so does each pause of the reader.
    beats: list[Answer] = [beat, 0.25] * 10
    async with triton(beat, {"output_ids": [7]}, *beats, last) as (engine, _):
        engine._beat = 1.0
        found: list[Chunk] = []
        await collect_into(engine, found, pause=2.5)
        assert [chunk.ids for chunk in found] == [(7,), (8,)]


async def test_a_channel_that_closes_under_a_generation_is_a_lost_engine() -> None:
    async with triton({"output_ids": [7]}, 30.0) as (engine, _):
        found: list[Chunk] = []
        telling = asyncio.create_task(collect_into(engine, found))
        async with asyncio.timeout(30):
            while not found:  # noqa: ASYNC110 - the list alone tells
                await asyncio.sleep(0.01)
        await engine.close()
        with pytest.raises(errors.EngineLost):
            await telling
