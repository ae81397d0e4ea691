"""The engine model over a scripted engine: one ending per request, on every path."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_pb_utils as triton
import pytest
from scripted_engine import ScriptedEngine, Step, Wait
from tests.support.attempts import quickest

from kimi_k2_serving.core import limits
from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.engine.abort_channel import AbortSender
from kimi_k2_serving.engine.admission import Capacity
from kimi_k2_serving.engine.port import Chunk, End, EndReason, TokenLogprob, TokenUsage
from kimi_k2_serving.triton.engine.service import EngineService
from kimi_k2_serving.triton.engine.serving import Serving
from kimi_k2_serving.triton.server_watch import TritonServer


class Bytes:
    """One id per byte."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode("utf-8", "replace")


def chunk(text: str, *, end: EndReason | None = None, matched: str | int | None = None) -> Chunk:
    ids = tuple(text.encode())
    return Chunk(
        ids,
        text,
        TokenUsage(7, len(ids), 3),
        End(end, matched) if end else None,
        tuple(TokenLogprob(i, -0.5) for i in ids),
    )


ROOMY = Capacity(requests=1000, prompt_tokens=100_000, queue=1000, queue_seconds=10)
HELLO = (chunk("He"), chunk("l"), chunk("lo", end=EndReason.LENGTH))
MANY = (*(chunk(str(number)) for number in range(9)), chunk("9", end=EndReason.STOP))
SCRIPTS: dict[int, tuple[Step, ...]] = {
    1: (HELLO[0], Wait(0.05), *HELLO[1:]),
    2: (chunk("a"), Wait(0.05), EngineLost("the engine died")),
    3: (chunk("a"), Wait(30), chunk("b", end=EndReason.STOP)),
    4: (Wait(30), chunk("b", end=EndReason.STOP)),
    7: tuple(each for number in range(1000) for each in (Wait(0.01), chunk(str(number % 10)))),
    6: tuple(each for part in MANY for each in (Wait(0.1), part)),
    5: (chunk("one S"), chunk("TO"), chunk("P two", end=EndReason.STOP, matched="STOP")),
    ord("H"): HELLO,
}


@contextmanager
def service(
    tmp_path: Path,
    capacity: Capacity = ROOMY,
    *,
    slow_reader_seconds: float = 5.0,
    server: TritonServer | None = None,
    context_length: int = 1000,
    adapters: tuple[str, ...] = (),
) -> Iterator[tuple[EngineService, ScriptedEngine]]:
    engine = ScriptedEngine(SCRIPTS, context_length=context_length)
    serving = Serving("engine", tmp_path / "runtime", capacity, slow_reader_seconds, server, adapters=adapters)
    running = EngineService(engine, Bytes(), serving)
    running.start()
    try:
        yield running, engine
    finally:
        running.stop()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def ask(running: EngineService, parameters: str = "", **inputs: Any) -> triton.Sender:
    request = triton.Request(inputs, parameters)
    running.execute([request])
    return request.sender


def answers(sender: triton.Sender) -> list[dict[str, Any]]:
    until(lambda: sender.finals == 1)
    assert all(response.error is None for response in sender.sent), sender.sent[-1].error
    return [triton.outputs(response) for response in sender.sent]


def error(sender: triton.Sender) -> tuple[str, int]:
    until(lambda: sender.finals == 1)
    failure = sender.sent[-1].error
    assert failure is not None
    return str(failure), failure.code


def test_without_streaming_there_is_exactly_one_response(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        assert answers(ask(running, input_ids=[1, 2])) == [
            {
                "text_output": "Hello",
                "output_ids": list(b"Hello"),
                "finish_reason": "length",
                "num_input_tokens": 7,
                "num_output_tokens": 5,
                "num_cached_tokens": 3,
            }
        ]


def test_streamed_responses_put_together_are_the_whole_answer_and_the_last_is_final(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        responses = answers(ask(running, text_input="Hi", stream=True, return_num_output_tokens=True))
        assert "".join(each["text_output"] for each in responses) == "Hello"
        assert sum(each["num_output_tokens"] for each in responses) == 5
        assert ["finish_reason" in each for each in responses] == [False] * (len(responses) - 1) + [True]


def test_the_counts_of_the_prompt_come_with_every_response_where_asked_for(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        counts = {"num_input_tokens": 7, "num_cached_tokens": 3}
        asked = answers(ask(running, input_ids=[1], stream=True, return_num_input_tokens=True))
        assert len(asked) > 1
        assert all(counts.items() <= each.items() for each in asked)
        *earlier, last = answers(ask(running, input_ids=[1], stream=True))
        assert not any(counts.keys() & each.keys() for each in earlier)
        assert counts.items() <= last.items()


def test_only_the_outputs_that_are_asked_for_are_sent(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        request = triton.Request({"input_ids": [1], "stream": True}, outputs=["output_ids", "finish_reason"])
        running.execute([request])
        *earlier, last = answers(request.sender)
        assert earlier
        assert all(set(each) == {"output_ids"} for each in earlier)
        assert set(last) == {"output_ids", "finish_reason"}


def test_the_request_context_is_whole_once_and_then_its_uid(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        responses = answers(ask(running, input_ids=[1], stream=True, request_context="u1\nanything\nat all"))
        contexts = [each["request_context"] for each in responses]
        assert contexts == ["u1\nanything\nat all", *["u1"] * (len(responses) - 1)]
        assert len(responses) > 1
        assert engine.generations[0].uid == "u1"


def test_a_stop_string_split_over_chunks_never_shows(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        responses = answers(ask(running, input_ids=[5], stream=True, stop_words=["STOP", ""]))
        assert "".join(each["text_output"] for each in responses) == "one "
        assert responses[-1]["stop_reason"] == "STOP"
        assert engine.generations[0].sampling["stop"] == ["STOP"]


def test_an_engine_that_dies_mid_answer_gives_one_error_and_nothing_after_it(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        sender = ask(running, input_ids=[2], stream=True)
        assert error(sender) == ("engine_lost: the engine died", triton.TritonError.UNAVAILABLE)
        assert len(sender.sent) == 2


@pytest.mark.parametrize("script", [3, 4], ids=["in decode", "before the first token"])
def test_a_cancelled_request_ends_with_one_error_and_frees_the_engine(tmp_path: Path, script: int) -> None:
    with service(tmp_path) as (running, engine):
        senders = []

        def cancelled() -> None:
            senders[-1].cancelled = True
            assert error(senders[-1])[1] == triton.TritonError.CANCELLED
            until(lambda: engine.in_flight == 0)

        def begun() -> None:
            senders.append(ask(running, input_ids=[script], stream=True))
            until(lambda: engine.in_flight == 1)

        assert quickest(cancelled, 0.25, before=begun) < 0.25


def test_an_abort_over_the_channel_ends_a_request_by_its_uid(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        sender = ask(running, input_ids=[4], stream=True, request_context="wanted")
        until(lambda: engine.in_flight == 1)
        channel = AbortSender(tmp_path / "runtime")
        channel.abort("unknown")
        channel.abort("wanted")
        channel.close()
        assert answers(sender)[-1]["finish_reason"] == "abort"


def test_ids_gather_while_the_next_step_has_not_taken_the_last_responses(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        sender = ask(running, input_ids=[6], stream=True, request_context="wanted tag")
        other = ask(running, input_ids=[6], stream=True, request_context="other tag")
        until(lambda: engine.in_flight == 2)
        channel = AbortSender(tmp_path / "runtime")
        channel.confirm(["unknown", "wanted"])
        channel.close()
        # Without receipts each chunk is a response.
        assert len(answers(other)) == len(MANY)
        responses = answers(sender)
        assert "".join(each["text_output"] for each in responses) == "0123456789"
        assert len(responses) < len(MANY)


def test_a_lost_receipt_is_noticed_by_a_later_one_and_a_late_one_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kimi_k2_serving.triton.engine.service.OVERTAKEN_SECONDS", 0.05)
    # Within this test no response is lost by its age alone.
    monkeypatch.setattr("kimi_k2_serving.triton.engine.service.LOST_SECONDS", 60.0)
    with service(tmp_path) as (running, engine):
        lost = ask(running, input_ids=[7], stream=True, request_context="lost tag")
        ask(running, input_ids=[7], stream=True, request_context="other tag")
        until(lambda: engine.in_flight == 2)
        channel = AbortSender(tmp_path / "runtime")
        for uid in ("lost", "other"):
            channel.confirm([uid])
        outboxes = [running._by_uid[uid].outbox for uid in ("lost", "other")]
        # Both wait: each for a receipt of its last response, and nothing that was sent much later has one.
        until(lambda: all(each.idle and each._confirms and each._untaken for each in outboxes))
        until(lambda: all(each.idle and each._sent >= running._taken_until - 0.05 for each in outboxes))
        held = len(lost.sent)
        time.sleep(0.2)
        assert len(lost.sent) == held, "nothing says that it is lost"
        until(lambda: channel.confirm(["other"]) is None and len(lost.sent) > held)
        assert not lost.finals, "it goes on"
        channel.close()
        # A stop ends what is left.


def test_stopping_ends_every_request_with_one_error_and_removes_the_socket(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        senders = [ask(running, input_ids=[4], request_context=f"u{number}") for number in range(5)]
        until(lambda: engine.in_flight == 5)
    assert [error(sender)[1] for sender in senders] == [triton.TritonError.UNAVAILABLE] * 5
    assert not (tmp_path / "runtime").exists()


@pytest.mark.parametrize(
    ("inputs", "parameters", "expected"),
    [
        ({}, "", "missing_field: input_ids: "),
        ({"input_ids": [1], "text_input": "both"}, "", "invalid_value: input_ids: "),
        ({"input_ids": [1, 256]}, "", "invalid_value: input_ids: "),
        ({"input_ids": [1] * 1000}, "", "context_length_exceeded: input_ids: the prompt has 1000 tokens"),
        ({"input_ids": [1], "max_tokens": 0}, "", "invalid_value: max_tokens: "),
        ({"input_ids": [1], "temperature": -1.0}, "", "invalid_value: temperature: "),
        ({"input_ids": [1], "sampling_parameters": "{"}, "", "invalid_json: sampling_parameters: "),
        ({"input_ids": [1], "sampling_parameters": "[]"}, "", "invalid_type: sampling_parameters: "),
        ({"input_ids": [1], "sampling_parameters": '{"beam": 1}'}, "", "unknown_field: beam: "),
        ({"input_ids": [1], "bad_words": ["no"]}, "", "invalid_value: bad_words: "),
        ({"input_ids": [1], "request_context": "x" * 65}, "", "limit_exceeded: request_context: "),
        ({"input_ids": [1], "top_logprobs": 21}, "", "limit_exceeded: top_logprobs: "),
        ({"input_ids": [1], "stream": True, "exclude_input_in_output": False}, "", "invalid_value: exclude_input"),
        ({"input_ids": [1]}, '{"frobnicate": 1}', "unknown_field: frobnicate: "),
    ],
)
def test_bad_input_is_refused_by_name_before_the_engine_is_asked(
    tmp_path: Path, inputs: dict[str, Any], parameters: str, expected: str
) -> None:
    with service(tmp_path) as (running, engine):
        message, code = error(ask(running, parameters, **inputs))
        assert message.startswith(expected)
        assert code == triton.TritonError.INVALID_ARG
        assert engine.generations == []


def test_a_uid_in_flight_twice_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        first = ask(running, input_ids=[4], request_context="same")
        until(lambda: engine.in_flight == 1)
        assert error(ask(running, input_ids=[1], request_context="same"))[0].startswith(
            "invalid_value: request_context"
        )
        assert engine.in_flight == 1
        assert first.finals == 0


def test_a_tensor_wins_over_sampling_parameters(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        given = json.dumps({"temperature": 0.1, "top_k": 5, "stop": ["x"], "bad_words": [""]})
        answers(ask(running, input_ids=[1], temperature=0.6, stop_words=["y"], sampling_parameters=given))
        sampling = engine.generations[0].sampling
        assert (sampling["temperature"], sampling["top_k"], sampling["stop"]) == (0.6, 5, ["y"])
        assert sampling["max_new_tokens"] == 999


def test_logprobs_come_per_new_id_and_their_sum_at_the_end(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        (answer,) = answers(ask(running, input_ids=[1], return_logprobs=True, return_cumulative_logprob=True))
        described = json.loads(answer["logprobs"])
        assert described[0] == {str(ord("H")): {"logprob": -0.5, "rank": None, "decoded_token": "H"}}
        assert len(described) == 5
        assert answer["cumulative_logprob"] == -2.5


def test_the_input_comes_first_when_it_is_asked_for(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        (answer,) = answers(ask(running, text_input="Hi, ", exclude_input_in_output=False))
        assert answer["text_output"] == "Hi, Hello"


def test_log_probabilities_of_the_prompt_come_once_with_null_for_its_first_token(tmp_path: Path) -> None:
    first = replace(HELLO[0], prompt_logprobs=(TokenLogprob(2, -1.0, ((3, -0.5), (2, -1.0))),))
    with service(tmp_path) as (running, engine):
        engine._scripts = {1: (first, *HELLO[1:])}
        asked: dict[str, Any] = {"input_ids": [1, 2], "return_prompt_logprobs": True, "top_logprobs": 2}
        (whole,) = answers(ask(running, **asked))
        described = json.loads(whole["prompt_logprobs"])
        assert described[0] is None
        assert list(described[1]) == ["2", "3"], "the prompt's own token comes first"
        assert described[1]["2"]["rank"] == 2
        assert "logprobs" not in whole
        parts = answers(ask(running, stream=True, **asked))
        assert ["prompt_logprobs" in part for part in parts] == [True, *[False] * (len(parts) - 1)]
        assert all(run.prompt_logprobs and run.top_logprobs == 2 for run in engine.generations)


def test_log_probabilities_of_a_prompt_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROMPT_LOGPROBS", replace(limits.PROMPT_LOGPROBS, value=5))
    with service(tmp_path) as (running, _):
        sent = ask(running, input_ids=[1, 2], return_prompt_logprobs=True, top_logprobs=2)
        assert error(sent)[0].startswith("limit_exceeded: return_prompt_logprobs: ")


def test_several_answers_are_the_elements_of_one_response(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        (answer,) = answers(ask(running, text_input="H", n=3))
        assert answer["index"] == [0, 1, 2]
        assert answer["text_output"] == ["Hello"] * 3
        assert answer["finish_reason"] == ["length"] * 3
        assert answer["num_output_tokens"] == [5, 5, 5]
        assert bytes(answer["output_ids"]) == b"Hello" * 3
        assert len({run.uid for run in engine.generations}) == 3


def test_several_streamed_answers_say_which_they_are_and_share_one_final_flag(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        sender = ask(running, stream=True, text_input="H", sampling_parameters='{"n": 2}', request_context="u rest")
        parts = answers(sender)
        for number in range(2):
            own = [part for part in parts if part["index"] == number]
            assert "".join(part["text_output"] for part in own) == "Hello"
            assert ["finish_reason" in part for part in own] == [*[False] * (len(own) - 1), True]


def test_an_abort_ends_every_answer_of_a_request(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        sender = ask(running, input_ids=[4], n=4)
        until(lambda: engine.in_flight == 4)
        sender.cancelled = True
        until(lambda: engine.in_flight == 0)


def test_the_channel_ends_one_answer_by_its_own_uid_or_all_by_the_requests(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        sender = ask(running, stream=True, input_ids=[4], n=3, request_context="wanted rest")
        until(lambda: engine.in_flight == 3)
        channel = AbortSender(tmp_path / "runtime")
        channel.abort("wanted 1")
        until(lambda: engine.in_flight == 2)
        channel.abort("wanted")
        ended = [part for part in answers(sender) if "finish_reason" in part]
        assert [part["finish_reason"] for part in ended] == ["abort"] * 3
        assert ended[0]["index"] == 1
        channel.close()


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"n": 0}, "invalid_value: n: "),
        ({"n": 9}, "limit_exceeded: n: "),
        ({"sampling_parameters": '{"n": "two"}'}, "invalid_type: n: "),
        ({"n": 2, "token_reader": "x"}, "invalid_value: n: "),
    ],
)
def test_a_number_of_answers_that_can_not_be_is_refused(tmp_path: Path, inputs: dict[str, Any], code: str) -> None:
    with service(tmp_path) as (running, _):
        assert error(ask(running, input_ids=[1], **inputs))[0].startswith(code)
