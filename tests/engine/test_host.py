"""The host between the stub and SGLang: an abort reaches what it is meant for, however early, and nothing else."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from types import ModuleType, SimpleNamespace
from typing import Any

# As in the real host, where SGLang has imported it: that takes longer than the tests wait.
import fastapi  # noqa: F401
import msgspec
import psutil
import pytest

from kimi_k2_serving.engine import host, wire
from kimi_k2_serving.engine.generations import request_id


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang itself takes half a minute to import."""
    monkeypatch.setitem(sys.modules, "sglang", ModuleType("sglang"))
    monkeypatch.setitem(sys.modules, "sglang.version", SimpleNamespace(__version__="0"))
    # A tracker would look for the file when this process ends.
    monkeypatch.setattr("multiprocessing.resource_tracker.register", lambda *_: None)


@pytest.mark.slow
def test_a_parent_that_hangs_when_its_server_is_gone_is_ended_with_the_engine() -> None:
    """As Triton's stub, in a call to a Triton that was killed."""
    watch = "import sys; from kimi_k2_serving.engine import host; host.end_with_server(*map(int, sys.argv[1:]))"
    hang = (
        "import os, signal, subprocess, sys\n"
        "line = [sys.executable, '-c', sys.argv[1], sys.argv[2], str(os.getpid())]\n"
        "print(subprocess.Popen(line, start_new_session=True).pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    line = [sys.executable, "-c", hang, watch, str(server.pid)]
    parent = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    with server, parent:
        assert parent.stdout is not None
        watcher = psutil.Process(int(parent.stdout.readline()))
        server.kill()
        assert parent.wait(30) == -signal.SIGKILL
        watcher.wait(5)


class Engine:
    """As SGLang: forgets an abort of what it does not have yet, and aborts everything whose id begins with it."""

    def __init__(self) -> None:
        scheduler = {"max_total_num_tokens": 100, "max_req_input_len": 94}
        self._scheduler_init_result = SimpleNamespace(scheduler_infos=[scheduler])
        self.tokenizer_manager = SimpleNamespace(
            context_len=100,
            num_reserved_tokens=0,
            model_config=SimpleNamespace(vocab_size=100),
            load_snapshot_reader=SimpleNamespace(read_all=list, path="/dev/shm/loads"),
            abort_request=self.abort,
            server_args=SimpleNamespace(enable_deterministic_inference=False),
        )
        self.known: list[str] = []

    def abort(self, rid: str) -> None:
        for known in self.known:
            if known.startswith(rid):
                asyncio.get_running_loop().call_soon(
                    self.tokenizer_manager.deliver, batch(known, {"type": "abort"}, [])
                )

    async def async_generate(self, *, rid: str, stream: bool = False, **_: Any) -> Any:
        if not stream:
            # As at the start.
            return {}

        async def sent() -> AsyncIterator[dict[str, Any]]:
            self.known.append(rid)
            self.arrived(rid)
            return
            yield

        return sent()

    def arrived(self, rid: str) -> None:
        """The scheduler has the request."""


def batch(rid: str, finish: Any = None, ids: Any = (5,), **fields: Any) -> Any:
    """As SGLang's BatchTokenIDOutput with one row."""
    columns = {"completion_tokens": len(ids), "cached_tokens": 0, "output_token_logprobs_val": [], **fields}
    columns.update({"output_token_logprobs_idx": list(ids), "finished_reasons": finish, "output_ids": ids, "rids": rid})
    return SimpleNamespace(**{name: [value] for name, value in columns.items()})


class Texts:
    """Each row's text is x."""

    def decode(self, batch: Any, rows: list[int]) -> list[str]:
        return ["x" for _ in rows]

    def forget(self, rid: str) -> None:
        pass


async def ended(engine: Engine, *messages: wire.ToHost) -> list[str]:
    """The uids that have ended a moment after these messages came, all of them at once."""
    found = await said(engine, *map(wire.frame, messages))
    return [message.uid for message in found if isinstance(message, wire.Output)]


def submit(uid: str) -> wire.Submit:
    return wire.Submit(uid=uid, input_ids=[1], sampling={}, top_logprobs=None, priority=None)


def test_an_abort_that_comes_with_its_request_is_not_lost() -> None:
    assert asyncio.run(ended(Engine(), submit("a"), wire.Abort("a"))) == ["a"]


def test_an_abort_ends_one_request_and_none_whose_uid_begins_alike() -> None:
    messages = submit("a"), submit("ab"), submit("abc"), wire.Abort("ab"), wire.Abort("unknown")
    assert asyncio.run(ended(Engine(), *messages)) == ["ab"]


class Answering(Engine):
    """Every generation is one batch, made by `answer`, and then waits to be aborted."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        super().__init__()
        self.answer = answer
        self.forgotten: list[str] = []
        self.tokenizer_manager.abort_request = self.forgotten_by

    def forgotten_by(self, rid: str) -> None:
        self.forgotten.append(rid)

    def arrived(self, rid: str) -> None:
        self.tokenizer_manager.deliver(self.answer(rid))


def answering(finish: Any = None, **fields: Any) -> Answering:
    return Answering(lambda rid: batch(rid, finish, **fields))


async def said(engine: Engine, *sent: bytes) -> list[wire.FromHost]:
    """What the host says about its requests within a moment."""
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(host.serve(engine, Texts(), wire.Start({}, warm_up=False), theirs))
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    writer.write(b"".join(sent))
    found: list[wire.FromHost] = []
    try:
        async with asyncio.timeout(0.3):
            async for message in wire.messages(reader, wire.FromHost):
                if not isinstance(message, wire.Started | wire.Beat):
                    found.append(message)
    except TimeoutError:
        pass
    writer.close()
    await writer.wait_closed()
    await serving
    return found


@pytest.mark.parametrize(
    ("found", "told"),
    [(7, 7), ("s", "s"), ([1, 2], [1, 2]), (None, None), (1.5, None), ({"a": 1}, None), ([[1]], None)],
)
def test_whatever_the_engine_says_ended_it_is_passed_on_or_left_out(found: object, told: object) -> None:
    (output,) = asyncio.run(said(answering({"type": "stop", "matched": found}), wire.frame(submit("a"))))
    assert isinstance(output, wire.Output)
    assert (output.end, output.matched) == ("stop", told)


@pytest.mark.parametrize(
    "fields",
    [
        {"completion_tokens": 1 << 80},
        {"ids": ["five"], "cached_tokens": object()},
        {"output_token_logprobs_val": [None]},
        {"finish": {"type": "stop", "matched": "\ud800"}},
        {"finish": {}},
    ],
)
def test_an_answer_that_can_not_be_passed_on_is_that_request_s_end_and_no_other_s(fields: dict[str, Any]) -> None:
    engine = answering(**fields)
    a, b = (wire.Submit(uid=uid, input_ids=[1], sampling={}, top_logprobs=0, priority=None) for uid in "ab")
    found = asyncio.run(said(engine, wire.frame(a), wire.frame(b)))
    assert [(type(each), each.uid, each.status) for each in found] == [  # type: ignore[union-attr]
        (wire.Failed, "a", 500),
        (wire.Failed, "b", 500),
    ]
    assert engine.forgotten == [request_id("a", 1), request_id("b", 2)]


def test_a_request_that_can_not_be_read_is_refused_and_the_next_is_served() -> None:
    body = msgspec.msgpack.encode(["Submit", "bad", "none"])
    engine = answering({"type": "length"})
    bad, good = asyncio.run(said(engine, wire.HEADER.pack(len(body)) + body, wire.frame(submit("good"))))
    assert isinstance(bad, wire.Failed)
    assert (bad.uid, bad.status) == ("bad", 400)
    assert isinstance(good, wire.Output)
    assert good.uid == "good"


def test_an_idle_engine_tells_its_state_once_per_second_and_one_with_work_at_every_beat() -> None:
    def beats(engine: Engine, *messages: wire.ToHost, busy: int = 0) -> int:
        load = SimpleNamespace(
            timestamp=1.0,
            num_running_reqs=busy,
            num_waiting_reqs=0,
            num_used_tokens=0,
            token_usage=0.0,
            max_total_num_tokens=9,
        )
        read: list[None] = []
        engine.tokenizer_manager.load_snapshot_reader.read_all = lambda: read.append(None) or [load]
        asyncio.run(said(engine, *map(wire.frame, messages)))
        return len(read)

    assert beats(Engine()) == 1
    assert beats(Engine(), submit("a")) > 2, "a generation is in flight"
    assert beats(Engine(), busy=1) > 2, "the scheduler still works on an aborted one"


def test_a_state_that_can_not_be_read_is_borne_for_a_while_and_then_ends_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(times: int) -> list[wire.FromHost]:
        left = times

        def broken() -> list[Any]:
            nonlocal left
            left -= 1
            if left >= 0:
                raise OSError("no descriptor")
            return []

        engine = answering({"type": "length"})
        engine.tokenizer_manager.load_snapshot_reader.read_all = broken
        return asyncio.run(asyncio.wait_for(said(engine, wire.frame(submit("a"))), 5))

    monkeypatch.setattr(wire, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(host, "LOST_BEATS", 5)
    assert len(read(4)) == 1
    begin = time.monotonic()
    read(1000)
    assert time.monotonic() - begin < 0.3, "the stream has to end by itself"
