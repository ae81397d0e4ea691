"""The real worker: it compiles under a budget, dies without harm, comes back, and leaves nothing behind."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from kimi_k2_serving.core.errors import Internal, InvalidSchema, InvalidValue, Overloaded
from kimi_k2_serving.core.messages import Conversation, FormatKind, Message, ResponseFormat, Role
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer import worker_client, worker_main
from kimi_k2_serving.enforcer.enforcer import MOST_SECONDS, Enforcer
from kimi_k2_serving.enforcer.worker_client import WorkerProcess
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.constraint import Constraint, constrain
from kimi_k2_serving.grammar.lanes import marked
from kimi_k2_serving.json_schema.bounds import Bounds
from tests.grammar.prover import request, tool
from tests.support.enforcer import ask, constraint_of

SMALL = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
# An automaton for each: many seconds.
HUGE: dict[str, Any] = {
    "properties": {
        f"p{i}": {"type": "string", "pattern": f"^(?:[a-z0-9]+{i}){{1,60}}[A-Z]{{0,200}}$"} for i in range(250)
    }
}
# Its rules alone take many seconds, whatever is given up.
ENDLESS: dict[str, Any] = {
    "allOf": [{"oneOf": [{"properties": {f"p{i}_{j}": {"type": "string"}}} for j in range(12)]} for i in range(30)]
}


@pytest.fixture(scope="module")
def worker(small_checkpoint: Path) -> Iterator[WorkerProcess]:
    started = WorkerProcess(small_checkpoint)
    started.start()
    started.wait()
    yield started
    started.close()


@pytest.fixture
def enforcer(worker: WorkerProcess) -> Iterator[Enforcer]:
    """As production has it, but that the worker is everybody's."""
    made = Enforcer(worker, bounds=Bounds.demo())
    yield made
    made._lanes.shutdown()


@pytest.fixture(scope="module")
def validator() -> Iterator[WorkerProcess]:
    """A worker that only validates: it loads in no time."""
    started = WorkerProcess(None)
    started.start()
    started.wait()
    yield started
    started.close()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def check(worker: WorkerProcess, value: Any, schema: Any, seconds: float = 5.0) -> list[str] | None:
    rest = json.dumps([json.dumps(value), schema, False]).encode()
    lines = worker.ask({"kind": "validate", "budget": seconds}, rest, seconds=seconds)
    return list(lines[-1][1]["problems"]) if lines else None


def test_a_constraint_is_the_one_that_is_made_here(enforcer: Enforcer, small_vocabulary: Vocabulary) -> None:
    conversation = request(tool(SMALL), tool({"type": "object", "minProperties": 9}, name="g"))
    here = constrain(conversation, small_vocabulary, bounds=Bounds.demo())
    assert here.structural_tag is not None
    assert constraint_of(enforcer, conversation) == replace(here, structural_tag=marked(here.structural_tag, 0.0))


def test_an_invalid_schema_is_refused_as_it_is_here(enforcer: Enforcer) -> None:
    careless = tool({"properties": {"x": {"type": "int"}}}, name="g")
    place = "tools[1].function.parameters.properties.x.type"
    assert constraint_of(enforcer, request(tool(SMALL), careless)).relaxed == (f"{place}: unreadable",)
    with pytest.raises(InvalidSchema) as caught:
        constraint_of(enforcer, request(tool(SMALL), replace(careless, insists=True)))
    assert caught.value.field == place


def test_a_given_beginning_is_a_part_of_the_constraint_or_refused(enforcer: Enforcer) -> None:
    format_ = ResponseFormat(FormatKind.JSON_SCHEMA, SMALL)
    begun = Conversation((Message(Role.ASSISTANT, '{"n": 1'),), response_format=format_, continues=True)
    tag = constraint_of(enforcer, begun).structural_tag
    assert tag is not None
    assert json.loads(tag)["prefix"] == '{"n": 1'
    with pytest.raises(InvalidValue) as caught:
        constraint_of(enforcer, replace(begun, messages=(Message(Role.ASSISTANT, "Sure: "),)))
    assert caught.value.field == "messages"


@pytest.mark.slow
def test_past_the_budget_the_schema_is_given_up_and_others_go_on(worker: WorkerProcess, enforcer: Enforcer) -> None:
    pid = worker.pid
    slow = ask(enforcer, request(tool(SMALL), tool(HUGE, name="huge"), tool(SMALL, name="h")))
    assert constraint_of(enforcer, request(tool(SMALL))).structural_tag
    # On a machine that is so busy that all the time of the clock is gone first, the others are given up with it.
    assert "tools[1].function.parameters: schema" in slow.result(60).relaxed
    assert worker.pid == pid


@pytest.mark.slow
def test_past_the_budget_a_schema_that_the_client_insists_on_is_refused(enforcer: Enforcer) -> None:
    with pytest.raises(InvalidSchema) as caught:
        constraint_of(enforcer, request(tool(SMALL), tool(ENDLESS, name="endless", insists=True)))
    assert caught.value.field == "tools[1].function.parameters"


@pytest.mark.slow
def test_past_the_budget_a_format_is_given_up_and_one_that_the_client_insists_on_is_refused(enforcer: Enforcer) -> None:
    wanted = ResponseFormat(FormatKind.JSON_SCHEMA, ENDLESS)
    assert constraint_of(enforcer, Conversation((), response_format=wanted)).relaxed == (f"{jobs.FORMAT}: schema",)
    with pytest.raises(InvalidSchema) as caught:
        constraint_of(enforcer, Conversation((), response_format=replace(wanted, insists=True)))
    assert caught.value.field == jobs.FORMAT
    assert "takes too long" in caught.value.detail


def test_a_defect_of_ours_counts_as_a_death_of_the_job_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Defective:
        def compile(self, given: bytes, header: dict[str, Any]) -> Constraint:
            raise ZeroDivisionError("a defect")

    monkeypatch.setattr(worker_main, "step_back", lambda: None)
    file = io.BytesIO(b"job")
    worker_main._serve({"kind": "constrain"}, file, cast(worker_main.Compiler, Defective()))
    assert file.getvalue() == b"job"
    assert "a defect" in capsys.readouterr().err


@pytest.mark.slow
def test_two_thousand_properties_that_may_be_missing_stay_within_the_budget(enforcer: Enforcer) -> None:
    """In K2's vocabulary they would take minutes."""
    schema = {"type": "object", "properties": {f"property_{i}": {"type": "string"} for i in range(2_000)}}
    began = time.monotonic()
    constraint = constraint_of(enforcer, request(tool(SMALL), tool(schema, name="many")))
    assert constraint.structural_tag
    assert all(place.startswith("tools[1].") for place in constraint.relaxed)
    # What is stated, with the slack of a machine that does other things.
    assert time.monotonic() - began < 3 * MOST_SECONDS


def test_a_worker_that_is_killed_comes_back_by_itself_and_serves_what_waited(validator: WorkerProcess) -> None:
    pid = validator.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert check(validator, {"n": "x"}, SMALL) == ["arguments.n: type"]
    second = validator.pid
    assert second not in (None, pid)
    os.kill(second or 0, signal.SIGKILL)
    until(lambda: validator.pid not in (None, second))


def test_a_job_that_is_killed_takes_nothing_with_it(validator: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the kernel it would take longer than a minute.
    monkeypatch.setattr(worker_client, "SLACK_SECONDS", 60.0)
    pid = validator.pid
    began = time.monotonic()
    endless = {"properties": {"x": {"items": {"anyOf": [{"const": i} for i in range(1_900)]}}}}
    assert check(validator, {"x": [1_899] * 40_000}, endless, seconds=0.3) is None
    assert 0.2 < time.monotonic() - began < 30
    assert check(validator, {"n": 1}, SMALL) == []
    assert validator.pid == pid


def test_a_job_may_not_take_the_machine_s_memory(validator: WorkerProcess) -> None:
    rest = b'["' + b"[" * 100_000 + b'", {"items": true}, false]'
    lines = validator.ask({"kind": "validate", "budget": 5.0}, rest, seconds=5.0)
    assert [line for _, line in lines] == [{"problems": ["arguments: no JSON object"]}]
    assert check(validator, {"n": 1}, SMALL) == []


def test_a_validator_loads_neither_torch_nor_xgrammar(validator: WorkerProcess) -> None:
    maps = Path(f"/proc/{validator.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "xgrammar" not in maps


def test_closing_leaves_no_process_and_no_thread() -> None:
    worker = WorkerProcess(None)
    worker.start()
    worker.wait()
    pid = worker.pid
    assert pid is not None
    worker.close()
    assert gone(pid)
    assert not worker._keeper.is_alive()
    with pytest.raises(Internal):
        worker.wait()


def test_closing_while_it_loads_is_quick(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_client, "SLACK_SECONDS", 60.0)
    worker = WorkerProcess(small_checkpoint)
    worker.start()
    until(lambda: worker._process is not None)
    process = worker._process
    assert process is not None
    # It would load for ever.
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 30
    assert gone(process.pid)


def test_it_dies_with_a_parent_that_is_killed() -> None:
    code = (
        "import time\n"
        "from kimi_k2_serving.enforcer.worker_client import WorkerProcess\n"
        "worker = WorkerProcess(None)\n"
        "worker.start()\n"
        "worker.wait()\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid), 30)


def test_a_worker_that_cannot_start_is_our_fault(tmp_path: Path) -> None:
    with Enforcer(WorkerProcess(tmp_path), bounds=Bounds.demo()) as enforcer, pytest.raises(Internal):
        constraint_of(enforcer, request(tool(SMALL)))


class Failing:
    """A system call that fails as often as told, and works then."""

    def __init__(self, call: Callable[..., Any], times: float) -> None:
        self._call = call
        self.left = times

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._call(*arguments, **named)


@pytest.fixture(params=["fork", "socketpair"])
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """What it takes to start a worker, failing for ever until `left` is 0."""
    place, name = {"fork": (subprocess, "Popen"), "socketpair": (socket, "socketpair")}[request.param]
    made = Failing(getattr(place, name), float("inf"))
    monkeypatch.setattr(place, name, made)
    return made


@pytest.mark.slow
def test_a_worker_whose_start_fails_once_is_there_a_moment_later(failing: Failing) -> None:
    failing.left = 1
    worker = WorkerProcess(None)
    try:
        worker.start()
        worker.wait()
        assert check(worker, {"n": "x"}, SMALL) == ["arguments.n: type"]
    finally:
        worker.close()


def test_while_no_worker_can_be_started_a_new_schema_is_refused_at_once_and_served_afterwards(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_client, "LONGEST_PAUSE_SECONDS", 0.1)
    worker = WorkerProcess(None)
    try:
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(Overloaded, match="no process or memory to spare"):
                check(worker, {"n": 1}, SMALL)
        assert time.monotonic() - began < 0.1 * worker_client.START_SECONDS
        assert worker._keeper.is_alive()
        failing.left = 0
        until(lambda: worker.pid is not None)
        assert check(worker, {"n": "x"}, SMALL) == ["arguments.n: type"]
    finally:
        worker.close()


def test_a_job_that_has_no_channel_is_refused_and_the_worker_stays(
    validator: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = validator.pid
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", Failing(socket.socketpair, 1))
        with pytest.raises(Overloaded):
            check(validator, {"n": 1}, SMALL)
    assert check(validator, {"n": 1}, SMALL) == []
    assert validator.pid == pid


def test_an_enforcer_without_a_thread_refuses_and_serves_the_same_schema_later(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer = Enforcer(worker, bounds=Bounds.demo())

    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(enforcer._lanes, "submit", none_left)
        with pytest.raises(Overloaded):
            constraint_of(enforcer, request(tool(SMALL)))
    assert constraint_of(enforcer, request(tool(SMALL))).structural_tag is not None
    enforcer._lanes.shutdown()
