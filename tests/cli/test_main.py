"""The command as a whole: its help, its errors, its speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_cli import serve, server, status
from kimi_k2_cli.commands import COMMANDS, GROUPS, overview
from kimi_k2_cli.main import main, parser_of
from kimi_k2_client import Client
from kimi_k2_serving import __version__
from kimi_k2_serving.launch.running import RunningServer

HERE = RunningServer(1, 2, "http://127.0.0.1:8100", (8100, 8101, 8102, 9100), "/demo", True, True)


def test_the_overview_has_every_command_in_a_group_with_an_example() -> None:
    text = overview()
    for title, commands in GROUPS.items():
        assert f"\n{title}:\n" in text
        for name, entry in commands.items():
            assert f"  {name}" in text
            assert f"kimi-k2 {entry.example}\n" in text
            assert entry.example.startswith(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_s_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: kimi-k2 {name}")
    assert "example" in text


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2)])
def test_help_is_asked_for_or_given(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == code
    assert capsys.readouterr().out == overview() + "\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kimi-k2-triton {__version__}\n"


def test_an_unknown_command_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tlak"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("kimi-k2: there is no command 'tlak'; one of: chat, ")


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stauts"]) == 2
    line = capsys.readouterr().err
    assert line == "kimi-k2: there is no command 'stauts'; did you mean `kimi-k2 status`? `kimi-k2 --help` lists all\n"
    assert line.count("\n") == 1


@pytest.mark.parametrize("words", [["--nonsense"], ["a", "b", "c"], ["--max-tokens", "x"]])
def test_a_wrong_option_shows_the_usage_of_its_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["chat", *words])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: kimi-k2 chat ")


def test_help_imports_no_command_and_is_fast() -> None:
    code = "import sys; from kimi_k2_cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {"httpx", "prompt_toolkit", "asyncio", "tiktoken", "kimi_k2_client", "json", "yaml"}


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("kimi_k2_cli.wait.run", interrupted)
    assert main(["wait"]) == 130


@pytest.mark.parametrize(
    ("url", "grpc", "expected"),
    [
        (None, False, "http://127.0.0.1:8100"),
        (None, True, "grpc://127.0.0.1:8101"),
        ("http://other:1", False, "http://other:1"),
    ],
)
def test_the_server_of_this_checkout_is_the_default(url: str | None, grpc: bool, expected: str) -> None:
    assert server.server_url(url, grpc=grpc, running=[HERE]) == expected


def test_answers_of_the_demo_are_short_by_default_and_others_are_not() -> None:
    assert server.default_tokens("grpc://127.0.0.1:8101", [HERE]) == 256
    assert server.default_tokens("http://localhost:8100", [HERE]) == 256
    assert server.default_tokens("http://other:8100", [HERE]) is None
    assert server.default_tokens("http://127.0.0.1:8000", [HERE]) is None
    assert server.default_tokens("http://127.0.0.1:8000", []) is None


def test_a_server_that_is_down_is_said_to_be_and_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", "http://127.0.0.1:1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["health"]["live"] is False
    assert main(["status", "--url", "http://127.0.0.1:1"]) == 1
    assert "down" in capsys.readouterr().out
    assert main(["wait", "--url", "http://127.0.0.1:1", "--timeout", "0"]) == 1
    assert capsys.readouterr().err.startswith("kimi-k2 wait: unavailable: kimi_k2 was not ready within 0 s")


def test_a_status_has_process_models_requests_and_load() -> None:
    found: dict[str, Any] = {
        "url": "u",
        "health": {"live": True, "ready": True, "model_ready": True, "detail": ""},
        "process": {"pid": 7, "checkpoint": "/demo"},
        "models": [{"name": "kimi_k2", "is_ready": True}],
        "stats": {"succeeded": 3, "failed": 1, "cancelled": 0, "seconds": 0.25},
        "load": {"running": 2.0},
        "outcomes": {},
    }
    text = status.as_text(found)
    for said in ("u: ready", "7, /demo", "kimi_k2: ready", "3 succeeded, 1 failed", "mean 0.25 s", "running 2"):
        assert said in text


def test_a_status_counts_cancelled_streams_as_the_engine_does_and_not_as_triton() -> None:
    page = """\
# TYPE sglang_backend:requests counter
sglang_backend:requests{model="kimi_k2_engine",outcome="completed",version="1"} 5.000000
sglang_backend:requests{model="kimi_k2_engine",outcome="cancelled",version="1"} 2.000000
sglang_backend:requests{model="kimi_k2_engine",outcome="probe",version="1"} 4000.000000
sglang_backend:requests{model="another",outcome="completed",version="1"} 1.000000
sglang:num_running_reqs{model="kimi_k2_engine",version="1"} 4.000000
nv_gpu_utilization 0
"""
    load, outcomes = status.read_metrics(page)
    assert (load, outcomes) == ({"running": 4.0}, {"completed": 6, "cancelled": 2})
    stats = {"succeeded": 7, "failed": 0, "cancelled": 0, "seconds": 0.25}
    health = {"live": True, "ready": True, "model_ready": True, "detail": ""}
    found: dict[str, Any] = {"url": "u", "health": health, "models": [], "stats": stats}
    text = status.as_text(found | {"load": load, "outcomes": outcomes})
    assert "  answers  6 completed, 2 cancelled" in text.splitlines()


def test_a_status_without_a_server_is_complete() -> None:
    with Client("http://127.0.0.1:1", timeout=1) as client:
        found = status.examine(client, "u", None)
    assert (found["models"], found["stats"], found["load"]) == ([], None, {})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert name in text
        for action in parser_of(name)._actions:
            for option in action.option_strings:
                if option.startswith("--"):
                    assert (option if shell != "fish" else f"-l {option[2:]}") in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [("kimi-k2 cha", {"chat"}), ("kimi-k2 chat --max", {"--max-tokens"}), ("kimi-k2 completion b", {"bash"})],
)
def test_bash_completes(line: str, expected: set[str], tmp_path: Path) -> None:
    words = line.split()
    script = (
        f'eval "$({sys.executable} -m kimi_k2_cli.main completion bash)"\n'
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _kimi_k2; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize("words", [["--preset", "demo-random", "--json"], ["--", "--preset", "demo-random", "--json"]])
def test_serve_passes_every_flag_on(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: ran.append(argv) or sys.exit(0))
    with pytest.raises(SystemExit):
        main(["serve", *words])
    assert ran == [[str(serve.SCRIPT), "--preset", "demo-random", "--json"]]
