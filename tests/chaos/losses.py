"""What happens when a process of the engine, or the stub above it, is killed or stopped under load."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections import Counter

import httpx
import psutil

from tests.chaos import inspect_server as inspecting
from tests.chaos.load import BAD, ENGINE, Load, Outcome
from tests.chaos.row import Row, quantiles
from tests.server.running import Server, titles

# A killed process is seen at once, a stopped one after the demo preset's stall_seconds.
ERROR_SECONDS = 2.0
STALL_SECONDS = 15.0
WIDTH = 16
PROBE = {"input_ids": [5], "max_tokens": 1}
# What starting one by one takes a crowd, after deaths that nothing explains.
TURNS_SECONDS = 20.0
# In this order, on one server. Deaths under one stranger on trial do not count towards a crash loop, others do.
LOSSES = (
    ("sglang::host", signal.SIGKILL),
    ("sglang::scheduler", signal.SIGKILL),
    ("sglang::scheduler", signal.SIGSTOP),
)
GIVEN_UP = "engine_unavailable: the engine keeps dying"
LAST_LOSS = ("sglang::host", signal.SIGSTOP)


def probe(server: Server) -> httpx.Response:
    return httpx.post(server.generate(ENGINE), json=PROBE, timeout=60)


async def answers(server: Server) -> bool:
    return (await asyncio.to_thread(probe, server)).status_code == 200


async def serves_again(server: Server, since: float) -> float:
    while not await answers(server):
        if time.monotonic() - since > 240:
            raise TimeoutError("the engine did not come back")
        await asyncio.sleep(0.1)
    return time.monotonic() - since


async def hit(server: Server, load: Load, title: str, number: signal.Signals) -> tuple[float, int]:
    """When it was done, and how many requests were in flight."""
    await asyncio.sleep(3)
    in_flight, moment = load.flying, time.monotonic()
    server.named(title).send_signal(number)
    if number is signal.SIGSTOP:
        await inspecting.until(lambda: "engine_" in probe(server).text, ERROR_SECONDS + STALL_SECONDS)
    return moment, in_flight


def lost_since(load: Load, moment: float) -> tuple[list[Outcome], float]:
    """Requests that died with the engine, and how long after `moment` the last of them was told."""
    lost = [each for each in load.outcomes if each.kind == "engine_lost"]
    return lost, max((each.ended - moment for each in lost), default=0.0)


async def lose_a_process(server: Server, title: str, number: signal.Signals) -> Row:
    before = inspecting.look(server)
    stall = STALL_SECONDS if number is signal.SIGSTOP else 0.0
    async with Load(server.url, server.grpc, width=WIDTH, tokens=400) as load:
        moment, in_flight = await hit(server, load, title, number)
        again = await serves_again(server, moment)
        await asyncio.sleep(1)
        await load.stop()
    start = inspecting.last_start(server)
    lost, late = lost_since(load, moment)
    refused = [each.seconds for each in load.outcomes if each.kind == "engine_unavailable"]
    await inspecting.idle(server)
    row = Row(
        f"{number.name} {title}",
        1,
        load.counted(since=moment),
        f"{len(lost)} of {in_flight} in flight lost, last after {late:.2f} s; refusals {quantiles(refused)}; "
        f"served again after {again:.1f} s, of them {start:.1f} s to start",
        leaks=(await inspecting.settled(server, before)).leaks_since(before),
    )
    allowed = ERROR_SECONDS + stall
    row.expect(0 < late < allowed, f"errors must come within {allowed:g} s")
    row.expect(again < start + 3 + stall + TURNS_SECONDS, "it must serve again within its start time and the turns'")
    row.expect(not load.counted()[BAD], "every request must end once")
    return row


async def die_until_given_up(server: Server) -> tuple[str, int]:
    """Kill an idle engine until it stays down: the last words before `serve` ends, and how many deaths it took."""
    said, deaths, begin = "", 0, time.monotonic()
    while GIVEN_UP not in said and server.process.poll() is None and time.monotonic() - begin < 480:
        # A process that is looked at may end meanwhile, and Triton may leave a probe without an answer.
        with contextlib.suppress(httpx.TransportError, psutil.NoSuchProcess):
            said = (await asyncio.to_thread(probe, server)).text
            hosts = [each for each in server.processes() if "sglang::host" in titles(each)]
            if "text_output" in said and hosts:
                hosts[0].send_signal(signal.SIGKILL)
                deaths += 1
        await asyncio.sleep(0.05)
    return said, deaths


async def ended(server: Server, seconds: float) -> int | None:
    """The exit status of `serve`; None if it has not ended by then."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return await asyncio.to_thread(server.process.wait, seconds)
    return None


async def crash_loop(server: Server) -> Row:
    """After LOSSES on the same server, one more, and as many with nobody in flight as it takes: the engine stays down
    and says why, and `serve` says so and ends.
    """
    title, number = LAST_LOSS
    processes = server.processes()
    async with Load(server.url, server.grpc, width=WIDTH, tokens=400) as load:
        moment, in_flight = await hit(server, load, title, number)
        await asyncio.sleep(3)
        await load.stop()
    lost, late = lost_since(load, moment)
    refused = [each.seconds for each in load.outcomes if each.kind == "engine_unavailable"]
    said, more = await die_until_given_up(server)
    status = await ended(server, 40)
    left = [each for each in processes if each.is_running()]
    row = Row(
        f"{number.name} {title}, a fourth death, then {more} while idle: crash loop",
        1,
        load.counted(since=moment),
        f"{len(lost)} of {in_flight} in flight lost, last after {late:.2f} s; refusals {quantiles(refused)}: {said}; "
        f"serve ended with {status}",
        leaks=", ".join(titles(each) for each in left) or "none",
    )
    row.expect(0 < late < ERROR_SECONDS + STALL_SECONDS, "a stopped host must be noticed")
    row.expect(GIVEN_UP in said, "a refusal must say why")
    row.expect(status == 1, "serve must end with 1")
    row.expect(not left, "no process may be left")
    row.expect(not load.counted()[BAD], "every request must end once")
    return row


async def lose_the_stub(server: Server) -> Row:
    """The last of a server: `serve` says what happened and ends, and leaves nothing."""
    begin = time.monotonic()
    processes = server.processes()
    server.named("kimi_k2_engine_0_0").send_signal(signal.SIGKILL)
    status = await ended(server, 30)
    left = [each for each in processes if each.is_running()]
    row = Row(
        "SIGKILL the engine model's stub",
        1,
        Counter(),
        f"serve ended with {status} after {time.monotonic() - begin:.1f} s",
        leaks=", ".join(titles(each) for each in left) or "none",
    )
    row.expect(status == 1, "serve must end with 1")
    row.expect(not left, "no process may be left")
    return row
