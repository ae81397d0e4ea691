"""Large requests of the ensemble are read in another process: the same answers and errors, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_pb_utils import Request, Sender, TritonError, outputs
from tests.support.enforcer import LOOSE, chat_model
from tests.support.vocabulary import small_checkpoint, small_vocabulary

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.reading.desk import Served
from kimi_k2_serving.reading.lane import SMALL_BYTES, USUAL_BYTES, ReaderLanes
from kimi_k2_serving.reading.loop import LoopedLanes
from kimi_k2_serving.triton.chat.context import RequestContext
from kimi_k2_serving.triton.chat.preprocess import READER, Preprocess
from kimi_k2_serving.triton.chat.seal import Seal

__all__ = ["small_checkpoint", "small_vocabulary"]

SEAL = Seal(b"k" * 32)
PADDING = " " * SMALL_BYTES
LARGE = " " * USUAL_BYTES
USER = '[{"role":"user","content":"hi"}]'
HALF = r'[{"role":"user","content":"hi \ud83d"}]'


@pytest.fixture
def model(small_vocabulary: Vocabulary) -> ChatModel:
    return chat_model(small_vocabulary)


def served(model: ChatModel, checkpoint: Path) -> bytes:
    return Served.of(model, checkpoint, Bounds.demo()).encode()


@pytest.fixture
def lanes(model: ChatModel, small_checkpoint: Path) -> Iterator[LoopedLanes]:
    found = LoopedLanes(ReaderLanes(READER, served(model, small_checkpoint)))
    yield found
    found.close()


@pytest.fixture
def step(model: ChatModel, lanes: LoopedLanes) -> Iterator[Preprocess]:
    made = Preprocess(model, SEAL, lanes, new_uid=lambda: "uid")
    yield made
    made.stop()


def ask(step: Preprocess, **inputs: Any) -> Sender:
    request = Request(inputs)
    step.execute([request])
    return request.sender


def until(condition: Any) -> None:
    for _ in range(60_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it did not become true within a minute")


def answer(sender: Sender) -> Any:
    until(lambda: sender.finals)
    (response,) = sender.sent
    if response.error is not None:
        return str(response.error), response.error.code
    found = outputs(response)
    # As it was written it carries the time at which it expires.
    found["request_context"] = RequestContext.decode(found["request_context"], SEAL, time.monotonic())
    return found


def reader(lanes: LoopedLanes) -> psutil.Process:
    """The one of the second lane."""
    process = lanes._lanes._large._process
    assert process is not None
    return psutil.Process(process.pid)


def tools(**schema: Any) -> str:
    return json.dumps([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", **schema}}}])


ASKED: list[dict[str, Any]] = [
    {"messages": USER, "stream": True, "max_tokens": 7, "stop_words": ["END", ""]},
    {"messages": USER, "tools": tools(properties={"x": {"type": "string"}}), "tool_choice": "required"},
    {"messages": USER, "tools": tools(**{"$comment": LOOSE}), "parallel_tool_calls": False},
    {"messages": USER, "response_format": '{"type":"json_object"}', "temperature": 0.25, "seed": 3},
    {"messages": USER, "sampling_parameters": '{"top_k":5,"logit_bias":{"7":1}}', "stop_token_ids": [5, 6]},
    {"messages": USER, "request_priority": 3, "timeout_ms": 500},
    {"messages": HALF, "tools": tools(properties={"n": {"type": "integer", "maximum": 2**64, "default": 10**25}})},
    {"messages": USER, "max_tokens": 0},
    {"messages": USER, "tools": "[3]"},
    {"messages": USER, "sampling_parameters": '{"regex": "a"}'},
    {"messages": json.dumps([{"role": "user", "content": "word " * 9000}])},
    {"messages": USER, "tools": tools(properties=3)},
    {},
]


@pytest.mark.parametrize("asked", ASKED, ids=range(len(ASKED)))
def test_large_requests_are_answered_as_small_ones(model: ChatModel, step: Preprocess, asked: dict[str, Any]) -> None:
    small = Preprocess(model, SEAL, new_uid=lambda: "uid")
    expected = answer(ask(small, **asked))
    small._threads.shutdown()
    # White space that JSON allows: the same request, and as large as one likes.
    padded = {**asked, "messages": asked["messages"] + PADDING} if asked else {"response_format": PADDING}
    assert answer(ask(step, **padded)) == expected


def test_what_is_no_json_is_refused_there_too(step: Preprocess) -> None:
    text, code = answer(ask(step, messages="{" + PADDING))
    assert text.startswith("invalid_json: messages: ")
    assert code == TritonError.INVALID_ARG


def test_parameters_that_name_no_tensor_are_refused_there_too(step: Preprocess) -> None:
    request = Request({"messages": USER}, parameters=json.dumps({"x" * SMALL_BYTES: 1}))
    step.execute([request])
    text, code = answer(request.sender)
    assert text.startswith("unknown_field: xxx")
    assert code == TritonError.INVALID_ARG


def test_a_tensor_of_very_many_elements_is_refused_before_it_is_read(step: Preprocess) -> None:
    text, code = answer(ask(step, messages=USER, stop_words=[""] * 1025))
    assert text == "limit_exceeded: stop_words: 1025 elements, the limit (tensor_elements) is 1024"
    assert code == TritonError.INVALID_ARG


@pytest.mark.slow
def test_a_reader_that_dies_fails_its_request_alone_and_is_replaced(step: Preprocess, lanes: LoopedLanes) -> None:
    answer(ask(step, messages=USER + LARGE))
    first = reader(lanes)
    first.suspend()
    stuck = ask(step, messages=USER + LARGE)
    waiting = ask(step, messages=USER + LARGE)
    # Neither a small one nor one of a usual size waits for it.
    assert "input_ids" in answer(ask(step, messages=USER))
    assert "input_ids" in answer(ask(step, messages=USER + PADDING))
    assert not stuck.sent
    first.kill()
    assert answer(stuck) == ("internal: the process that read this request has died", TritonError.INTERNAL)
    assert "input_ids" in answer(waiting)
    assert reader(lanes).pid != first.pid


@pytest.mark.slow
def test_a_stop_answers_whoever_is_being_read_at_once_and_leaves_nothing(
    model: ChatModel, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kimi_k2_serving.reading.loop.CLOSE_SECONDS", 60.0)
    descriptors, children = len(os.listdir("/proc/self/fd")), set(psutil.Process().children())
    lanes = LoopedLanes(ReaderLanes(READER, served(model, small_checkpoint)))
    step = Preprocess(model, Seal(b"k" * 32), lanes)
    answer(ask(step, messages=USER + LARGE))
    answer(ask(step, messages=USER + PADDING))
    reader(lanes).suspend()
    asked = [ask(step, messages=USER + LARGE) for _ in range(3)]
    begin = time.monotonic()
    step.stop()
    assert time.monotonic() - begin < 30
    assert {answer(each)[1] for each in asked} == {TritonError.UNAVAILABLE}
    assert set(psutil.Process().children()) <= children
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_who_left_while_it_was_read_gets_no_work_done(step: Preprocess, lanes: LoopedLanes) -> None:
    answer(ask(step, messages=USER + LARGE))
    reader(lanes).suspend()
    left = ask(step, messages=USER + LARGE)
    left.cancelled = True
    reader(lanes).resume()
    assert answer(left)[1] == TritonError.CANCELLED


OWNER = """
import sys
from pathlib import Path
from kimi_k2_serving.reading.lane import ReaderLanes
from kimi_k2_serving.reading.loop import LoopedLanes
lanes = LoopedLanes(ReaderLanes(sys.argv[1], sys.argv[2].encode()))
# Of no request; the reader says so and stays.
assert lanes.ask("chat", (b"x" * 100,)).exception() is not None
print(lanes._lanes._usual._process.pid, flush=True)
sys.stdin.read()
"""


def test_a_reader_ends_at_once_with_a_process_that_is_killed(model: ChatModel, small_checkpoint: Path) -> None:
    command = [sys.executable, "-c", OWNER, READER, served(model, small_checkpoint).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        orphan = psutil.Process(int(owner.stdout.readline()))
        # In the middle of a request it sees no end of its input.
        orphan.suspend()
        owner.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([orphan], timeout=30)
    assert alive == []
