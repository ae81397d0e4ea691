"""A checkout knows its running servers: a second `serve` names the first instead of failing over a port."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_k2_serving.launch import cli, preflight, running
from kimi_k2_serving.launch.refusal import Refusal
from kimi_k2_serving.launch.running import RunningServer


def here(**changes: object) -> RunningServer:
    started = running.start_of(os.getpid())
    assert started is not None
    server = RunningServer(os.getpid(), started, "http://127.0.0.1:8000", (8000, 8001, 8002, 9000), "/demo", True)
    return replace(server, **changes)  # type: ignore[arg-type]


def test_a_server_is_listed_while_it_runs_and_not_longer(tmp_path: Path) -> None:
    with running.announced(tmp_path, here()):
        assert running.servers(tmp_path) == [here()]
        running.announce(tmp_path, here(is_ready=True))
        assert [server.is_ready for server in running.servers(tmp_path)] == [True]
    assert running.servers(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_killed_server_is_not_listed_and_the_next_one_removes_its_file(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        started = running.start_of(other.pid)
        assert started is not None
        running.announce(tmp_path, here(pid=other.pid, started=started))
        assert len(running.servers(tmp_path)) == 1
        other.kill()
    assert running.servers(tmp_path) == []
    assert running.path_of(tmp_path, other.pid).exists()
    running.announce(tmp_path, here())
    assert not running.path_of(tmp_path, other.pid).exists()


def test_a_later_process_with_the_same_pid_is_another_one(tmp_path: Path) -> None:
    running.announce(tmp_path, here(started=here().started + 1))
    assert running.servers(tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1}', '{"ports": 3}'])
def test_a_file_in_another_form_is_no_server(tmp_path: Path, text: str) -> None:
    running.path_of(tmp_path, 1).write_text(text)
    assert running.servers(tmp_path) == []


@pytest.mark.parametrize(("ready", "says"), [(True, "runs already"), (False, "is starting")])
def test_a_second_serve_says_which_server_has_its_port(ready: bool, says: str) -> None:
    with pytest.raises(Refusal) as caught:
        preflight.check_ports(cli.parse_options([]), lambda *_: True, [here(is_ready=ready)])
    assert f"the server of this directory {says} (pid {os.getpid()}) at http://127.0.0.1:8000" in str(caught.value)
    assert f"kill {os.getpid()}" in str(caught.value)


def test_a_server_on_other_ports_is_no_obstacle() -> None:
    ports = ["--http-port", "1", "--grpc-port", "2", "--metrics-port", "3", "--frontend-port", "4"]
    preflight.check_ports(cli.parse_options(ports), lambda *_: True, [here()])
