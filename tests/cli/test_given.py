"""Whatever a user gives a command, of the wrong kind: one line that says what and why, exit code 2, no traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kimi_k2_cli.main import main
from tests.cli.test_bench import run_of, write_run

URLS = (
    "http://127.0.0.1:abc",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:0",
    "http://[::1",
    "http://",
    "http://a b:1",
    "http://h\u00e9:1",
    "ftp://h:1",
    "http://h:1\nx",
)
DEEP = "[" * 200_000
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed, said = capsys.readouterr()
    assert printed == ""
    (line,) = said.splitlines()
    return line


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "words",
    [
        ("chat", "hi", "--url"),
        ("complete", "hi", "--url"),
        ("status", "--url"),
        ("wait", "--url"),
        ("verify",),
        ("bench", "--print"),
        ("batch", "{in}", "{out}", "--url"),
    ],
)
def test_a_url_that_is_none(
    words: tuple[str, ...], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_text(json.dumps(LINE))
    names = {"in": tmp_path / "in", "out": tmp_path / "out"}
    assert main([*(word.format(**names) for word in words), url]) == 2
    assert "must be http://HOST:PORT or " in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [("verify", "http://127.0.0.1:1"), ("batch", "{in}", "{out}"), ("bench", "http://h:1")]
)
@pytest.mark.parametrize("key", ["schl\u00fcssel", "sk-\x07"])
def test_a_key_that_no_header_can_have(
    words: tuple[str, ...], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_text(json.dumps(LINE))
    (tmp_path / "key").write_text(key)
    names = {"in": tmp_path / "in", "out": tmp_path / "out"}
    assert main([*(word.format(**names) for word in words), "--api-key-file", str(tmp_path / "key")]) == 2
    assert "--api-key-file: a key has only printable ASCII characters" in one_line(capsys)


@pytest.mark.parametrize("command", ["chat", "complete", "tokenize", "detokenize", "parse", "render", "grammar"])
def test_standard_input_that_is_closed(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small_checkpoint: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    place = ["--url", "http://127.0.0.1:1"] if command in ("chat", "complete") else []
    assert main([command, *(place or ["--checkpoint", str(small_checkpoint)])]) == 2
    assert one_line(capsys).endswith(": standard input is closed")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("chat", "hi", "--url", "http://127.0.0.1:1", "--tools", "{file}"), "--tools"),
        (("verify", "http://127.0.0.1:1", "--samples", "{file}"), "--samples"),
        (("batch", "{file}", "{out}"), "IN"),
        (("bench", "compare", "{file}", "{file}"), "compare"),
    ],
)
@pytest.mark.parametrize("text", [DEEP, "{", "[NaN]", '{"requests": 1e999}', "\ufeff[]"])
def test_a_file_that_is_no_json(
    words: tuple[str, ...], name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given").write_text(text)
    names = {"file": tmp_path / "given", "out": tmp_path / "out"}
    assert main([word.format(**names) for word in words]) == 2
    assert f": {name}: " in one_line(capsys)


@pytest.mark.parametrize(
    "words",
    [("chat", "{bad}"), ("complete", "{bad}"), ("chat", "hi", "--system", "{bad}"), ("chat", "a", "--stop", "{bad}")],
)
def test_an_argument_that_is_no_text(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    # Bytes that are not UTF-8, as Python shows them.
    with pytest.raises(SystemExit, match="2"):
        main([word.format(bad="caf\udce9") for word in words] + ["--url", "http://127.0.0.1:1"])
    assert "not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "http://h:1", "--tool", "aiperf", "--output", "{file}"),
        ("bench", "http://h:1", "--tool", "aiperf", "--output", "/dev/null/x"),
        ("bench", "compare", "{run}", "{run}", "--chart", "{file}/x.svg"),
        ("tokenizer", "--checkpoint", "{checkpoint}", "--export", "/dev/null/x"),
    ],
)
def test_a_place_that_can_not_be_written(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small_checkpoint: Path,
) -> None:
    (tmp_path / "file").write_text("")
    program = tmp_path / "aiperf"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    run = write_run(tmp_path / "run", run_of())
    names = {"file": tmp_path / "file", "run": run, "checkpoint": small_checkpoint}
    assert main([word.format(**names) for word in words]) in (1, 2)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"kimi-k2 {words[0]}: ")


@pytest.mark.parametrize("name", ["--concurrency", "--requests", "--inputs", "--outputs"])
def test_a_number_that_measures_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "http://h:1", "--print", name, "0"]) == 2
    assert one_line(capsys).endswith(f": {name}: must be at least 1")


def test_options_may_stand_before_between_and_after_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", run_of())
    for words in (["compare", "--json", run, run], ["--json", "compare", run, run], ["compare", run, "--json", run]):
        assert main(["bench", *words]) == 0
        assert json.loads(capsys.readouterr().out)["worse"] == []


def test_a_samples_file_without_a_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "samples").write_text("\n\n")
    assert main(["verify", "http://127.0.0.1:1", "--samples", str(tmp_path / "samples")]) == 2
    assert one_line(capsys).endswith("samples has no request")
