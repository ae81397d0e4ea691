"""Generations in the host: each ends once, its ids go one way, and none is left in SGLang when its caller has gone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import fastapi  # noqa: F401
import msgspec
import pytest

from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.generations import Generations, ReaderConnection
from kimi_k2_serving.engine.port import Generation
from kimi_k2_serving.engine.totals import FinishedRequest
from tests.engine.test_host import batch

pytestmark = pytest.mark.anyio


class Scheduler:
    """As SGLang: it knows what was submitted, and ignores an abort of anything else."""

    def __init__(self) -> None:
        self.tokenizer_manager = SimpleNamespace(abort_request=self._abort, deliver=None, ended=None)
        self.rids: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.aborted: list[str] = []

    def _abort(self, rid: str) -> None:
        if rid in self.rids:
            self.aborted.append(rid)

    async def async_generate(self, *, rid: str, **asked: Any) -> Any:
        self.rids.append(rid)
        self.asked.append(asked)
        return nothing()


async def nothing() -> Any:
    return
    yield


class Texts:
    def __init__(self) -> None:
        self.fails = False

    def decode(self, batch: Any, rows: list[int]) -> list[str]:
        if self.fails:
            raise ValueError("undecodable")
        return ["x" for _ in rows]

    def forget(self, rid: str) -> None:
        pass


class Reader:
    def __init__(self, written: list[Any]) -> None:
        self._written = written
        self._frames = wire.FrameReader(wire.ToReader)

    def write(self, data: bytes) -> None:
        self._written += self._frames.feed(data)


class Readers:
    """Two connected readers: "one" and "two"."""

    def __init__(self) -> None:
        self.written: dict[str, list[Any]] = {"one": [], "two": []}
        self._readers = {name: Reader(to) for name, to in self.written.items()}

    def reader(self, token: str) -> Any:
        return self._readers.get(token)


class Host:
    def __init__(self) -> None:
        self.scheduler, self.texts, self.readers = Scheduler(), Texts(), Readers()
        self.told: list[Any] = []
        frames = wire.FrameReader(wire.FromHost)
        self.generations = Generations(
            self.scheduler,
            self.texts,
            self.readers,  # type: ignore[arg-type]
            lambda data: self.told.extend(frames.feed(data)),
        )
        self.generations.attach()

    def reader(self, name: str) -> ReaderConnection:
        found = self.readers.reader(name)
        assert found is not None
        return found  # type: ignore[no-any-return]

    async def begin(self, uid: str, reader: str = "", **fields: Any) -> str:
        """SGLang's id for it."""
        self.generations.submit(submission(uid, reader, **fields))
        await asyncio.sleep(0)
        return self.scheduler.rids[-1]

    def deliver(self, rid: str, finish: Any = None, **fields: Any) -> None:
        self.generations.deliver(batch(rid, finish, **fields))


def submission(uid: str, reader: str = "", **fields: Any) -> wire.Submit:
    return msgspec.structs.replace(wire.Submit(uid, [1], {}, None, None, None, False, reader), **fields)


async def test_ids_go_to_the_reader_and_only_the_end_and_their_number_to_the_stub() -> None:
    host = Host()
    rid = await host.begin("a", "one")
    host.deliver(rid, ids=(5,), completion_tokens=1, cached_tokens=3)
    host.deliver(rid, {"type": "length"}, ids=(6, 7), completion_tokens=3, cached_tokens=3)
    assert [(each.ids, each.cached_tokens, each.end) for each in host.readers.written["one"]] == [
        ([5], 3, ""),
        ([6, 7], 3, "length"),
    ]
    assert host.told == [wire.Output("a", [], 3, 3, end="length")]
    assert host.readers.written["two"] == []
    assert host.generations.read() == ["a"]
    assert host.generations.read() == [], "each beat tells what is new"
    assert not host.generations.running


async def test_sglang_gets_the_name_of_the_adapter_or_none() -> None:
    host = Host()
    for name in ("sql", ""):
        await host.begin(f"a{name}", adapter=name)
    assert [each["lora_path"] for each in host.scheduler.asked] == ["sql", None]
    sent = wire.submission(Generation("u", [1], {}, False, adapter="sql"))
    assert sent.adapter == "sql"


async def test_without_a_connected_reader_ids_go_to_the_stub() -> None:
    host = Host()
    for claim in ("", "stale"):
        host.deliver(await host.begin("a", claim), {"type": "stop"}, ids=(5,))
    assert [(each.ids, each.end) for each in host.told] == [([5], "stop")] * 2
    assert host.generations.read() == []


async def test_a_lost_reader_ends_its_generations_and_no_other() -> None:
    host = Host()
    a, b = await host.begin("a", "one"), await host.begin("b", "two")
    host.generations.lose(host.reader("one"))
    host.deliver(a, {"type": "abort"})
    host.deliver(b, {"type": "stop"})
    assert host.scheduler.aborted == [a]
    assert [(each.uid, getattr(each, "status", 0)) for each in host.told] == [("a", wire.READER_GONE), ("b", 0)]


async def test_a_reader_aborts_what_it_reads_and_nothing_else() -> None:
    host = Host()
    a = await host.begin("a", "one")
    for reader, uid in (("two", "a"), ("one", "unknown")):
        host.generations.abort_read(host.reader(reader), uid)
    assert host.scheduler.aborted == []
    host.generations.abort_read(host.reader("one"), "a")
    assert host.scheduler.aborted == [a]


@pytest.mark.parametrize("gone", [False, True])
async def test_what_ends_before_sglang_has_it_never_reaches_sglang(gone: bool) -> None:
    """SGLang ignores an abort of what it does not have yet, and would generate to the end for nobody."""
    host = Host()
    host.generations.submit(submission("a", "one"))
    if gone:
        host.generations.lose(host.reader("one"))
    else:
        host.generations.abort_read(host.reader("one"), "a")
    await asyncio.sleep(0.01)
    assert host.scheduler.rids == []
    (told,) = host.told
    assert told == (
        wire.Failed("a", wire.READER_GONE, "its reader is gone") if gone else wire.Output("a", [], 0, end="abort")
    )


async def test_a_uid_that_is_used_again_at_once_gets_nothing_of_the_aborted_generation() -> None:
    host = Host()
    old = await host.begin("a")
    host.generations.abort("a")
    new = await host.begin("a")
    assert old != new, "SGLang refuses an id that it still knows"
    host.deliver(old, {"type": "abort"}, ids=(1,))
    host.deliver(new, {"type": "stop"}, ids=(2,))
    assert [(each.ids, each.end) for each in host.told] == [([2], "stop")]
    assert not host.generations.running


@pytest.mark.parametrize("reader", ["", "one"])
async def test_what_can_not_be_passed_on_ends_once_with_an_error(reader: str) -> None:
    host = Host()
    rid = await host.begin("a", reader)
    host.deliver(rid, completion_tokens=1 << 80)
    host.deliver(rid, {"type": "abort"})
    assert [(each.uid, each.status) for each in host.told] == [("a", 500)]
    assert host.scheduler.aborted == [rid]


async def test_text_that_can_not_be_decoded_ends_only_those_who_read_text() -> None:
    host = Host()
    host.texts.fails = True
    a, b = await host.begin("a", text=True), await host.begin("b")
    host.deliver(a)
    host.deliver(b, {"type": "stop"})
    assert [(each.uid, getattr(each, "status", 0)) for each in host.told] == [("a", 500), ("b", 0)]


async def test_a_request_that_sglang_ends_in_its_queue_ends_once() -> None:
    host = Host()
    a, b = await host.begin("a", "one"), await host.begin("b", "one")
    host.generations.end(a, {"type": "abort", "status_code": 503, "message": "full"})
    host.generations.end(b, {"type": "abort"})
    host.generations.end(b, {"type": "abort"})
    assert host.told == [wire.Failed("a", 503, "full"), wire.Output("b", [], 0, end="abort")]


async def test_log_probabilities_of_the_prompt_come_with_the_first_output_under_the_prompt_s_own_ids() -> None:
    host = Host()
    asked = {"input_ids": [7, 8, 9], "top_logprobs": 1, "prompt_logprobs": True}
    rid = await host.begin("a", **asked)
    columns: dict[str, Any] = {
        "output_token_logprobs_val": [-0.25],
        "output_token_logprobs_idx": [5],
        "output_top_logprobs_val": [[-0.25]],
        "output_top_logprobs_idx": [[5]],
        # As SGLang: nothing for the first token, and 0 instead of the vocabulary's last id.
        "input_token_logprobs_val": [None, -1.0, -2.0],
        "input_token_logprobs_idx": [7, 8, 0],
        "input_top_logprobs_val": [None, [-0.5], [-2.0]],
        "input_top_logprobs_idx": [None, [3], [9]],
    }
    host.deliver(rid, ids=(5,), **columns)
    later = {name: [] for name in columns if name.startswith("input")}
    host.deliver(rid, {"type": "stop"}, ids=(5,), **{**columns, **later})
    first, last = host.told
    assert first.prompt_logprobs == [(-1.0, 8, [(-0.5, 3)]), (-2.0, 9, [(-2.0, 9)])]
    assert first.logprobs == [(-0.25, 5, [(-0.25, 5)])]
    assert last.prompt_logprobs == []


async def test_sglang_computes_log_probabilities_of_the_prompt_only_if_they_are_asked_for() -> None:
    host = Host()
    await host.begin("a", top_logprobs=0)
    await host.begin("b", top_logprobs=0, prompt_logprobs=True)
    assert [each["logprob_start_len"] for each in host.scheduler.asked] == [-1, 0]


async def test_what_ended_is_told_once_with_its_tokens_and_its_times() -> None:
    host = Host()
    now = [10.0]
    host.generations._clock = lambda: now[0]
    rid = await host.begin("a", input_ids=[1, 2, 3])
    now[0] = 10.5
    host.deliver(rid, ids=(5,), completion_tokens=1, cached_tokens=2)
    assert host.generations.spent() == (1, [])
    now[0] = 12.0
    host.deliver(rid, {"type": "length"}, ids=(6, 7), completion_tokens=3, cached_tokens=2)
    assert host.generations.spent() == (2, [FinishedRequest(3, 2, 3, 0.5, 2.0)])
    assert host.generations.spent() == (0, [])


async def test_the_further_ids_of_a_request_go_to_the_reader_that_asks_for_them() -> None:
    host = Host()
    rid = await host.begin("a", relayed=True)
    host.deliver(rid, ids=(5,), completion_tokens=1)
    host.generations.relay(host.reader("one"), "a")
    host.generations.relay(host.reader("two"), "a")
    host.deliver(rid, ids=(6,), completion_tokens=2)
    host.deliver(rid, {"type": "stop"}, ids=(7,), completion_tokens=3)
    assert [each.ids for each in host.readers.written["one"]] == [[6], [7]]
    assert host.readers.written["two"] == []
    assert [type(each) for each in host.told] == [wire.Output, wire.Relayed, wire.Output]
    assert (host.told[0].ids, host.told[2].ids, host.told[2].end) == ([5], [], "stop")
    assert host.told[2].completion_tokens == 3


async def test_ids_are_relayed_only_if_the_request_allows_it_and_has_no_reader() -> None:
    host = Host()
    a, b = await host.begin("a"), await host.begin("b", "two", relayed=True)
    for uid in ("a", "b", "unknown"):
        host.generations.relay(host.reader("one"), uid)
    host.deliver(a, {"type": "stop"}, ids=(5,))
    host.deliver(b, {"type": "stop"}, ids=(6,))
    assert host.readers.written["one"] == []
    assert [each.ids for each in host.told if isinstance(each, wire.Output)] == [[5], []]
    assert wire.submission(Generation("u", [1], {}, True, relayed=True)).relayed


async def test_a_relayed_request_ends_when_its_reader_is_lost() -> None:
    host = Host()
    rid = await host.begin("a", relayed=True)
    host.generations.relay(host.reader("one"), "a")
    host.generations.lose(host.reader("one"))
    assert host.scheduler.aborted == [rid]
    assert host.told[-1] == wire.Failed("a", wire.READER_GONE, "its reader is gone")
