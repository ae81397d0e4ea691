"""The benchmark of servers: it counts events however the bytes are split, and its figures are those of the rounds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core.tokens import Vocabulary
from tests.bench.serving import figures, report, sse_client, workload
from tests.bench.serving.figures import Round
from tests.bench.serving.load import Answer, Load, Outcome
from tests.bench.serving.processes import Spent, Tree, difference, end_group
from tests.bench.serving.workload import Chats
from tests.support.vocabulary import write_small_checkpoint

STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"\\""}}]}\n\n'
    b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{}"}}]}}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":31,"completion_tokens_details":null}}\n\n'
)


def round_of(tokens: int, seconds: float, **spent: float) -> Round:
    answers = [Answer(first=0.5, gaps=[0.1, 0.3], tokens=tokens, events=tokens // 2, prompt=9)]
    return Round(Outcome(seconds, 0.01, answers), {name: Spent(each) for name, each in spent.items()}, 0.0)


# A process with a file in /dev/shm, and a child of its group that has another one; both stop.
LEAVING = """
import mmap, os, signal, sys
name = sys.argv[1] + ("-child" if os.fork() == 0 else "")
with open(name, "w+b") as file:
    file.truncate(4096)
    held = mmap.mmap(file.fileno(), 4096)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_server_that_is_ended_leaves_no_file_in_shared_memory_and_takes_no_other_ones() -> None:
    own = [Path("/dev/shm") / f"bench-test-{os.getpid()}{ending}" for ending in ("", "-child")]
    other = Path("/dev/shm") / f"bench-test-{os.getpid()}-other"
    other.touch()
    process = subprocess.Popen([sys.executable, "-c", LEAVING, str(own[0])], start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while not all(path.exists() and path.stat().st_size for path in own):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        end_group(process.pid)
        process.wait(10)
        assert [path.exists() for path in (*own, other)] == [False, False, True]
    finally:
        other.unlink()


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_events_with_content_are_counted_however_the_stream_is_split(cuts: list[int]) -> None:
    counter = sse_client.Counter(sse_client.OPENAI)
    places = [0, *sorted(cuts), len(STREAM)]
    assert sum(counter.feed(STREAM[start:end]) for start, end in pairwise(places)) == 3


def test_usage_is_read_from_json_and_from_json_inside_a_string() -> None:
    for text in (STREAM, STREAM.replace(b'"', b'\\"')):
        assert sse_client.number(text, b"completion_tokens") == 31
        assert sse_client.number(text, b"prompt_tokens") == 7
    assert sse_client.number(b"{}", b"prompt_tokens") == 0


def test_a_load_ends_although_its_requests_end_before_all_have_their_time_to_begin() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(3):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + STREAM)

        server = threading.Thread(target=answer, daemon=True)
        server.start()
        load = Load(f"127.0.0.1:{listener.getsockname()[1]}", "/v1/chat/completions", 3, [{}, {}, {}], spread=0.5)
        began = time.monotonic()
        answers = sse_client.run(load)
        server.join(10)
    assert [(each.tokens, each.events, each.prompt) for each in answers] == [(31, 3, 7)] * 3
    assert time.monotonic() - began < 30


def test_cpu_time_per_token_is_over_all_rounds() -> None:
    row = figures.figures([round_of(100, 2.0, host=0.01, triton=0.002), round_of(300, 3.0, host=0.01)])
    assert row["cpu_us_per_token"] == {"host": 50.0, "triton": 5.0}
    assert row["cpu_us_per_token_total"] == 55.0
    assert row["tokens_per_second"] == 75.0
    assert row["tokens_per_event"] == 2.0


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    ours = [round_of(100, 1.0), round_of(100, 2.0), round_of(100, 4.0)]
    theirs = [round_of(200, 1.0), round_of(100, 2.0), round_of(100, 3.0)]
    found = figures.ratios({"frontend": ours, "sglang_http": theirs})
    assert found == {"frontend_over_sglang_http": (0.75, [0.5, 1.0])}


def test_the_document_has_the_promised_keys_and_a_table() -> None:
    rounds = [round_of(64, 1.0, host=0.01)]
    names = ("engine", "sglang_http", "sglang_rust", "engine_model", "ensemble", "frontend")
    part = figures.document({level: dict.fromkeys(names, rounds) for level in (1, 16, 64)})
    for name in (
        "frontend_over_sglang_http",
        "frontend_over_sglang_rust",
        "engine_model_over_engine",
        "ensemble_over_engine",
    ):
        assert part["ratios"][name] == {"c1": 1.0, "c16": 1.0, "c64": 1.0}
    assert part["cpu_us_per_token"]["frontend"]["host"] == {"c1": 156.2, "c16": 156.2, "c64": 156.2}
    machine = {"commit": "0", "load_before": [0], "load_after": [0]}
    lines = list(report.lines({"workloads": {"short": part}, "memory": {}, "machine": machine}))
    assert any("frontend_over_sglang_rust" in line for line in lines)


def test_the_time_of_a_child_that_started_in_between_counts() -> None:
    tree = Tree((os.getpid(),), "bench")
    before = tree.sample()
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys\nwhile True: sys.stdout.write('x' * 4096)"], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while (spent := difference(before, tree.sample())).get("other", Spent()).seconds < 0.05:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    assert spent["other"].writes > 0
    assert spent["bench"].seconds > 0


def test_a_tree_is_paused_and_resumed_with_its_children() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
    tree = Tree((child.pid,))

    def states() -> set[str]:
        return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in tree.pids()}

    def until(wanted: set[str], count: int) -> None:
        deadline = time.monotonic() + 30
        while states() != wanted or len(tree.pids()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    try:
        until({"S"}, 2)
        tree.pause()
        until({"T"}, 2)
        tree.resume()
        until({"S"}, 2)
    finally:
        for pid in reversed(tree.pids()):
            os.kill(pid, 9)
        child.wait()


@pytest.mark.parametrize("each", workload.ALL, ids=lambda each: str(each.name))
def test_prompts_have_the_size_that_the_workload_says(each: workload.Workload, tmp_path: Path) -> None:
    chats = Chats(Vocabulary.load(write_small_checkpoint(tmp_path)))
    first, second = chats.chats(each, 2)
    assert first.messages != second.messages
    assert bool(first.tools) == bool(each.tools)
    if not each.tools:
        (least,) = chats.chats(replace(each, prompt=0), 1)
        assert abs(len(first.ids) - max(each.prompt, len(least.ids))) <= max(8, each.prompt // 20)
    assert first.ids[: each.shared] == second.ids[: each.shared]
