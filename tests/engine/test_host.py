"""The host between the stub and SGLang: an abort reaches what it is meant for, however early, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from types import ModuleType, SimpleNamespace
from typing import Any

# As in the real host, where SGLang has imported it: that takes longer than the tests wait.
import fastapi  # noqa: F401
import msgspec
import psutil
import pytest

from kimi_k2_serving.engine import host, pace, wire
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
        watcher.wait(30)


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
    """The uids that have ended after these messages came, all of them at once."""
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
    """What the host says about its requests, until it has nothing left to do or has closed the stream."""
    async with serving(engine) as (reader, writer):
        found: list[wire.FromHost] = []
        messages = wire.messages(reader, wire.FromHost)
        writer.write(b"".join(sent))
        # The host works on this loop. When it has read a mark and written the answer, every task has run once more.
        for _ in range(MARKS):
            writer.write(wire.HEADER.pack(len(MARK)) + MARK)
            async for message in messages:
                if isinstance(message, wire.Failed) and message.uid == "mark":
                    break
                if not isinstance(message, wire.Started | wire.Beat):
                    found.append(message)
        return found


# A request that can't be read is answered at once.
MARK = msgspec.msgpack.encode(["Submit", "mark", "none"])
MARKS = 5


@contextlib.asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The stub's side of the stream of a host that serves. The host ends after the block."""
    ours, theirs = socket.socketpair()
    task = asyncio.create_task(host.serve(engine, Texts(), wire.Start({}, warm_up=False), theirs))
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    async with asyncio.timeout(60):
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await task


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


def test_an_idle_engine_tells_its_state_once_and_rests_and_one_with_work_tells_it_at_every_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A slow machine must end neither a rest nor, after some work, the time without one within this test.
    monkeypatch.setattr(pace, "REST_SECONDS", 60.0)
    monkeypatch.setattr(pace, "LINGER_SECONDS", 60.0)

    def beats(engine: Engine, *sent: wire.ToHost, busy: int = 0, seconds: float = 30.0) -> int:
        """How often the state was told, at the third time or `seconds` after the first."""
        load = SimpleNamespace(
            timestamp=1.0,
            num_running_reqs=busy,
            num_waiting_reqs=0,
            num_used_tokens=0,
            token_usage=0.0,
            max_total_num_tokens=9,
        )
        read, begun, enough = [], asyncio.Event(), asyncio.Event()

        def read_all() -> list[Any]:
            read.append(load)
            begun.set()
            if len(read) == 3:
                enough.set()
            return [load]

        engine.tokenizer_manager.load_snapshot_reader.read_all = read_all

        async def scenario() -> None:
            async with serving(engine) as (_, writer):
                writer.write(b"".join(map(wire.frame, sent)))
                await asyncio.wait_for(begun.wait(), 30)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), seconds)

        asyncio.run(scenario())
        return len(read)

    assert beats(Engine(), seconds=0.5) == 1
    assert beats(Engine(), submit("a")) >= 3, "a generation is in flight"
    assert beats(Engine(), busy=1) >= 3, "the scheduler still works on an aborted one"


def test_a_state_that_can_not_be_read_is_borne_for_a_while_and_then_ends_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(host, "LOST_BEATS", 5)

    def ends(failures: int) -> bool:
        """Whether the host closes the stream when the state can't be read this many times."""
        left = failures

        def broken() -> list[Any]:
            nonlocal left
            left -= 1
            if left >= 0:
                raise OSError("no descriptor")
            recovered.set()
            return []

        engine = answering({"type": "length"})
        engine.tokenizer_manager.load_snapshot_reader.read_all = broken

        async def scenario() -> bool:
            async with serving(engine) as (reader, _):
                closed = asyncio.create_task(until_closed(reader))
                works = asyncio.create_task(recovered.wait())
                done, waiting = await asyncio.wait((closed, works), return_when=asyncio.FIRST_COMPLETED)
                for task in waiting:
                    task.cancel()
                return closed in done

        recovered = asyncio.Event()
        return asyncio.run(scenario())

    async def until_closed(reader: asyncio.StreamReader) -> None:
        async for _ in wire.messages(reader, wire.FromHost):
            pass

    assert not ends(4)
    assert ends(1000)
