"""The first step: one response for each request, nobody held up by another, Triton's sender let go with the answer."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import fake_pb_utils
import pytest
from fake_pb_utils import Request, Sender, TritonError, outputs
from tests.support.enforcer import LOOSE as COMMENT
from tests.support.enforcer import InlineEnforcer
from tests.support.vocabulary import small_checkpoint, small_vocabulary

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core.errors import InvalidSchema, ShuttingDown
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.triton.chat.context import RequestContext
from kimi_k2_serving.triton.chat.preprocess import THREADS, Preprocess
from kimi_k2_serving.triton.chat.seal import Seal

__all__ = ["small_checkpoint", "small_vocabulary"]

SEAL = Seal(b"k" * 32)
LOOSE = {"$comment": COMMENT, "type": "object", "properties": {"x": {"type": "string"}}}


def tools(*names: str, **rest: Any) -> str:
    return json.dumps([{"type": "function", "function": {"name": name, **rest}} for name in names])


class Gate(InlineEnforcer):
    """Tools whose name begins with `slow` wait until `settle`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.waiting: list[Future[Constraint]] = []

    def ask(self, conversation: Conversation) -> Future[Constraint]:
        if any(tool.name.startswith("slow") for tool in conversation.tools):
            self.waiting.append(Future())
            return self.waiting[-1]
        return super().ask(conversation)

    def settle(self, error: Exception | None = None) -> None:
        for future in self.waiting:
            if error is None:
                future.set_result(Constraint("{}"))
            else:
                future.set_exception(error)
        self.waiting = []

    def close(self) -> None:
        self.settle(ShuttingDown("the server is stopping"))
        super().close()


@pytest.fixture
def gate(small_vocabulary: Vocabulary) -> Gate:
    return Gate(small_vocabulary)


@pytest.fixture
def step(small_vocabulary: Vocabulary, gate: Gate) -> Iterator[Preprocess]:
    made = Preprocess(ChatModel((), small_vocabulary, 4096, {"temperature": 0.6}, gate), SEAL, new_uid=lambda: "uid")
    yield made
    made.stop()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ask(step: Preprocess, **inputs: Any) -> Sender:
    request = Request({"text_input": "hi", **inputs})
    step.execute([request])
    return request.sender


def answer(sender: Sender) -> dict[str, Any]:
    until(lambda: sender.finals)
    (response,) = sender.sent
    assert response.error is None, response.error
    return outputs(response)


def error(sender: Sender) -> TritonError:
    until(lambda: sender.finals)
    (response,) = sender.sent
    assert response.error is not None
    return response.error


def test_one_response_with_the_final_flag(step: Preprocess, small_vocabulary: Vocabulary) -> None:
    sender = ask(step, stream=True, max_tokens=7, stop_words=["END"])
    found = answer(sender)
    assert sender.finals == 1
    assert found["engine_stream"] is True
    sampling = json.loads(found["engine_sampling"])
    assert (sampling["max_new_tokens"], sampling["temperature"], sampling["stop"]) == (7, 0.6, ["END"])
    assert "structural_tag" not in sampling
    assert small_vocabulary.control("<|im_user|>") in found["input_ids"]
    context = RequestContext.decode(found["request_context"], SEAL, time.monotonic())
    assert context == RequestContext("uid", True, 1, (), 0, True, ("END",))


@pytest.mark.parametrize("given", [{"n": 3}, {"sampling_parameters": '{"n": 3}'}])
def test_the_number_of_answers_goes_to_both_steps_that_follow(step: Preprocess, given: dict[str, Any]) -> None:
    found = answer(ask(step, **given))
    assert json.loads(found["engine_sampling"])["n"] == 3
    assert RequestContext.decode(found["request_context"], SEAL, time.monotonic()).choices == 3
    assert "n" not in json.loads(answer(ask(step))["engine_sampling"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "invalid_value: n: must be at least 1, got 0"),
        ({"n": -1}, "invalid_value: n: must be at least 1, got -1"),
        ({"n": 9}, "limit_exceeded: n: "),
        ({"sampling_parameters": '{"n": 9}'}, "limit_exceeded: n: "),
        ({"sampling_parameters": '{"n": 1.5}'}, "invalid_type: n: "),
        ({"sampling_parameters": '{"n": true}'}, "invalid_type: n: "),
        # Before anything else is read.
        ({"n": 9, "messages": "no JSON"}, "limit_exceeded: n: "),
    ],
)
def test_a_number_of_answers_out_of_range_is_refused(step: Preprocess, given: dict[str, Any], message: str) -> None:
    assert str(error(ask(step, **given))).startswith(message)


def test_what_is_the_engine_s_alone_is_passed_on_and_what_was_not_said_is_absent(step: Preprocess) -> None:
    found = answer(ask(step, request_priority=3, timeout_ms=500))
    assert (found["engine_request_priority"], found["engine_timeout_ms"]) == (3, 500)
    assert "engine_heartbeat_ms" not in found


def test_tools_bring_a_grammar_and_keep_stop_strings_from_the_engine(step: Preprocess) -> None:
    found = answer(ask(step, tools=tools("f"), stop_words=["END"]))
    sampling = json.loads(found["engine_sampling"])
    assert "functions.f:" in sampling["structural_tag"]
    assert "stop" not in sampling
    context = RequestContext.decode(found["request_context"], SEAL, time.monotonic())
    assert isinstance(context, RequestContext)
    assert (context.tools, context.stops, context.relaxed) == (("f",), ("END",), None)


def test_schemas_go_along_only_where_a_grammar_could_not_hold_them(step: Preprocess) -> None:
    held = answer(ask(step, tools=tools("f", parameters={"type": "object", "title": "held"})))
    assert "held" not in held["request_context"]
    loose = RequestContext.decode(
        answer(ask(step, tools=tools("f", parameters=LOOSE)))["request_context"], SEAL, time.monotonic()
    )
    assert isinstance(loose, RequestContext)
    assert loose.relaxed is not None
    assert json.loads(loose.relaxed)["tools"] == {"f": LOOSE}


def test_what_has_no_effect_goes_along(step: Preprocess) -> None:
    history = json.dumps([{"role": "user", "content": "hi", "novelty": 1}])
    found = answer(ask(step, text_input="", messages=history, seed=7))
    context = RequestContext.decode(found["request_context"], SEAL, time.monotonic())
    assert context.notices is not None
    seed, novelty = json.loads(context.notices)
    assert seed.startswith("seed: has no effect")
    assert novelty == "messages[0].novelty: ignored"


def test_what_a_tool_wrote_is_read_as_javascript_reads_it(step: Preprocess) -> None:
    """Half a surrogate pair, a number beyond 64 bits, in a tensor of messages and one of tools."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"n": 10**25}}}
    history: list[Any] = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]
    wide = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**64}}}
    prompts = []
    for half in ("\ud83d", "\ufffd"):
        result = {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": half}, None]}
        found = answer(
            ask(step, text_input="", messages=json.dumps([*history, result]), tools=tools("f", parameters=wide))
        )
        prompts.append(list(found["input_ids"]))
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"max_tokens": 0}, "invalid_value: max_tokens: "),
        ({"tools": "{"}, "invalid_json: tools: "),
        (
            {"tools": tools("f", parameters={"type": "int"}, strict=True)},
            "invalid_schema: tools[0].function.parameters.type: ",
        ),
        (
            {"sampling_parameters": '{"seed": 18446744073709551616}'},
            "invalid_value: seed: must be at least 0 and at most",
        ),
        ({"sampling_parameters": '{"top_k": 1e400}'}, "invalid_json: sampling_parameters: a number is too large"),
        ({"sampling_parameters": '{"regex": "a"}'}, "invalid_value: sampling_parameters.regex: "),
        ({"response_format": '{"type": "text", "x": 1}'}, "unknown_field: response_format.x: "),
    ],
)
def test_what_is_wrong_is_one_error_that_names_the_field(
    step: Preprocess, inputs: dict[str, Any], message: str
) -> None:
    found = error(ask(step, **inputs))
    assert str(found).startswith(message)
    assert found.code == TritonError.INVALID_ARG


def test_unknown_slow_schemas_hold_up_nobody_however_many(step: Preprocess, gate: Gate) -> None:
    slow = [ask(step, tools=tools(f"slow{i}")) for i in range(5 * THREADS)]
    until(lambda: len(gate.waiting) == len(slow))
    assert answer(ask(step))
    assert answer(ask(step, tools=tools("f")))
    assert not any(sender.sent for sender in slow)
    gate.settle()
    for sender in slow:
        assert json.loads(answer(sender)["engine_sampling"])["structural_tag"] == "{}"


def test_a_schema_that_is_too_much_is_told_to_its_client(step: Preprocess, gate: Gate) -> None:
    sender = ask(step, tools=tools("slow"))
    until(lambda: gate.waiting)
    gate.settle(InvalidSchema("takes more than 2 s", field="tools[0].function.parameters"))
    assert str(error(sender)) == "invalid_schema: tools[0].function.parameters: takes more than 2 s"


def test_who_left_before_or_while_waiting_gets_no_work_done(step: Preprocess, gate: Gate) -> None:
    left = Sender()
    left.cancelled = True
    step.execute([Request({"text_input": "hi", "tools": tools("slow")}, sender=left)])
    assert error(left).code == TritonError.CANCELLED
    assert gate.waiting == []
    waiting = ask(step, tools=tools("slow"))
    until(lambda: gate.waiting)
    waiting.cancelled = True
    gate.settle()
    assert error(waiting).code == TritonError.CANCELLED


def test_a_stop_answers_whoever_still_waits(step: Preprocess, gate: Gate) -> None:
    slow = [ask(step, tools=tools(f"slow{i}")) for i in range(9)]
    until(lambda: len(gate.waiting) == len(slow))
    step.stop()
    for sender in slow:
        assert error(sender).code == TritonError.UNAVAILABLE
    assert gate.worker.closed


def test_a_defect_of_ours_is_one_internal_error_without_its_text(
    step: Preprocess, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Any, __: Conversation) -> Future[Constraint]:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Gate, "ask", fails)
    found = error(ask(step, tools=tools("f")))
    assert found.code == TritonError.INTERNAL
    assert "secret" not in str(found)


@pytest.mark.parametrize("name", ["f", "slow"])
def test_triton_s_sender_is_gone_with_the_answer_without_a_collection(step: Preprocess, gate: Gate, name: str) -> None:
    gc.disable()
    try:
        request = Request({"text_input": "hi", "tools": tools(name)})
        sender = weakref.ref(request.sender)
        sent = request.sender.sent
        step.execute([request])
        del request
        until(lambda: gate.waiting or sent)
        gate.settle()
        until(lambda: sender() is None)
        assert len(sent) == 1
    finally:
        gc.enable()


def test_requests_are_read_on_threads_that_are_not_triton_s(step: Preprocess, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[threading.Thread] = []
    inputs = Request.inputs

    def spy(request: Request) -> Any:
        seen.append(threading.current_thread())
        return inputs(request)

    monkeypatch.setattr(Request, "inputs", spy)
    answer(ask(step))
    assert seen
    assert threading.current_thread() not in seen


@pytest.mark.parametrize("text", ["hi", ""])
@pytest.mark.parametrize("failures", [1, 2, 99])
def test_an_answer_that_triton_does_not_take_ends_in_an_error_or_at_least_ends(
    step: Preprocess, monkeypatch: pytest.MonkeyPatch, failures: int, text: str
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(fake_pb_utils.Logger, "log_error", logged.append)
    sender = fake_pb_utils.FailingSender(failures)
    step.execute([Request({"text_input": text}, sender=sender)])
    until(lambda: sender.finals or len(logged) == 3)
    assert len(logged) == min(failures, 3)
    if failures == 1:
        assert error(sender).code == TritonError.INTERNAL
        assert "shm" not in str(error(sender))
    # The step goes on.
    assert answer(ask(step))


def test_a_schema_that_is_known_after_the_threads_are_gone_is_answered_all_the_same(
    step: Preprocess, gate: Gate, small_vocabulary: Vocabulary
) -> None:
    request = Request({"text_input": "hi", "tools": tools("slow")})
    step.execute([request])
    until(lambda: gate.waiting)
    step._threads.shutdown()
    gate.settle()
    until(lambda: request.sender.finals)
