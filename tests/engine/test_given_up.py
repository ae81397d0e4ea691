"""An engine that was given up: the file for the launcher and, with `restart: pod`, the end of the server."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from kimi_k2_serving.engine.given_up import GivenUp, given_up_model


def test_the_launcher_finds_the_models_name_until_it_is_withdrawn(tmp_path: Path) -> None:
    given_up = GivenUp(tmp_path, "m")
    assert given_up_model(tmp_path) is None
    given_up.tell()
    assert given_up_model(tmp_path) == "m"
    given_up.withdraw()
    assert given_up_model(tmp_path) is None


def test_a_final_death_ends_the_server_once(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as server:
        given_up = GivenUp(tmp_path, "m", server.pid)
        given_up.tell()
        assert server.wait(5) == -signal.SIGTERM
        # Its process id may belong to another process now.
        given_up.tell()
