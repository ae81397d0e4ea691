"""What the engine model does with more than it can take: overload, deadlines, slow readers, shutdown, cancellation."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_pb_utils as triton
import pytest
from test_engine_service import ROOMY, answers, ask, error, service, until
from tests.support.attempts import quickest

from kimi_k2_serving.engine.admission import Capacity
from kimi_k2_serving.engine.pace import Pace
from kimi_k2_serving.triton.server_watch import TritonServer, read_flags

LONG, LATE = 3, 4
ONE = Capacity(requests=1, prompt_tokens=1000, queue=1, queue_seconds=0.3)
PATIENT = replace(ONE, queue_seconds=20)


def test_over_the_limit_a_request_is_refused_at_once_and_with_room_again_it_is_not(tmp_path: Path) -> None:
    with service(tmp_path, PATIENT) as (running, engine):
        working, waiting = ask(running, input_ids=[LATE], request_context="w"), ask(running, input_ids=[1])
        until(lambda: engine.in_flight == 1 and running._admission.waiting == 1)
        begin = time.monotonic()
        message, code = error(ask(running, input_ids=[1]))
        assert time.monotonic() - begin < PATIENT.queue_seconds / 2
        assert (message.split(":")[0], code) == ("overloaded", triton.TritonError.UNAVAILABLE)
        assert "retry in" in message
        working.cancelled = True
        assert answers(waiting)[-1]["finish_reason"] == "length"
        assert answers(ask(running, input_ids=[1]))


def test_a_request_that_waits_too_long_is_refused(tmp_path: Path) -> None:
    with service(tmp_path, ONE) as (running, engine):
        ask(running, input_ids=[LATE])
        until(lambda: engine.in_flight == 1)
        begin = time.monotonic()
        assert error(ask(running, input_ids=[1]))[0].startswith("overloaded: ")
        assert time.monotonic() - begin >= 0.3
        assert engine.in_flight == 1


def test_waiting_requests_go_by_priority(tmp_path: Path) -> None:
    with service(tmp_path, Capacity(1, 1000, 10, 10)) as (running, engine):
        working = ask(running, input_ids=[LATE])
        until(lambda: engine.in_flight == 1)
        later = []
        for number, priority in enumerate((0, -100, 100, 1)):
            later.append(ask(running, input_ids=[1, number], request_priority=priority))
            until(lambda: running._admission.waiting == len(later))
        working.cancelled = True
        for sender in later:
            answers(sender)
        assert [generation.input_ids[1] for generation in engine.generations[1:]] == [2, 3, 0, 1]


@pytest.mark.parametrize("script", [LONG, LATE], ids=["in decode", "before the first token"])
def test_past_its_deadline_a_request_ends_with_one_error_and_frees_the_engine(tmp_path: Path, script: int) -> None:
    with service(tmp_path) as (running, engine):

        def late() -> None:
            message, code = error(ask(running, input_ids=[script], stream=True, timeout_ms=300))
            assert (message, code) == ("deadline_exceeded: not done within 0.3 s", triton.TritonError.CANCELLED)

        assert 0.3 <= quickest(late, 0.55) < 0.55
        until(lambda: engine.in_flight == 0)


def test_a_deadline_runs_while_a_request_waits_for_admission(tmp_path: Path) -> None:
    with service(tmp_path, Capacity(1, 1000, 10, 10)) as (running, engine):
        ask(running, input_ids=[LATE])
        until(lambda: engine.in_flight == 1)
        assert error(ask(running, input_ids=[1], timeout_ms=200))[0].startswith("deadline_exceeded: ")
        assert len(engine.generations) == 1


def test_heartbeats_are_empty_responses_while_nothing_comes(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        sender = ask(running, input_ids=[LATE], stream=True, heartbeat_ms=100, request_context="u\nrest")
        until(lambda: len(sender.sent) >= 3)
        sender.cancelled = True
        until(lambda: sender.finals == 1)
        first, second = [triton.outputs(response) for response in sender.sent[:2]]
        assert first == {"text_output": "", "output_ids": [], "request_context": "u\nrest"}
        assert second == {"text_output": "", "output_ids": [], "request_context": "u"}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"timeout_ms": 0}, "invalid_value: timeout_ms: "),
        ({"heartbeat_ms": 99, "stream": True}, "invalid_value: heartbeat_ms: "),
        ({"heartbeat_ms": 1000}, "invalid_value: heartbeat_ms: needs stream true"),
        ({"request_priority": 101}, "invalid_value: request_priority: "),
        ({"cache_salt": "é" * 129}, "limit_exceeded: cache_salt: "),
    ],
)
def test_serving_tensors_out_of_range_are_refused_by_name(
    tmp_path: Path, inputs: dict[str, Any], expected: str
) -> None:
    with service(tmp_path) as (running, _):
        message, code = error(ask(running, input_ids=[1], **inputs))
        assert message.startswith(expected)
        assert code == triton.TritonError.INVALID_ARG


@pytest.mark.parametrize(
    ("given", "salt"), [({"cache_salt": "pepper"}, "pepper"), ({"cache_salt": ""}, None), ({}, None)]
)
def test_a_salt_reaches_the_engine_and_an_empty_one_is_none(
    tmp_path: Path, given: dict[str, str], salt: str | None
) -> None:
    with service(tmp_path) as (running, engine):
        answers(ask(running, input_ids=[1], **given))
        assert engine.generations[0].cache_salt == salt


class StuckSender(triton.Sender):
    """Its first send takes until `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def send(self, response: Any, flags: int = 0) -> None:
        if not self.sent and not flags:
            assert self.release.wait(60)
        super().send(response, flags)


def test_a_reader_that_stalls_a_send_too_long_loses_its_run_and_nobody_else_theirs(tmp_path: Path) -> None:
    with service(tmp_path, slow_reader_seconds=0.2) as (running, engine):
        stuck = StuckSender()
        running.execute([triton.Request({"input_ids": [LONG], "stream": True}, sender=stuck)])
        until(lambda: engine.in_flight == 1)
        other = ask(running, input_ids=[1], stream=True)
        assert answers(other)
        until(lambda: engine.in_flight == 0)
        stuck.release.set()
        assert error(stuck)[0].startswith("cancelled: ")
        assert len(stuck.sent) == 2


class BrokenSender(triton.Sender):
    """Refuses every response but the final one."""

    def send(self, response: Any, flags: int = 0) -> None:
        if not flags:
            raise triton.TritonModelException("no")
        super().send(response, flags)


def test_a_response_that_cannot_be_sent_ends_its_request_with_one_error(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        broken = BrokenSender()
        running.execute([triton.Request({"input_ids": [LONG], "stream": True}, sender=broken)])
        assert error(broken)[0] == "internal: an internal error; see the server's log"
        until(lambda: engine.in_flight == 0)


def test_an_abort_over_the_channel_ends_a_request_that_still_waits(tmp_path: Path) -> None:
    with service(tmp_path, Capacity(1, 1000, 10, 10)) as (running, engine):
        ask(running, input_ids=[LATE])
        until(lambda: engine.in_flight == 1)
        waiting = ask(running, input_ids=[1], request_context="u")
        until(lambda: running._admission.waiting == 1)
        running._loop.call_soon_threadsafe(running._abort, "u")
        assert error(waiting)[0].startswith("cancelled: ")
        assert len(engine.generations) == 1


@pytest.mark.slow
def test_ten_thousand_cancels_at_random_moments_each_end_once_and_leave_nothing(tmp_path: Path) -> None:
    chance = random.Random(6)
    capacity = Capacity(requests=300, prompt_tokens=100_000, queue=10_000, queue_seconds=60)
    begin = time.monotonic()
    with service(tmp_path, capacity) as (running, engine):
        senders = []
        for _ in range(20):
            batch = [
                ask(running, input_ids=[chance.choice((1, 2, LONG, LATE))], stream=chance.random() < 0.5)
                for _ in range(500)
            ]
            waiting = list(batch)
            chance.shuffle(waiting)
            for number, sender in enumerate(waiting):
                sender.cancelled = True
                if number % 25 == 0:
                    time.sleep(chance.random() * 0.004)
            senders += batch
        until(lambda: all(sender.finals for sender in senders), 30)
        assert time.monotonic() - begin < 60
        until(lambda: engine.in_flight == 0)
        until(lambda: not running._flights)
        assert (running._admission.granted, running._admission.waiting, running._by_uid) == (0, 0, {})
    assert {sender.finals for sender in senders} == {1}
    ends = [sender.sent[-1] for sender in senders]
    assert sum(end.error is not None for end in ends) > 5_000


def values(name: str) -> dict[str, float]:
    return {metric.labels.get("outcome", ""): metric.value for metric in triton.MetricFamily.made[name]}


def test_metrics_show_the_engines_load_and_how_requests_ended(tmp_path: Path) -> None:
    with service(tmp_path, ONE) as (running, engine):
        answers(ask(running, input_ids=[1]))
        ask(running, input_ids=[LATE])
        until(lambda: engine.in_flight == 1)
        until(lambda: values("sglang:num_running_reqs") == {"": 1})
        error(ask(running, input_ids=[1], timeout_ms=100))
        expected = {"completed": 1, "deadline_exceeded": 1}
        until(lambda: values("sglang_backend:requests") == expected)

        def one_more() -> None:
            """It begins just after the metrics were published, so it takes a whole interval."""
            expected["invalid_value"] = expected.get("invalid_value", 0) + 1
            error(ask(running, input_ids=[999]))
            until(lambda: values("sglang_backend:requests") == expected)

        assert quickest(one_more, 0.3) < 0.3


def test_a_server_without_metrics_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.MetricFamily, "available", False)
    with service(tmp_path) as (running, _):
        assert answers(ask(running, input_ids=[1]))


def test_the_servers_command_line_says_where_it_is_and_how_long_it_waits() -> None:
    argv = ["/opt/tritonserver/bin/tritonserver", "--http-port", "18000", "--exit-timeout-secs=600", "--model-x"]
    assert TritonServer.parse(argv) == TritonServer("127.0.0.1", 18000, 600.0)
    assert TritonServer.parse(argv[:1]) == TritonServer("127.0.0.1", 8000, 30.0)
    assert TritonServer.parse([*argv, "--allow-http=0"]) is None
    assert TritonServer.parse(["python3", "server.py"]) is None
    assert read_flags(["--a=1", "--b", "2", "--a", "3"]) == {"a": "3", "b": "2"}


class Http:
    """A Triton whose HTTP answers, and from `stop` on closes every connection without a word."""

    def __init__(self) -> None:
        self.stopped = False
        self.answered = 0

    async def serve(self) -> int:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.stopped:
            await reader.read(1)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self.answered += 1
        writer.close()


def test_a_server_that_closes_connections_without_an_answer_is_stopping() -> None:
    async def scenario() -> None:
        http = Http()
        server = TritonServer("127.0.0.1", await http.serve(), 5.0)
        watch = asyncio.create_task(server.stopping(Pace(lambda: True)))
        await asyncio.to_thread(until, lambda: http.answered >= 2)
        assert not watch.done()
        http.stopped = True
        await asyncio.wait_for(watch, 30)
        http.server.close()

    asyncio.run(scenario())


@contextmanager
def a_triton(exit_seconds: float) -> Iterator[tuple[Http, TritonServer]]:
    """An Http on a loop of its own, and what a service knows of it."""

    async def http_thread() -> None:
        port.append(await http.serve())
        await asyncio.to_thread(closing.wait)
        http.server.close()

    http, port, closing = Http(), list[int](), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(http_thread()))
    thread.start()
    until(lambda: bool(port))
    try:
        yield http, TritonServer("127.0.0.1", port[0], exit_seconds)
    finally:
        closing.set()
        thread.join()


@pytest.mark.slow
def test_while_the_server_stops_new_requests_are_refused_and_live_ones_get_its_grace(tmp_path: Path) -> None:
    with (
        a_triton(6.0) as (http, server),
        service(tmp_path, server=server) as (running, engine),
    ):
        cut = ask(running, input_ids=[LONG], stream=True)
        until(lambda: engine.in_flight == 1)
        until(lambda: http.answered >= 2)
        assert running.ready
        http.stopped = True
        begin = time.monotonic()
        until(lambda: not running.ready)
        assert error(ask(running, input_ids=[1]))[0].startswith("shutting_down: ")
        assert cut.finals == 0
        assert error(cut) == (
            "shutting_down: the server is stopping; send the request again",
            triton.TritonError.UNAVAILABLE,
        )
        # After 6 s Triton would cut it off.
        assert 3.0 <= time.monotonic() - begin < 6.0


def test_a_server_that_answers_again_does_not_stop_and_nobody_is_ended(tmp_path: Path) -> None:
    with (
        a_triton(60.0) as (http, server),
        service(tmp_path, server=server) as (running, engine),
    ):
        kept = ask(running, input_ids=[LONG], stream=True)
        until(lambda: engine.in_flight == 1 and http.answered >= 2)
        http.stopped = True
        until(lambda: not running.ready)
        http.stopped = False
        until(lambda: running.ready)
        assert kept.finals == 0
        kept.cancelled = True


def test_a_prompt_of_the_whole_context_costs_time_in_proportion(tmp_path: Path) -> None:
    def seconds(length: int) -> float:
        request = {"input_ids": [1] * length, "max_tokens": 1}
        best = 9.0
        for _ in range(3):
            begin = time.perf_counter()
            answers(ask(running, **request))
            best = min(best, time.perf_counter() - begin)
        return best

    capacity = Capacity(ROOMY.requests, 1 << 20, ROOMY.queue, ROOMY.queue_seconds)
    with service(tmp_path, capacity, context_length=1 << 20) as (running, _):
        seconds(1000)
        small, large = seconds(65_536), seconds(524_288)
        assert large < max(8 * 2.5 * small, 1.0), (small, large)


@pytest.mark.slow
def test_an_ended_requests_sender_is_let_go_at_once_without_a_garbage_collection(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        with service(tmp_path) as (running, engine):
            kinds = [
                {"input_ids": [1]},
                {"input_ids": [2], "stream": True},
                {"input_ids": [LATE]},
                {"input_ids": [999]},
            ]
            senders = [ask(running, **inputs) for inputs in kinds]
            until(lambda: engine.in_flight == 1)
            senders[2].cancelled = True
            until(lambda: all(sender.finals for sender in senders))
            until(lambda: not running._flights)
            time.sleep(0.1)
            gone = [weakref.ref(sender) for sender in senders]
            senders.clear()
            assert [each() for each in gone] == [None] * 4
    finally:
        gc.enable()
