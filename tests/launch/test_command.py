"""The tritonserver line: hardened, complete, and the same when it is pasted into a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_k2_serving.launch import cli, command
from kimi_k2_serving.launch.backends import Wheel
from kimi_k2_serving.launch.command import Command
from kimi_k2_serving.settings import Settings


def flags(options: cli.Options) -> dict[str, str]:
    argv = command.triton_arguments(options, server=Path("/w/tritonserver"), repository=Path("/r"), backends=Path("/b"))
    assert argv[0] == "/w/tritonserver"
    return dict(flag.partition("=")[::2] for flag in argv[1:])


def environment(**changes: object) -> dict[str, str]:
    arguments: dict[str, object] = {
        "wheel": Wheel(Path("/w/triton"), Path("/w/libs")),
        "venv": Path("/v"),
        "libpython": Path("/usr/lib/libpython3.11.so.1.0"),
        "path": "/usr/bin",
        "checkpoint": Path("/c"),
        "preset": None,
        "force_cpu": False,
        "cache": Path("/cache"),
        "runtime_dir": Path("/run/k"),
    }
    return command.triton_environment(**(arguments | changes))  # type: ignore[arg-type]


def test_a_model_can_neither_be_loaded_nor_memory_registered() -> None:
    line = flags(cli.parse_options([]))
    assert line["--model-control-mode"] == "none"
    assert line["--allow-sagemaker"] == line["--allow-vertex-ai"] == "false"
    for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
        closed, _, header = line[flag].partition(":")
        assert set(closed.split(",")) == {"shared-memory", "trace", "logging"}
        name, _, value = header.partition("=")
        assert " " in name, "gRPC refuses a name with a space"
        assert ":" in name, "HTTP ends a name at the colon"
        assert value


def test_every_port_is_bound_to_the_host_asked_for() -> None:
    line = flags(cli.parse_options(["--host", "10.1.2.3", "--insecure", "--http-port", "1", "--grpc-port", "2"]))
    assert {line[f"--{name}-address"] for name in ("http", "grpc", "metrics")} == {"10.1.2.3"}
    assert [line[f"--{name}-port"] for name in ("http", "grpc", "metrics")] == ["1", "2", "8002"]
    assert flags(cli.parse_options(["--host", "localhost"]))["--http-address"] == "127.0.0.1"


def test_the_grace_reaches_triton() -> None:
    assert flags(cli.parse_options(["--grace", "600"]))["--exit-timeout-secs"] == "603"


def test_the_stub_gets_this_pythons_library_and_packages_first() -> None:
    variables = environment()
    assert variables["LD_LIBRARY_PATH"] == "/usr/lib:/w/libs"
    assert variables["PATH"] == "/v/bin:/usr/bin"


def test_the_environment_is_what_settings_reads_back() -> None:
    read = Settings.read(environment(preset="demo-random"))
    assert read == Settings(Path("/c"), "demo-random", Path("/run/k"), Path("/cache"))


def test_cpu_forces_the_platform_by_name() -> None:
    assert "SGLANG_PLATFORM" not in environment()
    assert environment(force_cpu=True)["SGLANG_PLATFORM"] == "kimi_k2_cpu"


def test_what_would_mislead_the_stub_is_not_inherited() -> None:
    made = Command(("x",), {"A": "1"}).merged({"PYTHONPATH": "/p", "PYTHONHOME": "/h", "A": "0", "HOME": "/root"})
    assert made == {"A": "1", "HOME": "/root"}


@pytest.mark.parametrize("awkward", ["plain", "two words", "a'b\"c", "$HOME `id` \\", "new\nline", "*?[x]", ""])
def test_the_printed_command_survives_a_shell(awkward: str) -> None:
    report = (
        "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['VALUE'], os.environ.get('PYTHONPATH')]))"
    )
    line = Command((sys.executable, "-c", report, awkward), {"VALUE": awkward}).paste()
    shell = subprocess.run(
        ["bash", "-c", line], env={"PYTHONPATH": "/nowhere"}, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(shell.stdout) == [[awkward], awkward, None]


def test_the_printed_command_has_one_line() -> None:
    assert "\n" not in Command(tuple(flags(cli.parse_options([]))), environment()).paste()


def test_options_without_a_start_start_nothing() -> None:
    assert cli.parse_options([]).starts
    assert not replace(cli.parse_options([]), print_command=True).starts
