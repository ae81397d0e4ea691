from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from kimi_k2_cli import tokenizer
from kimi_k2_cli.main import main
from kimi_k2_serving.core.tokens import Vocabulary
from tests.support.demo import demo

__all__ = ["demo"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KIMI_K2_CACHE", str(tmp_path / "cache"))


def test_it_writes_two_files_that_encode_as_the_server_does(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a" / "tokenizer"
    assert main(["tokenizer", "--export", str(target), "--checkpoint", str(demo)]) == 0
    assert {file.name for file in target.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert "auto_map" not in json.loads((target / "tokenizer_config.json").read_text())
    text = "What is the weather in Zürich?"
    assert Tokenizer.from_file(str(target / "tokenizer.json")).encode(text).ids == Vocabulary.load(demo).encode(text)
    assert capsys.readouterr().out.startswith("wrote tokenizer.json and tokenizer_config.json to ")


def test_without_an_option_it_is_the_checkpoint_of_the_other_commands(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []
    monkeypatch.setattr(tokenizer, "resolve", lambda given: asked.append(given) or demo)
    assert main(["tokenizer", "--export", str(tmp_path / "out")]) == 0
    assert asked == [None]


def test_without_the_servers_packages_it_says_what_to_install(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["tokenizer", "--export", str(tmp_path / "out"), "--checkpoint", str(demo)]) == 2
    assert "kimi-k2-triton[serve]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_not_empty_is_left_alone_without_force(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    line = ["tokenizer", "--export", str(target), "--checkpoint", str(demo)]
    assert main(line) == 2
    assert "--force" in capsys.readouterr().err
    assert [file.name for file in target.iterdir()] == ["mine.txt"]
    assert main([*line, "--force"]) == 0
    assert (target / "mine.txt").read_text() == "mine"
    assert (target / "tokenizer.json").is_file()


def test_a_file_in_the_way_is_left_alone_even_with_force(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(["tokenizer", "--export", str(tmp_path / "out"), "--checkpoint", str(demo), "--force"]) == 2
    assert (tmp_path / "out").read_text() == "mine"


def test_a_checkpoint_that_is_not_k2_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert main(["tokenizer", "--export", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "other")]) == 2
    assert "not a Kimi K2 checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
