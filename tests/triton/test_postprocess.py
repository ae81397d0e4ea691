"""The last step as Triton drives it: one answer per request whatever fails, and nobody waits for another's check."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_pb_utils import FailingSender, Request, Sender, TritonError, outputs
from tests.support.enforcer import CheckingWorker
from tests.support.vocabulary import small_checkpoint, small_vocabulary

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.inspection import Relaxed
from kimi_k2_serving.engine.abort_channel import AbortSender
from kimi_k2_serving.triton.chat.context import RequestContext, address
from kimi_k2_serving.triton.chat.metrics import EnforcementMetrics
from kimi_k2_serving.triton.chat.postprocess import Postprocess
from kimi_k2_serving.triton.chat.seal import Seal

__all__ = ["small_checkpoint", "small_vocabulary"]

SEAL = Seal(b"k" * 32)
RELAXED = Relaxed(("response_format.json_schema.schema: uniqueItems",), {}, {"type": "array", "uniqueItems": True})
LARGE = json.dumps(list(range(2_000)))


class SlowWorker(CheckingWorker):
    """Answers once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def ask(self, *args: Any, **kwargs: Any) -> Any:
        self.go.wait(30)
        return super().ask(*args, **kwargs)


class Aborts(AbortSender):
    def __init__(self) -> None:
        self.uids: list[str] = []
        self.receipts: list[list[str]] = []

    def confirm(self, uids: Sequence[str]) -> None:
        self.receipts.append(list(uids))

    def abort(self, uid: str) -> None:
        self.uids.append(uid)

    def close(self) -> None: ...


@pytest.fixture
def worker() -> SlowWorker:
    return SlowWorker()


@pytest.fixture
def aborts() -> Aborts:
    return Aborts()


@pytest.fixture
def step(small_vocabulary: Vocabulary, worker: SlowWorker, aborts: Aborts) -> Iterator[Postprocess]:
    made = Postprocess(small_vocabulary, SEAL, aborts, worker, EnforcementMetrics("kimi_k2_postprocess"))
    yield made
    worker.go.set()
    made.stop()


def context(uid: str, relaxed: Relaxed | None = None, stream: bool = True) -> str:
    carried = None if relaxed is None else json.dumps(relaxed.encode())
    return RequestContext(uid, stream, 1, (), 0, True, (), carried).encode(SEAL, time.monotonic())


def ask(
    step: Postprocess, text: Any, ids: list[int], finish: str | None = None, sender: Sender | None = None
) -> Sender:
    inputs = {"request_context": text, "output_ids": ids} | ({"finish_reason": finish} if finish else {})
    request = Request(inputs, sender=sender)
    step.execute([request])
    return request.sender


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_while_one_answer_is_checked_all_others_go_on(
    step: Postprocess, worker: SlowWorker, small_vocabulary: Vocabulary
) -> None:
    ids = small_vocabulary.encode(LARGE)
    ask(step, context("slow", RELAXED), ids)
    slow = [ask(step, address("slow", SEAL), [], "stop")]
    # More of them than there are threads.
    for number in range(12):
        ask(step, context(f"s{number}", RELAXED), ids)
        slow.append(ask(step, address(f"s{number}", SEAL), [], "stop"))
    ask(step, context("other"), [65])
    for _ in range(100):
        sender = ask(step, address("other", SEAL), [65])
        # Within the call: on the thread that Triton waits for.
        assert sender.finals == 1
    assert ask(step, address("other", SEAL), [65], "stop").finals == 1
    small = [ask(step, context(f"q{number}", RELAXED), small_vocabulary.encode("[1]"), "stop") for number in range(12)]
    until(lambda: all(sender.finals for sender in small))
    assert not any(sender.finals for sender in slow)
    worker.go.set()
    until(lambda: all(sender.finals for sender in slow))
    assert json.loads(outputs(slow[0].sent[0])["enforcement"])["relaxed"] == list(RELAXED.places)


def test_the_last_response_of_a_checked_answer_comes_last(step: Postprocess, worker: SlowWorker) -> None:
    sender, order = Sender(), []
    for number in range(5):
        given = context("u", RELAXED) if number == 0 else address("u", SEAL)
        order.append(ask(step, given, [65]).finals)
    worker.go.set()
    ask(step, address("u", SEAL), [65], "stop", sender)
    until(lambda: sender.finals)
    assert order == [1] * 5
    assert outputs(sender.sent[0])["finish_reason"] == "stop"


def test_one_call_answers_a_batch_in_order_and_confirms_what_is_not_over(step: Postprocess, aborts: Aborts) -> None:
    given = [(context("a"), [65], None), (context("b"), [66, 67], None), (address("a", SEAL), [68], None)]
    given += [("forged", [65], None), (context("c"), [69], "stop"), (address("b", SEAL), [70], "length")]
    requests = [
        Request({"request_context": text, "output_ids": ids} | ({"finish_reason": end} if end else {}))
        for text, ids, end in given
    ]
    step.execute(requests)
    answers = [request.sender.sent[0] for request in requests]
    assert [request.sender.finals for request in requests] == [1] * 6
    assert [outputs(each).get("text_output") for each in answers] == ["A", "BC", "D", None, "E", "F"]
    assert [each.error is not None for each in answers] == [False, False, False, True, False, False]
    assert aborts.receipts == [["a", "b", "a"]]


@pytest.mark.parametrize("text", ["", "uid", "uid tag\n{}", 'u\n{"stream": true}', "x" * 100_000])
def test_a_forged_context_gets_one_plain_error(step: Postprocess, aborts: Aborts, text: str) -> None:
    sender = ask(step, text, [65])
    (response,) = sender.sent
    assert response.error is not None
    assert response.error.code == TritonError.INVALID_ARG
    assert str(response.error).startswith("invalid_value: request_context: not made by this server")
    assert (sender.finals, aborts.uids) == (1, [])


def test_bytes_that_are_no_text_get_one_plain_error(step: Postprocess, aborts: Aborts) -> None:
    sender = Sender()
    request = Request({"request_context": "x", "output_ids": [65]}, sender=sender)
    (context,) = (each for each in request.inputs() if each.name() == "request_context")
    context.as_numpy()[0] = b"\xff\xfe"
    step.execute([request])
    assert str(sender.sent[0].error) == "invalid_value: request_context: must be UTF-8"
    assert (sender.finals, aborts.uids) == (1, [])


def test_a_tensor_that_can_not_be_read_gets_one_plain_error(step: Postprocess, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("/secret/path")

    monkeypatch.setattr("kimi_k2_serving.triton.tensors.inputs_by_name", broken)
    sender = ask(step, "x", [65])
    assert str(sender.sent[0].error) == "internal: an internal error; see the server's log"


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize(("relaxed", "finish"), [(None, None), (None, "stop"), (RELAXED, "stop")])
def test_a_response_that_triton_does_not_take_ends_in_an_error_or_at_least_ends(
    step: Postprocess, aborts: Aborts, failures: int, relaxed: Relaxed | None, finish: str | None
) -> None:
    sender = ask(step, context("u", relaxed), [65], finish, FailingSender(failures))
    until(lambda: sender.finals)
    assert len(sender.sent) == (failures == 1)
    # Of an answer that has ended there is no run left to end.
    assert finish or aborts.uids == ["u"]


def test_a_response_that_can_not_be_made_ends_its_answer_s_run(
    step: Postprocess, aborts: Aborts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(step, context("other"), [65])
    with monkeypatch.context() as broken:
        broken.setattr("kimi_k2_serving.triton.tensors.response", lambda *_: 1 // 0)
        sender = ask(step, context("u"), [65])
    assert sender.sent[0].error is not None
    assert aborts.uids == ["u"]
    assert ask(step, address("other", SEAL), [65], "stop").finals == 1


def test_sends_that_fail_for_ever_hurt_nobody_else(step: Postprocess) -> None:
    for number in range(20):
        ask(step, context(f"u{number}", RELAXED), [65], "stop", FailingSender(99))
        ask(step, context(f"v{number}"), [65], None, FailingSender(99))
    assert ask(step, context("w"), [65]).finals == 1


def test_a_cancelled_answer_ends_without_an_error_and_only_by_its_own_context(
    step: Postprocess, aborts: Aborts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kimi_k2_serving.triton.chat.answers.ASK_SECONDS", 0)
    ask(step, context("u"), [65])
    for text, ended in (("u", []), (f"u {'0' * 32}", []), (address("u", SEAL), ["u"])):
        gone = Sender()
        gone.cancelled = True
        ask(step, text, [65], None, gone)
        assert (gone.finals, gone.sent[0].error, aborts.uids) == (1, None, ended)


def test_load_gives_both_steps_one_key(tmp_path: Path) -> None:
    first, second = Seal.open(tmp_path / "run"), Seal.open(tmp_path / "run")
    text = RequestContext("u", True, 1, (), 0, True, ()).encode(first, 0.0)
    assert RequestContext.decode(text, second, 1.0).uid == "u"
    first.close()
    second.close()


@pytest.mark.parametrize("stream", [False, True])
def test_triton_s_thread_takes_the_largest_answer_in_no_time(
    step: Postprocess, worker: SlowWorker, small_vocabulary: Vocabulary, stream: bool
) -> None:
    """Of its own processor time; all answers wait for this thread, and the rest is made on others."""
    worker.go.set()
    ids = [token for _ in range(250_000 // 10) for token in small_vocabulary.encode('"the\\" th')][:250_000]
    requests = []
    for number in range(5):
        inputs = {"request_context": context(f"u{number}", RELAXED, stream), "output_ids": ids, "finish_reason": "stop"}
        requests.append(Request(inputs))
    taken = []
    for request in requests:
        begin = time.thread_time()
        step.execute([request])
        taken.append(time.thread_time() - begin)
    # Measured: 1 ms; a list of the ids alone took 5 to 10.
    assert min(taken) < 0.005
    until(lambda: all(request.sender.finals for request in requests))
    assert not any(request.sender.sent[0].error for request in requests)
