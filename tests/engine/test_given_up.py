"""An engine that was given up: the file for the launcher and, with `restart: pod`, the end of the server."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from kimi_k2_serving.engine.given_up import GivenUp, why_given_up


def test_the_launcher_finds_the_model_and_the_reason_until_it_is_withdrawn(tmp_path: Path) -> None:
    given_up = GivenUp(tmp_path, "m")
    assert why_given_up(tmp_path) is None
    given_up.tell()
    assert why_given_up(tmp_path) == "the engine of m keeps dying and was given up"
    given_up.withdraw()
    assert why_given_up(tmp_path) is None


def test_a_final_death_ends_the_server_once(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as server:
        given_up = GivenUp(tmp_path, "m", server.pid)
        given_up.tell()
        assert server.wait(30) == -signal.SIGTERM
        assert why_given_up(tmp_path) == "the engine of m has ended, and restart is pod"
        # Its process id may belong to another process now.
        given_up.tell()
