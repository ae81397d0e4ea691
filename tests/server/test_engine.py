"""The `sglang` backend's own model on the real server: ids and text, stops, logprobs, cancellation."""

from __future__ import annotations

import json
import queue
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton_grpc

from kimi_k2_client import Client
from kimi_k2_serving.core.tokens import Vocabulary
from tests.server.running import Server
from tests.server.test_chat import inputs, over_grpc, streamed, whole

MODEL = "kimi_k2_engine"


def test_text_and_its_ids_give_the_same_answer(server: Server) -> None:
    ids = Vocabulary.load(Path(server.ready["checkpoint"])).encode("Hello there")
    sampling = {"max_tokens": 8, "temperature": 0.0}
    with Client(server.url) as client:
        client.generate("Hello there", **sampling)
        answers = [client.generate("Hello there", **sampling), client.generate(ids, **sampling)]
    assert answers[0].output_ids == answers[1].output_ids
    assert answers[0].text == answers[1].text


def test_control_tokens_in_direct_text_stay_text(server: Server) -> None:
    answer = whole(server, {"text_input": "<|im_end|>", "max_tokens": 1}, MODEL)
    assert answer["num_input_tokens"] > 1


def test_streamed_ids_are_the_whole_answers_ids(server: Server) -> None:
    body = {"text_input": "Once upon a time", "max_tokens": 32, "temperature": 0.0}
    whole(server, body, MODEL)
    expected = whole(server, body, MODEL)
    parts = streamed(server, body, MODEL)
    ids: list[int] = []
    for part in parts:
        each = part["output_ids"]
        ids += each if isinstance(each, list) else [each]
    assert ids == expected["output_ids"]
    assert "".join(part["text_output"] for part in parts) == expected["text_output"]


def test_a_regex_and_a_stop_token_are_heeded(server: Server) -> None:
    answer = whole(
        server, {"text_input": "x", "max_tokens": 30, "sampling_parameters": json.dumps({"regex": "[abc]{5}"})}, MODEL
    )
    assert len(answer["text_output"]) == 5
    assert set(answer["text_output"]) <= set("abc")
    assert answer["finish_reason"] == "stop"


def test_min_tokens_and_ignore_eos_reach_the_engine(server: Server) -> None:
    body = {"text_input": "x", "max_tokens": 40, "ignore_eos": True}
    assert whole(server, body, MODEL)["num_output_tokens"] == 40


def test_the_default_length_is_what_the_prompt_leaves(server: Server) -> None:
    answer = httpx.post(server.generate(MODEL), json={"input_ids": [5] * 40_000}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("context_length_exceeded: input_ids: the prompt has 40000 tokens")


def test_a_decoupled_stream_ends_with_the_final_flag_once(server: Server) -> None:
    responses = over_grpc(server, {"text_input": "Hi", "max_tokens": 5, "request_context": "u\nwhole"}, MODEL)
    assert [each["request_context"] for each in responses] == ["u\nwhole", *["u"] * (len(responses) - 1)]


def test_a_cancelled_grpc_stream_ends_the_engines_run(server: Server) -> None:
    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    body = {"text_input": "Hi", "max_tokens": 20_000, "ignore_eos": True, "stream": True, "request_context": "mine"}
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        client.async_stream_infer(MODEL, list(inputs(body)))
        assert results.get(timeout=60)[1] is None
        # The same uid is refused as long as the first run lives.
        assert refused(server)
        client.stop_stream(cancel_requests=True)
    begin = time.monotonic()
    while refused(server):
        assert time.monotonic() - begin < 5
        time.sleep(0.02)


def refused(server: Server) -> bool:
    body = {"text_input": "Hi", "max_tokens": 1, "request_context": "mine"}
    return httpx.post(server.generate(MODEL), json=body, timeout=60).status_code == 400


@pytest.mark.parametrize("model", ["kimi_k2", MODEL])
def test_leaving_a_http_stream_frees_the_engine(server: Server, model: str) -> None:
    """Triton notices on its next write; through the ensemble, postprocess then aborts by uid."""
    body = {"text_input": "Hi", "max_tokens": 20_000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", server.generate(model, stream=True), json=body, timeout=60) as answer:
        next(answer.iter_lines())
    idle = baseline(server)
    assert idle < 2.0, f"the engine was still slow after {idle:.1f} s"


def baseline(server: Server) -> float:
    """Seconds until a request has the engine to itself: its first token comes as fast as on an idle server."""
    begin = time.monotonic()
    while time.monotonic() - begin < 20:
        started = time.monotonic()
        whole(server, {"text_input": "probe", "max_tokens": 16, "ignore_eos": True}, MODEL)
        if time.monotonic() - started < 1.0:
            return time.monotonic() - begin
    return time.monotonic() - begin


def grammar(**wanted: str) -> dict[str, Any]:
    return {"text_input": "x", "max_tokens": 30, "sampling_parameters": json.dumps(wanted)}


@pytest.mark.parametrize(
    ("wanted", "answers"),
    [({"ebnf": 'root ::= "yes" | "no"'}, {"yes", "no"}), ({"regex": "yes|no"}, {"yes", "no"})],
    ids=["ebnf", "regex"],
)
def test_a_grammar_of_a_direct_client_is_heeded_whole_and_streamed(
    server: Server, wanted: dict[str, str], answers: set[str]
) -> None:
    assert whole(server, grammar(**wanted), MODEL)["text_output"] in answers
    assert "".join(part["text_output"] for part in streamed(server, grammar(**wanted), MODEL)) in answers


@pytest.mark.parametrize(
    "wanted", [{"regex": "a(b"}, {"regex": r"(a)\1"}, {"ebnf": "root ::= nothing"}, {"ebnf": 'root = "a'}]
)
def test_a_broken_grammar_is_the_client_s_mistake_and_hurts_nobody(server: Server, wanted: dict[str, str]) -> None:
    answer = httpx.post(server.generate(MODEL), json=grammar(**wanted), timeout=30)
    assert answer.status_code == 400, answer.text
    assert "xgrammar" not in answer.text.lower()
    assert whole(server, grammar(regex="ok"), MODEL)["text_output"] == "ok"


def test_log_probabilities_of_a_prompt_agree_with_those_of_the_same_text_as_an_answer(server: Server) -> None:
    prompt = {"text_input": "Once upon a time", "max_tokens": 6, "temperature": 0.0, "return_logprobs": True}
    answer = whole(server, prompt, MODEL)
    ids = Vocabulary.load(Path(server.ready["checkpoint"])).encode("Once upon a time")
    again = {"input_ids": [*ids, *answer["output_ids"]], "max_tokens": 1, "return_prompt_logprobs": True}
    found = json.loads(whole(server, again, MODEL)["prompt_logprobs"])
    assert found[0] is None
    assert [next(iter(each)) for each in found[1:]] == list(map(str, again["input_ids"][1:]))  # type: ignore[index]
    expected = [
        each[str(token)]["logprob"]
        for token, each in zip(answer["output_ids"], json.loads(answer["logprobs"]), strict=True)
    ]
    values = [next(iter(each.values()))["logprob"] for each in found[len(ids) :]]
    assert values == pytest.approx(expected, abs=0.02)


def test_several_answers_come_whole_and_streamed(server: Server) -> None:
    body = {"text_input": "Once upon a time", "max_tokens": 6, "ignore_eos": True, "n": 3}
    answer = whole(server, body, MODEL)
    assert answer["index"] == [0, 1, 2]
    assert answer["num_output_tokens"] == [6, 6, 6]
    assert len(answer["text_output"]) == 3
    assert len(answer["output_ids"]) == 18
    parts = over_grpc(server, body, MODEL)
    assert sorted(part["index"] for part in parts if "finish_reason" in part) == [0, 1, 2]
    assert "finish_reason" in parts[-1]
    greedy = whole(server, {**body, "temperature": 0.0}, MODEL)["text_output"]
    assert len(set(greedy)) == 1, "at temperature 0 all are the same"
