"""`kimi-k2 bench` runs a known benchmark program and shows its command; it compares two results."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from kimi_k2_cli.main import main


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("aiperf", ["--url", "http://h:1", "--concurrency", "3", "--isl", "9", "--osl", "7"]),
        ("guidellm", ["--target", "http://h:1", "--rate", "3", "prompt_tokens=9,output_tokens=7"]),
        ("perf_analyzer", ["-u", "h:1", "--concurrency-range", "3", "--streaming"]),
    ],
)
def test_the_exact_command_is_shown(tool: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--concurrency", "3", "--inputs", "9", "--outputs", "7"]
    assert main(["bench", "http://h:1", "--tool", tool, "--print", *load]) == 0
    shown = shlex.split(capsys.readouterr().out)
    assert shown[0] == tool
    assert all(word in shown for word in words)


def test_an_installed_program_is_run_with_that_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "perf_analyzer"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:])\nsys.exit(3)\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "127.0.0.1:8001", "--output", str(tmp_path / "out"), "--inputs", "5"]) == 3
    out, shown = capfd.readouterr()
    assert shlex.split(shown) == ["perf_analyzer", *shlex.split(out)]
    (row,) = json.loads((tmp_path / "out" / "input.json").read_text())["data"]
    assert len(row["text_input"][0].split()) == 5


def test_without_a_program_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "http://h:1"]) == 1
    assert "pip install aiperf" in capsys.readouterr().err
    assert main(["bench", "http://h:1", "--tool", "guidellm"]) == 1


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("a", 10.0), ("b", 15.0)):
        (tmp_path / name / "deep").mkdir(parents=True)
        figures = {"ttft": {"avg": value, "unit": "ms"}, "requests": [{"n": 1}], "ok": True}
        (tmp_path / name / "deep" / "profile.json").write_text(json.dumps(figures))
    folders = [str(tmp_path / name) for name in ("a", "b")]
    assert main(["bench", "compare", *folders, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"figure": "profile.ttft.avg", "before": 10.0, "after": 15.0, "change": 0.5}
    ]
    assert main(["bench", "compare", *folders]) == 0
    assert "+50.0%" in capsys.readouterr().out
    assert main(["bench", "compare", folders[0]]) == 2
    assert main(["bench", "compare", folders[0], str(tmp_path / "none")]) == 2
