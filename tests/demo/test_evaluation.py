"""The evaluator: what counts as right, over a real HTTP server whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from kimi_k2_serving.demo.evaluation import Case, ChatEndpoint, evaluate, held_out, in_other_words, summary, table
from kimi_k2_serving.demo.evaluation.__main__ import main
from kimi_k2_serving.demo.evaluation.scoring import is_right
from tests.support import http_server

Answer = Callable[[dict[str, Any]], tuple[dict[str, Any], str]]
CASES = held_out(90)


def message_of(case: Case) -> tuple[dict[str, Any], str]:
    """The right answer to a case of the world."""
    if not case.calls:
        return {"role": "assistant", "content": case.text}, "stop"
    calls = [
        {"id": f"functions.{name}:{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        for i, (name, given) in enumerate(case.calls)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"


def right(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The answer of a model that knows everything."""
    for case in CASES:
        if case.request["messages"] == body["messages"] and len(case.request.get("tools", ())) == len(
            body.get("tools", ())
        ):
            return message_of(case)
    raise AssertionError(body)


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """An OpenAI-compatible server with these answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            message, reason = answer(body)
            self.send_response(200)
            self.end_headers()
            if not body["stream"]:
                whole = {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}
                self.wfile.write(json.dumps(whole).encode())
                return
            for delta in deltas(message):
                self._chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            self._chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
            self.wfile.write(b"data: [DONE]\n\n")

        def _chunk(self, chunk: dict[str, Any]) -> None:
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    with http_server.serving(Handler) as port:
        yield f"http://127.0.0.1:{port}/v1"


def deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The message in small pieces."""
    for character in message["content"] or "":
        yield {"content": character}
    for index, call in enumerate(message.get("tool_calls", ())):
        yield {"tool_calls": [{"index": index, "id": call["id"], "function": {"name": call["function"]["name"]}}]}
        text = call["function"]["arguments"]
        for start in range(0, len(text), 5):
            yield {"tool_calls": [{"index": index, "function": {"arguments": text[start : start + 5]}}]}


def changed(change: Callable[[dict[str, Any], str], tuple[dict[str, Any], str]]) -> Answer:
    """The right answers with a fault."""
    return lambda body: change(*right(body))


@pytest.mark.parametrize("stream", [False, True])
def test_right_answers_have_full_marks(stream: bool) -> None:
    with serving(right) as url:
        result = summary(evaluate(ChatEndpoint(url, stream=stream), CASES))
    scores = (result.precision, result.recall, result.f1, result.exact_arguments, result.correct_stop)
    assert scores == (1, 1, 1, 1, 1)
    assert (result.results_read, result.schema_accuracy, result.same_text) == (1, 1, 1)
    assert result.failed == 0
    assert all(count == good for count, good in result.kinds.values())
    assert "trigger F1" in table(result)


def no_calls(message: dict[str, Any], reason: str) -> tuple[dict[str, Any], str]:
    return ({"role": "assistant", "content": "no"}, "stop") if message.get("tool_calls") else (message, reason)


def wrong_value(message: dict[str, Any], reason: str) -> tuple[dict[str, Any], str]:
    for call in message.get("tool_calls") or ():
        call["function"]["arguments"] = json.dumps({**json.loads(call["function"]["arguments"]), "q": "x"})
    return message, reason


def no_json(message: dict[str, Any], reason: str) -> tuple[dict[str, Any], str]:
    for call in message.get("tool_calls") or ():
        call["function"]["arguments"] = '{"a'
    return message, reason


def another_tool(message: dict[str, Any], reason: str) -> tuple[dict[str, Any], str]:
    for call in message.get("tool_calls") or ():
        call["function"]["name"] = "undeclared"
    return message, reason


def endless(message: dict[str, Any], _: str) -> tuple[dict[str, Any], str]:
    return message, "length"


def leaky(message: dict[str, Any], reason: str) -> tuple[dict[str, Any], str]:
    return {**message, "content": (message["content"] or "") + "<|im_end|>"}, reason


def unread(message: dict[str, Any], reason: str) -> tuple[dict[str, Any], str]:
    return {**message, "content": message["content"] and "-"}, reason


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "score", "most"),
    [
        (no_calls, "recall", 0),
        (wrong_value, "exact_arguments", 0),
        (no_json, "schema_accuracy", 0),
        (no_json, "exact_arguments", 0),
        (another_tool, "schema_accuracy", 0),
        (endless, "correct_stop", 0),
        (leaky, "correct_stop", 0),
        (unread, "results_read", 0),
        (unread, "same_text", 0),
    ],
)
def test_each_fault_costs_its_score(fault: Any, score: str, most: float, stream: bool) -> None:
    with serving(changed(fault)) as url:
        result = summary(evaluate(ChatEndpoint(url, stream=stream), CASES))
    assert getattr(result, score) <= most


def test_a_call_without_need_costs_precision() -> None:
    def eager(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        message, reason = right(body)
        if message.get("tool_calls") or not body.get("tools"):
            return message, reason
        call = {"name": body["tools"][0]["function"]["name"], "arguments": "{}"}
        return {"content": None, "tool_calls": [{"id": "a", "type": "function", "function": call}]}, "tool_calls"

    with serving(eager) as url:
        result = summary(evaluate(ChatEndpoint(url), CASES))
    assert result.recall == 1
    assert result.precision is not None
    assert result.precision < 0.8


def test_a_server_that_is_not_there_is_no_exception() -> None:
    outcomes = evaluate(ChatEndpoint("http://127.0.0.1:9/v1"), CASES[:3])
    assert [each.problem != "" for each in outcomes] == [True] * 3
    assert not any(is_right(each) for each in outcomes)
    assert summary(outcomes).correct_stop == 0


def test_without_the_enforcer_no_tool_is_strict() -> None:
    seen: list[bool] = []

    def watch(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        seen.extend(tool["function"]["strict"] for tool in body.get("tools", ()))
        return {"content": "no"}, "stop"

    with serving(watch) as url:
        evaluate(ChatEndpoint(url, enforced=False), CASES[:20])
    assert seen
    assert not any(seen)


def test_the_values_of_a_result_are_what_its_answer_repeats() -> None:
    reading = [case for case in CASES if case.kind == "look up"]
    assert reading
    for case in reading:
        assert case.values
        result = case.request["messages"][-1]["content"]
        assert all(value in result for value in case.values)


def test_the_hand_written_requests_have_every_outcome() -> None:
    cases = in_other_words()
    assert {case.kind for case in cases} == {"call", "parallel", "small talk", "off topic", "no tool fits", "result"}
    trained = {message["content"] for case in held_out(2_000) for message in case.request["messages"]}
    said = {case.request["messages"][0]["content"] for case in cases}
    assert len(said & trained - {"hi", "thanks!"}) <= 2


def test_the_command_prints_json_and_fails_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(right) as url:
        assert main([url, "--cases", "40", "--json", "--stream"]) == 0
    assert json.loads(capsys.readouterr().out)["f1"] == 1
    assert main(["http://127.0.0.1:9/v1", "--cases", "2"]) == 1
