"""However a server ends, its processes, sockets and /dev/shm entries are removed, and no entry of others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kimi_k2_serving.engine import shared_memory
from kimi_k2_serving.engine.shared_memory import SHARED_MEMORY, Entry
from kimi_k2_serving.launch import state, traces
from kimi_k2_serving.launch.layout import checkout
from kimi_k2_serving.launch.traces import Ident, Traces

Start = Callable[..., "Watched"]


# As `python -m tests.launch.supervising`, but that it gives Triton a minute to end.
PATIENT = """
import sys
from pathlib import Path
from kimi_k2_serving.launch import triton_process
from tests.launch import supervising
triton_process._UNLOAD_SECONDS = 60.0
supervising.main(Path(sys.argv[1]), *sys.argv[2:])
"""


class Watched:
    """A running `tests.launch.supervising` and the names of its entries."""

    def __init__(self, folder: Path, behaviour: str, *, borrow: bool = False, patient: bool = False) -> None:
        self.folder = folder
        self.name = f"kimi-k2-test-{uuid.uuid4().hex}"
        if borrow:
            (SHARED_MEMORY / f"{self.name}-c").touch()
        program = ["-c", PATIENT] if patient else ["-m", "tests.launch.supervising"]
        self.process = subprocess.Popen(
            [sys.executable, *program, str(folder), self.name, behaviour],
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout().root,
        )
        assert self.process.stdout is not None
        started = json.loads(self.process.stdout.readline())
        self.runtime_dir = Path(started["runtime_dir"])
        self.descendants = psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        assert self.process.wait(10) == 0
        return dict(answer)

    def entries(self) -> set[str]:
        return {path.name for path in SHARED_MEMORY.glob(f"{self.name}*")}

    def alive(self) -> list[psutil.Process]:
        return [each for each in self.descendants if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    def nothing_is_left(self) -> bool:
        return not (self.entries() or self.alive() or self.runtime_dir.exists() or list(self.folder.glob("*.json")))

    def clean(self) -> None:
        self.process.kill()
        self.process.wait()
        for each in self.alive():
            each.kill()
        for name in self.entries():
            (SHARED_MEMORY / name).unlink()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Watched] = []

    def one(behaviour: str, **options: bool) -> Watched:
        made.append(Watched(tmp_path, behaviour, **options))
        return made[-1]

    yield one
    for each in made:
        each.clean()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_everything(start: Start, number: signal.Signals) -> None:
    watched = start("obedient")
    assert len(watched.descendants) == 2
    assert watched.entries() == {f"{watched.name}-a", f"{watched.name}-b"}
    watched.process.send_signal(number)
    answer = watched.end()
    assert answer["status"] == number.name
    assert sorted(answer["removed"]) == [f"{watched.name}-a", f"{watched.name}-b"]
    assert answer["seconds"] < 4
    assert watched.nothing_is_left()


@pytest.mark.slow
def test_entries_of_others_stay(start: Start) -> None:
    watched = start("obedient")
    stranger = SHARED_MEMORY / f"{watched.name}-c"
    stranger.touch()
    watched.process.terminate()
    watched.end()
    assert watched.entries() == {stranger.name}


@pytest.mark.slow
def test_an_entry_that_was_there_before_stays_although_it_was_opened(start: Start) -> None:
    watched = start("obedient", borrow=True)
    watched.process.terminate()
    assert len(watched.end()["removed"]) == 2
    assert watched.entries() == {f"{watched.name}-c"}


@pytest.mark.slow
def test_an_orphan_is_still_watched(start: Start) -> None:
    watched = start("orphan")
    watched.process.terminate()
    assert watched.end()["status"] == "SIGTERM"
    assert watched.nothing_is_left()


@pytest.mark.slow
def test_an_entry_made_again_by_another_stays(start: Start) -> None:
    watched = start("obedient")
    again = SHARED_MEMORY / f"{watched.name}-a"
    again.unlink()
    again.touch()
    watched.process.terminate()
    assert watched.end()["removed"] == [f"{watched.name}-b"]
    assert watched.entries() == {again.name}


@pytest.mark.slow
def test_an_entry_that_another_process_holds_stays(start: Start) -> None:
    watched = start("obedient")
    with (SHARED_MEMORY / f"{watched.name}-a").open():
        watched.process.terminate()
        assert watched.end()["removed"] == [f"{watched.name}-b"]


@pytest.mark.slow
def test_a_server_that_ignores_sigterm_is_killed_in_time(start: Start) -> None:
    watched = start("deaf")
    watched.process.terminate()
    assert watched.end()["seconds"] < 7
    assert watched.nothing_is_left()


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    watched = start("deaf", patient=True)
    watched.process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        watched.process.wait(3)
    watched.process.terminate()
    assert watched.end()["seconds"] < 30
    assert watched.nothing_is_left()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_nothing_is_left_after_a_kill_of_one_process(start: Start, victim: int) -> None:
    watched = start("obedient")
    watched.descendants[victim].kill()
    if victim == 1:
        watched.process.terminate()
    answer = watched.end()
    assert answer["status"] == (-signal.SIGKILL if victim == 0 else "SIGTERM")
    assert watched.nothing_is_left()


@pytest.mark.slow
def test_the_exit_status_of_a_server_that_ends_by_itself_is_reported(start: Start) -> None:
    watched = start("short")
    assert watched.end()["status"] == 3
    assert watched.nothing_is_left()


@pytest.mark.slow
def test_the_next_start_cleans_up_after_a_killed_one(start: Start) -> None:
    watched = start("obedient")
    assert state.clean_leftovers(watched.folder) == []  # it still runs, so nothing is cleaned up
    watched.process.kill()
    watched.process.wait()
    psutil.wait_procs(watched.descendants[:1], 30)  # the kernel ends the stand-in with its parent
    (line,) = state.clean_leftovers(watched.folder)
    (survivor,) = watched.alive()
    assert line.endswith(f"kill {survivor.pid}")
    assert len(watched.entries()) == 2
    survivor.kill()
    psutil.wait_procs([survivor], 30)
    (line,) = state.clean_leftovers(watched.folder)
    assert line.endswith("2 files in /dev/shm")
    assert watched.nothing_is_left()


def test_a_state_of_another_boot_touches_no_process_and_no_memory(tmp_path: Path) -> None:
    mine = traces.identify(os.getpid())
    assert mine is not None
    entry = SHARED_MEMORY / f"kimi-k2-test-{uuid.uuid4().hex}"
    entry.touch()
    try:
        recorded = (Entry(entry.name, entry.stat().st_ino),)
        state.save(tmp_path, state.State("another", mine, tmp_path / "kimi-k2-x", (mine,), recorded))
        state.clean_leftovers(tmp_path)
        assert entry.exists()
        assert list(tmp_path.iterdir()) == []
    finally:
        entry.unlink()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": 1}', '{"boot": "b", "owner": 7}'])
def test_a_broken_state_file_is_dropped(tmp_path: Path, text: str) -> None:
    (tmp_path / "serve-1.json").write_text(text)
    assert state.clean_leftovers(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_state_is_read_back_as_it_was(tmp_path: Path) -> None:
    written = state.State("boot", Ident(1, 2.5), Path("/tmp/kimi-k2-x"), (Ident(3, 4.0),), (Entry("a b", 9),))
    state.save(tmp_path, written)
    assert state.load_state(state.path_of(tmp_path, 1)) == written


def test_only_a_runtime_directory_of_ours_is_removed(tmp_path: Path) -> None:
    for name in ("kimi-k2-x", "other"):
        (tmp_path / name).mkdir()
        state.remove_runtime_dir(tmp_path / name)
    (tmp_path / "kimi-k2-link").symlink_to(tmp_path / "other")
    state.remove_runtime_dir(tmp_path / "kimi-k2-link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kimi-k2-link", "other"]


def test_maps_and_descriptors_are_both_looked_at(tmp_path: Path) -> None:
    process = tmp_path / "7"
    (process / "fd").mkdir(parents=True)
    (process / "maps").write_text(
        "7f00-7f01 rw-s 00000000 00:19 41    /dev/shm/mapped\n"
        "7f01-7f02 rw-s 00000000 00:19 42    /dev/shm/sem.x y (deleted)\n"
        "7f02-7f03 r-xp 00000000 fe:00 43    /usr/lib/libc.so.6\n"
        "7f03-7f04 rw-p 00000000 00:00 0 \n"
    )
    assert set(shared_memory.mapped_entries(7, proc=tmp_path)) == {Entry("mapped", 41), Entry("sem.x y", 42)}
    assert list(shared_memory.mapped_entries(8, proc=tmp_path)) == []


def test_a_renamed_semaphore_is_known_by_its_inode(tmp_path: Path) -> None:
    before, after = (SHARED_MEMORY / f"kimi-k2-test-{uuid.uuid4().hex}" for _ in range(2))
    before.touch()
    recorded = Entry(before.name, before.stat().st_ino)
    before.rename(after)
    assert shared_memory.remove([recorded]) == [after.name]


def test_what_was_there_before_is_foreign() -> None:
    with (SHARED_MEMORY / f"kimi-k2-test-{uuid.uuid4().hex}").open("w") as held:
        try:
            inode = os.fstat(held.fileno()).st_ino
            assert inode in Traces.begin().foreign
            assert inode in {entry.inode for entry in shared_memory.mapped_entries(os.getpid())}
        finally:
            os.unlink(held.name)


def test_a_glance_records_what_was_started_or_made_since_and_reads_nothing_where_nothing_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Traces.begin()
    newest = [1]
    monkeypatch.setattr(traces, "newest_process", lambda: newest[0])
    entry = SHARED_MEMORY / f"kimi-k2-test-{uuid.uuid4().hex}"
    script = f"import time; input(); held = open({str(entry)!r}, 'w'); print(flush=True); time.sleep(60)"
    line = [sys.executable, "-c", script]
    seen.glance(os.getpid())
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            newest[0] = 2
            assert seen.glance(os.getpid())
            assert child.pid in {each.pid for each in seen.processes}
            child.stdin.write(b"\n")
            child.stdin.flush()
            child.stdout.readline()
            assert seen.glance(os.getpid())
            assert entry.name in {each.name for each in seen.entries}
            seen.glance(os.getpid())
            monkeypatch.setattr(psutil, "Process", lambda pid: pytest.fail("it looked, although nothing has changed"))
            changed = traces.Change()
            monkeypatch.setattr(seen, "_files", changed)
            monkeypatch.setattr(changed, "seen", lambda value: False)
            assert not seen.glance(os.getpid())
        finally:
            monkeypatch.undo()
            entry.unlink(missing_ok=True)
            child.kill()


def test_a_change_counts_twice() -> None:
    change = traces.Change()
    assert [change.seen(value) for value in (1, 1, 1, 2, 2, 2, 2)] == [True, True, False, True, True, False, False]


def test_a_process_is_not_mistaken_for_a_later_one_with_its_pid() -> None:
    mine = traces.identify(os.getpid())
    assert mine is not None
    assert mine.alive()
    assert not Ident(mine.pid, mine.started - 60).alive()
