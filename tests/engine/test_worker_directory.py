"""The directory of a worker is there while the worker lives, and not for long after any end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kimi_k2_serving.engine.nodes.directory import PREFIX, worker_directory

KILLED = """
import os, pathlib, signal, sys
from kimi_k2_serving.engine.nodes.directory import worker_directory
with worker_directory(pathlib.Path(sys.argv[1])) as path:
    (path / "engine-1").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left(base: Path) -> list[Path]:
    return [*base.glob(f"{PREFIX}*")]


def test_it_is_gone_at_an_orderly_end(tmp_path: Path) -> None:
    with worker_directory(tmp_path) as path:
        (path / "engine-1").mkdir()
        assert path.stat().st_mode & 0o777 == 0o700
    assert left(tmp_path) == []


def test_the_next_worker_removes_that_of_a_killed_one_and_none_that_is_in_use(tmp_path: Path) -> None:
    with worker_directory(tmp_path) as used:
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
        assert len(left(tmp_path)) == 2
        with worker_directory(tmp_path) as path:
            assert sorted(left(tmp_path)) == sorted([used, path])
    assert left(tmp_path) == []


def test_what_only_has_such_a_name_stays(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(victim)
    (tmp_path / f"{PREFIX}file").touch()
    with worker_directory(tmp_path):
        pass
    assert victim.is_dir()
    assert len(left(tmp_path)) == 2
