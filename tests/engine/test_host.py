"""The host between the stub and SGLang: an abort reaches what it is meant for, however early, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any

# As in the real host, where SGLang has imported it: that takes longer than the tests wait.
import fastapi  # noqa: F401
import pytest

from kimi_k2_serving.engine import host, wire


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang itself takes half a minute to import."""
    monkeypatch.setitem(sys.modules, "sglang", ModuleType("sglang"))
    monkeypatch.setitem(sys.modules, "sglang.version", SimpleNamespace(__version__="0"))


class Engine:
    """As SGLang: forgets an abort of what it does not have yet, and aborts everything whose id begins with it."""

    def __init__(self) -> None:
        scheduler = {"max_total_num_tokens": 100, "max_req_input_len": 94}
        self._scheduler_init_result = SimpleNamespace(scheduler_infos=[scheduler])
        self.tokenizer_manager = SimpleNamespace(
            context_len=100,
            num_reserved_tokens=0,
            model_config=SimpleNamespace(vocab_size=100),
            load_snapshot_reader=SimpleNamespace(read_all=list),
            abort_request=self.abort,
        )
        self.aborted: dict[str, asyncio.Event] = {}

    def abort(self, rid: str) -> None:
        for known, event in self.aborted.items():
            if known.startswith(rid):
                event.set()

    async def async_generate(self, *, rid: str, stream: bool = False, **_: Any) -> Any:
        if not stream:
            # As at the start.
            return {}

        async def answer() -> AsyncIterator[dict[str, Any]]:
            event = self.aborted[rid] = asyncio.Event()
            await event.wait()
            yield {"output_ids": [], "meta_info": {"finish_reason": {"type": "abort"}}}

        return answer()


async def ended(engine: Engine, *messages: wire.ToHost) -> list[str]:
    """The uids that have ended a moment after these messages came, all of them at once."""
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(host.serve(engine, theirs))
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    wire.write(writer, messages)
    found = []
    try:
        async with asyncio.timeout(0.3):
            async for message in wire.messages(reader, wire.FromHost):
                if isinstance(message, wire.Output):
                    found.append(message.uid)
    except TimeoutError:
        pass
    writer.close()
    await writer.wait_closed()
    await serving
    return found


def submit(uid: str) -> wire.Submit:
    return wire.Submit(uid=uid, input_ids=[1], sampling={}, stream=True, top_logprobs=None, priority=None)


def test_an_abort_that_comes_with_its_request_is_not_lost() -> None:
    assert asyncio.run(ended(Engine(), submit("a"), wire.Abort("a"))) == ["a"]


def test_an_abort_ends_one_request_and_none_whose_uid_begins_alike() -> None:
    messages = submit("a"), submit("ab"), submit("abc"), wire.Abort("ab"), wire.Abort("unknown")
    assert asyncio.run(ended(Engine(), *messages)) == ["ab"]
