"""Requests as clients of Triton's vLLM backend, of its samples and of perf_analyzer send them, unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_pb_utils as triton
import pytest
from test_engine_service import answers, ask, error, service

# What its sample client sends as a tensor, and again as the request's parameters: numbers as texts.
SAMPLE = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "100"}
READ = {"temperature": 0.1, "top_p": 0.95, "max_new_tokens": 100}


def sampling(engine: Any) -> dict[str, Any]:
    return {name: engine.generations[-1].sampling.get(name) for name in READ}


@pytest.mark.parametrize("stream", [False, True])
def test_the_sample_client_s_request_is_served(tmp_path: Path, stream: bool) -> None:
    with service(tmp_path) as (running, engine):
        tensor = json.dumps(SAMPLE)
        sent = ask(running, json.dumps(SAMPLE), text_input="H", stream=stream, sampling_parameters=tensor)
        assert "".join(part["text_output"] for part in answers(sent)) == "Hello"
        assert sampling(engine) == READ


def test_request_parameters_count_only_without_the_tensor(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        answers(ask(running, json.dumps(SAMPLE), text_input="H"))
        assert sampling(engine) == READ
        answers(ask(running, json.dumps(SAMPLE), text_input="H", sampling_parameters='{"top_p": 0.5}'))
        assert sampling(engine) == {"temperature": None, "top_p": 0.5, "max_new_tokens": 999}
        answers(ask(running, json.dumps(SAMPLE), text_input="H", temperature=0.5))
        assert sampling(engine) == {**READ, "temperature": 0.5}, "a tensor overrides both"


def test_all_additional_outputs_come_as_that_backend_sends_them(tmp_path: Path) -> None:
    wanted = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
    flags: dict[str, Any] = {f"return_{name}": True for name in wanted}
    with service(tmp_path) as (running, engine):
        sent = ask(running, text_input="H", sampling_parameters='{"logprobs": 2, "n": 2}', **flags)
        (answer,) = answers(sent)
        assert engine.generations[-1].top_logprobs == 2
        assert answer["finish_reason"] == ["length", "length"]
        assert answer["cumulative_logprob"] == [-2.5, -2.5]
        assert [len(json.loads(each)) for each in answer["logprobs"]] == [5, 5]
        assert answer["num_output_tokens"] == [5, 5]


def test_parameters_of_vllm_that_ask_for_what_happens_anyway_are_taken(tmp_path: Path) -> None:
    usual = {"best_of": 1, "use_beam_search": False, "length_penalty": 1.0, "detokenize": True, "ignore_eos": "true"}
    with service(tmp_path) as (running, engine):
        answers(ask(running, text_input="H", sampling_parameters=json.dumps(usual)))
        assert engine.generations[-1].sampling["ignore_eos"] is True
        refused = error(ask(running, text_input="H", sampling_parameters='{"use_beam_search": true}'))
        assert refused == (refused[0], triton.TritonError.INVALID_ARG)
        assert refused[0].startswith("unknown_field: use_beam_search: ")


@pytest.mark.parametrize(
    "sent", [{"sampling_parameters": '{"lora_name": "sql"}'}, {"parameters": '{"lora_name": "sql"}'}]
)
def test_a_request_names_its_adapter(tmp_path: Path, sent: dict[str, Any]) -> None:
    with service(tmp_path, adapters=("sql", "summaries")) as (running, engine):
        answers(ask(running, text_input="H", **sent))
        answers(ask(running, text_input="H"))
        assert [each.adapter for each in engine.generations] == ["sql", ""]
        answers(ask(running, text_input="H", n=2, **sent))
        assert {each.adapter for each in engine.generations[2:]} == {"sql"}, "every choice has it"


@pytest.mark.parametrize(
    ("adapters", "name", "message"),
    [
        (("sql", "summaries"), "poems", "invalid_value: lora_name: no adapter 'poems'; this model has: sql, summaries"),
        ((), "sql", "invalid_value: lora_name: no adapter 'sql'; engine.yaml declares no adapters"),
        (("5",), 5, "invalid_type: lora_name: must be the name of an adapter"),
        (("sql",), ["sql"], "invalid_type: lora_name: must be the name of an adapter"),
    ],
)
def test_an_unknown_adapter_is_refused_with_the_known_ones(
    tmp_path: Path, adapters: tuple[str, ...], name: object, message: str
) -> None:
    with service(tmp_path, adapters=adapters) as (running, engine):
        sent = json.dumps({"lora_name": name})
        assert error(ask(running, text_input="H", sampling_parameters=sent)) == (
            message,
            triton.TritonError.INVALID_ARG,
        )
        assert not engine.generations


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"temperature": "warm"}, "invalid_type: temperature: "),
        ({"temperature": "nan"}, "invalid_value: temperature: "),
        ({"max_tokens": "1" * 5000}, "invalid_type: max_tokens: "),
        ({"max_tokens": "1.5"}, "invalid_type: max_tokens: "),
        ({"ignore_eos": "yes"}, "invalid_type: ignore_eos: "),
        ({"logprobs": "two"}, "invalid_type: sampling_parameters.logprobs: "),
    ],
)
def test_a_text_that_is_no_number_is_refused_by_name(tmp_path: Path, parameters: dict[str, Any], code: str) -> None:
    with service(tmp_path) as (running, _):
        assert error(ask(running, text_input="H", sampling_parameters=json.dumps(parameters)))[0].startswith(code)


def test_perf_analyzer_s_inputs_are_served(tmp_path: Path) -> None:
    """As it makes them for this backend's shapes: each tensor with one element, empty texts for what is not used."""
    plain = {"text_input": "H", "stream": True, "max_tokens": 16, "exclude_input_in_output": True}
    empty = {"bad_words": [""], "stop_words": [""], "sampling_parameters": json.dumps({"ignore_eos": True})}
    with service(tmp_path) as (running, engine):
        parts = answers(ask(running, **plain, **empty))
        assert "".join(part["text_output"] for part in parts) == "Hello"
        assert engine.generations[-1].sampling["ignore_eos"] is True
