"""Constraints come from elsewhere, within a budget, once; what fails there fails closed and is named."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_k2_serving.core.errors import Internal, LimitExceeded, Overloaded, ServingError, ShuttingDown
from kimi_k2_serving.core.messages import Conversation, FormatKind, ResponseFormat, Tool, ToolChoice, ToolMode
from kimi_k2_serving.enforcer import enforcer as enforcers
from kimi_k2_serving.enforcer.enforcer import Enforcer
from kimi_k2_serving.enforcer.outcome_cache import PASSING_SECONDS
from kimi_k2_serving.enforcer.worker_client import START_SECONDS, Line
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.json_schema.bounds import Bounds
from tests.grammar.prover import request, tool
from tests.support.enforcer import ask, constraint_of

Answers = Callable[[dict[str, Any], Conversation], list[dict[str, Any]]]


def constraint(_: dict[str, Any], conversation: Conversation) -> list[dict[str, Any]]:
    """What a worker says of a schema that compiles; the tag shows the job."""
    return [{"structural_tag": repr(conversation.tools), "relaxed": [], "seconds": 0.0}]


class FakeWorker:
    """`answers` is called on the enforcer's threads, once for each job; `gate` holds all of them up."""

    def __init__(self, answers: Answers = constraint) -> None:
        self.answers = answers
        self.jobs: list[tuple[str, Conversation]] = []
        self.gate = threading.Event()
        self.gate.set()

    def start(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def close(self) -> None:
        self.gate.set()

    def ask(
        self, header: dict[str, Any], rest: bytes, *, seconds: float, patience: float = START_SECONDS
    ) -> list[Line]:
        conversation, _ = jobs.decode_job(rest)
        self.jobs.append((header["kind"], conversation))
        self.gate.wait()
        return [(time.monotonic(), line) for line in self.answers(header, conversation)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def made(worker: FakeWorker, clock: Clock | None = None) -> Enforcer:
    return Enforcer(worker, bounds=Bounds.demo(), clock=clock or Clock())


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def enforcer(worker: FakeWorker) -> Iterator[Enforcer]:
    with made(worker) as found:
        yield found


def of(*names: str, **rest: Any) -> Conversation:
    """A conversation whose tools have one property each, of these names."""
    return request(*(tool({"properties": {name: {"type": "integer"}}}, name=f"f_{name}") for name in names), **rest)


def refused(enforcer: Enforcer, conversation: Conversation) -> ServingError:
    with pytest.raises(ServingError) as caught:
        constraint_of(enforcer, conversation)
    return caught.value


def test_nothing_to_constrain_asks_nobody(enforcer: Enforcer, worker: FakeWorker) -> None:
    assert constraint_of(enforcer, request(mode=ToolMode.AUTO)) == Constraint(None)
    assert worker.jobs == []


def test_a_known_conversation_asks_nobody_again(enforcer: Enforcer, worker: FakeWorker) -> None:
    first, again = constraint_of(enforcer, of("a")), ask(enforcer, of("a"))
    assert again.done()
    assert again.result() == first
    assert len(worker.jobs) == 1
    constraint_of(enforcer, of("b"))
    assert len(worker.jobs) == 2


def test_a_bad_outcome_is_known_too_and_each_who_asks_gets_an_error_of_his_own() -> None:
    error = {"code": "limit_exceeded", "field": "tools[0].function.parameters", "detail": "too deep"}
    worker = FakeWorker(lambda *_: [{"error": error}])
    with made(worker) as enforcer:
        first, second = refused(enforcer, of("a")), refused(enforcer, of("a"))
    assert type(first) is LimitExceeded
    assert (first.field, first.detail) == ("tools[0].function.parameters", "too deep")
    assert first is not second
    assert len(worker.jobs) == 1


def test_the_same_conversation_asked_at_once_is_one_job(enforcer: Enforcer, worker: FakeWorker) -> None:
    worker.gate.clear()
    futures = [ask(enforcer, of("a")) for _ in range(20)]
    worker.gate.set()
    assert len({future.result(10) for future in futures}) == 1
    assert len(worker.jobs) == 1


def test_a_known_conversation_does_not_wait_behind_unknown_ones(enforcer: Enforcer, worker: FakeWorker) -> None:
    constraint_of(enforcer, of("a"))
    worker.gate.clear()
    slow = [ask(enforcer, of(f"s{i}")) for i in range(10)]
    assert ask(enforcer, of("a")).done()
    assert ask(enforcer, request(mode=ToolMode.AUTO)).done()
    assert not any(future.done() for future in slow)
    worker.gate.set()
    wait(slow, 10)


def test_jobs_are_served_in_the_order_in_which_they_came(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of several lanes any may be held up between taking a job and asking for it.
    monkeypatch.setattr(enforcers, "LANES", 1)
    worker.gate.clear()
    with made(worker) as enforcer:
        futures = [ask(enforcer, of(f"n{i}")) for i in range(30)]
        worker.gate.set()
        wait(futures, 10)
    assert [conversation.tools[0].name for _, conversation in worker.jobs] == [f"f_n{i}" for i in range(30)]


def test_a_job_that_nobody_waits_for_any_more_is_not_begun(enforcer: Enforcer, worker: FakeWorker) -> None:
    worker.gate.clear()
    running = [ask(enforcer, of(f"r{i}")) for i in range(enforcers.LANES)]
    while len(worker.jobs) < enforcers.LANES:
        time.sleep(0.001)
    left, stayed = ask(enforcer, of("left")), ask(enforcer, of("stayed"))
    assert left.cancel()
    worker.gate.set()
    wait([*running, stayed], 10)
    assert "f_left" not in {conversation.tools[0].name for _, conversation in worker.jobs}
    assert constraint_of(enforcer, of("left")).structural_tag


def test_one_who_leaves_takes_nothing_from_another_who_waits_for_the_same(
    enforcer: Enforcer, worker: FakeWorker
) -> None:
    worker.gate.clear()
    left, stayed = ask(enforcer, of("a")), ask(enforcer, of("a"))
    assert left.cancel()
    worker.gate.set()
    assert stayed.result(10).structural_tag


def test_more_unknown_conversations_than_may_wait_are_refused_at_once(enforcer: Enforcer, worker: FakeWorker) -> None:
    worker.gate.clear()
    waiting = [ask(enforcer, of(f"w{i}")) for i in range(enforcers.MOST_WAITING)]
    assert isinstance(ask(enforcer, of("more")).exception(0), Overloaded)
    joined = ask(enforcer, of("w0"))
    worker.gate.set()
    wait([*waiting, joined], 30)
    assert constraint_of(enforcer, of("more")).structural_tag


def test_closing_tells_everybody_who_waits(worker: FakeWorker) -> None:
    enforcer = made(worker)
    worker.gate.clear()
    futures = [ask(enforcer, of(f"c{i}")) for i in range(5)]
    enforcer.close()
    for future in futures:
        assert isinstance(future.exception(10), ShuttingDown)
    assert isinstance(ask(enforcer, of("late")).exception(10), ShuttingDown)


PATHS = [jobs.path(0), jobs.path(1), jobs.path(2)]
FORMAT = Conversation((), response_format=ResponseFormat(FormatKind.JSON_SCHEMA, {"type": "integer"}))


def slow(*paths: str, relaxed: bool = False) -> Answers:
    """A worker for which these schemas never end, whole; `relaxed`: not even with their parts given up."""

    def answers(header: dict[str, Any], conversation: Conversation) -> list[dict[str, Any]]:
        here = [path for path in jobs.places(conversation) if path in paths and path not in header.get("free", ())]
        if header["kind"] == "cost":
            lines: list[dict[str, Any]] = []
            for path in jobs.places(conversation):
                lines.append({"at": path})
                if path in here:
                    return lines
                lines.append({"seconds": 0.01})
            return lines
        if here and ("passes" not in header or not relaxed):
            return []
        return [{"structural_tag": "x", "relaxed": [f"{each}: schema" for each in header.get("free", ())]}]

    return answers


@pytest.mark.parametrize(
    ("conversation", "path"),
    [
        (of("a"), PATHS[0]),
        (of("a", "b", mode=ToolMode.NAMED, name="f_b"), PATHS[1]),
        (FORMAT, jobs.FORMAT),
        (of("a", "b", "c"), PATHS[1]),
        (of("a", "b", "c"), PATHS[2]),
    ],
    ids=["the only tool", "the named tool", "the format", "the second tool", "the last tool"],
)
def test_a_schema_that_never_ends_is_given_up_and_no_other(conversation: Conversation, path: str) -> None:
    with made(FakeWorker(slow(path))) as enforcer:
        assert constraint_of(enforcer, conversation) == Constraint("x", (f"{path}: schema",))


def test_a_schema_that_ends_with_its_parts_given_up_is_compiled_twice_once_it_proved_expensive() -> None:
    worker = FakeWorker(slow(PATHS[1], relaxed=True))
    with made(worker) as enforcer:
        assert constraint_of(enforcer, of("a", "b")) == Constraint("x")
    assert [kind for kind, _ in worker.jobs] == ["constrain", "constrain", "constrain"]


def test_what_only_looks_cheap_waits_among_the_expensive_and_leaves_a_lane_to_the_next() -> None:
    """However many of them a client sends: each holds a lane for no longer than it takes to see it."""
    held, begun = threading.Event(), threading.Semaphore(0)

    def answers(header: dict[str, Any], conversation: Conversation) -> list[dict[str, Any]]:
        if conversation.tools[0].name == "f_cheap":
            return constraint(header, conversation)
        if header["budget"] == enforcers.PROBE_SECONDS:
            return []
        begun.release()
        held.wait()
        return constraint(header, conversation)

    with made(FakeWorker(answers)) as enforcer:
        slow_ones = [ask(enforcer, of(f"slow{number}")) for number in range(6)]
        assert begun.acquire(timeout=10)
        assert ask(enforcer, of("cheap")).result(10).structural_tag
        assert not begun.acquire(blocking=False)
        held.set()
        assert all(each.result(10).structural_tag for each in slow_ones)


def test_of_several_that_never_end_each_is_given_up() -> None:
    with made(FakeWorker(slow(PATHS[0], PATHS[2]))) as enforcer:
        assert constraint_of(enforcer, of("a", "b", "c")).relaxed == (f"{PATHS[0]}: schema", f"{PATHS[2]}: schema")


def test_of_schemas_that_take_too_long_together_the_slowest_are_given_up() -> None:
    def answers(header: dict[str, Any], _: Conversation) -> list[dict[str, Any]]:
        if header["kind"] == "cost":
            return [line for at, s in zip(PATHS, (0.4, 0.9, 0.2), strict=True) for line in ({"at": at}, {"seconds": s})]
        return [{"structural_tag": "x", "relaxed": header["free"]}] if "free" in header else []

    with made(FakeWorker(answers)) as enforcer:
        assert constraint_of(enforcer, of("a", "b", "c")).relaxed == (PATHS[1],)


def test_a_schema_that_the_client_insists_on_is_refused_by_its_path() -> None:
    error = {"code": "invalid_schema", "field": PATHS[1], "detail": "takes too long"}

    def answers(header: dict[str, Any], conversation: Conversation) -> list[dict[str, Any]]:
        if header["kind"] == "constrain" and PATHS[1] in header.get("free", ()):
            return [{"error": error}]
        return slow(PATHS[1])(header, conversation)

    with made(FakeWorker(answers)) as enforcer:
        assert refused(enforcer, of("a", "b")).field == PATHS[1]


def test_a_grammar_that_is_too_large_is_given_up_in_parts() -> None:
    def answers(header: dict[str, Any], conversation: Conversation) -> list[dict[str, Any]]:
        whole = [{"error": {"code": "invalid_schema", "field": jobs.SOMEWHERE, "detail": "does not compile"}}]
        return slow(PATHS[0])(header, conversation) or whole

    with made(FakeWorker(answers)) as enforcer:
        assert constraint_of(enforcer, of("a", "b")).relaxed == (f"{PATHS[0]}: schema",)


def test_where_nothing_ends_the_machine_is_busy_and_the_schema_is_not_to_blame() -> None:
    with made(FakeWorker(dies)) as enforcer:
        assert isinstance(refused(enforcer, of("a", "b")), Overloaded)


def dies(_: dict[str, Any], __: Conversation) -> list[dict[str, Any]]:
    return []


def test_what_was_given_up_once_is_tried_again_after_a_while() -> None:
    worker, clock = FakeWorker(slow(PATHS[0])), Clock()
    with made(worker, clock) as enforcer:
        assert constraint_of(enforcer, of("a")).relaxed
        asked = len(worker.jobs)
        constraint_of(enforcer, of("a"))
        assert len(worker.jobs) == asked
        clock.now = PASSING_SECONDS
        worker.answers = constraint
        assert not constraint_of(enforcer, of("a")).relaxed


def test_a_worker_that_is_not_there_is_our_fault_and_not_remembered(enforcer: Enforcer, worker: FakeWorker) -> None:
    def fails(_: dict[str, Any], __: Conversation) -> list[dict[str, Any]]:
        raise Internal("the grammar compiler does not start")

    worker.answers = fails
    assert isinstance(refused(enforcer, of("a")), Internal)
    worker.answers = constraint
    assert constraint_of(enforcer, of("a")).structural_tag


def test_a_defect_of_ours_is_internal_and_says_nothing(enforcer: Enforcer, worker: FakeWorker) -> None:
    worker.answers = lambda *_: [{"error": {"code": "internal", "field": "", "detail": "secret"}}]
    error = refused(enforcer, of("a"))
    assert isinstance(error, Internal)
    assert "secret" not in str(error)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_however_callers_meet_each_gets_what_belongs_to_his_schema_and_each_schema_is_one_job(
    asked: list[tuple[int, bool]],
) -> None:
    worker = FakeWorker()
    with made(worker) as enforcer, ThreadPoolExecutor(8) as callers:
        futures: list[tuple[int, bool, Future[Future[Constraint]]]] = [
            (number, leaves, callers.submit(ask, enforcer, of(f"p{number}"))) for number, leaves in asked
        ]
        for number, leaves, future in futures:
            if not (leaves and future.result().cancel()):
                assert f"f_p{number}'" in str(future.result().result(10).structural_tag)
        jobs_of = [conversation.tools[0].name for _, conversation in worker.jobs]
        cancelled = {f"f_p{number}" for number, leaves, _ in futures if leaves}
    assert all(jobs_of.count(name) == 1 or name in cancelled for name in jobs_of)


schemas = st.recursive(
    st.booleans() | st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=5), max_size=3),
    lambda inner: st.fixed_dictionaries({"properties": st.dictionaries(st.text(max_size=3), inner, max_size=3)}),
    max_leaves=6,
)
tools = st.builds(
    Tool,
    name=st.sampled_from(["f", "g", "漢", "a-b"]),
    declaration=st.just({}),
    parameters=st.none() | schemas,
    strict=st.booleans(),
)


@given(
    st.lists(tools, max_size=3),
    st.sampled_from(
        [ToolChoice(mode) for mode in ToolMode if mode is not ToolMode.NAMED] + [ToolChoice(ToolMode.NAMED, "f")]
    ),
    st.booleans(),
    st.sampled_from(FormatKind),
    schemas,
)
def test_a_job_is_the_conversation_less_what_does_not_constrain(
    declared: list[Tool], choice: ToolChoice, parallel: bool, kind: FormatKind, schema: Any
) -> None:
    wanted = ResponseFormat(kind, schema if kind is FormatKind.JSON_SCHEMA else None)
    conversation = Conversation((), tuple(declared), choice, parallel, wanted)
    bounds = Bounds(max_string=7)
    assert jobs.decode_job(jobs.encode_job(conversation, bounds)) == (conversation, bounds)


def test_every_schema_that_makes_a_grammar_has_a_place_and_no_other() -> None:
    format_ = ResponseFormat(FormatKind.JSON_SCHEMA, {"type": "object"})
    both = [jobs.path(0), jobs.path(1), jobs.FORMAT]
    assert list(jobs.places(of("a", "b", mode=ToolMode.AUTO, response_format=format_))) == both
    assert list(jobs.places(of("a", "b", mode=ToolMode.NAMED, name="f_b"))) == [jobs.path(1)]
    assert list(jobs.places(of("a", "b", mode=ToolMode.NONE, response_format=format_))) == [jobs.FORMAT]


def test_a_job_holds_json_and_no_message() -> None:
    conversation = of("a")
    assert conversation.messages[0].content == "hi"
    keys = {"tools", "choice", "parallel", "format", "bounds"}
    assert set(json.loads(jobs.encode_job(conversation, Bounds.demo()))) == keys
