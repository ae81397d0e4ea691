from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.demo import __main__ as command
from kimi_k2_serving.demo import random_weights
from kimi_k2_serving.demo.build import STAMP, DemoWeights, build_checkpoint, is_current

# Other tests rely on these random weights, so they must not change by accident.
WEIGHTS = "c613041c999622f3b0ae1f87166ea06ae57a27836938046788bbbd7310c9500b"
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tiktoken.model",
    "tokenizer.json",
    "tokenizer_config.json",
    STAMP,
}


def contents(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()}


def build_quietly(directory: Path, *, force: bool = False) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return build_checkpoint(directory, DemoWeights.RANDOM, force=force, report=lines.append), lines


def test_the_directory_holds_exactly_these_files_in_under_30_megabytes(demo: Path) -> None:
    assert {file.name for file in demo.iterdir()} == FILES
    assert sum(file.stat().st_size for file in demo.iterdir()) < 30e6


def test_building_again_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    build_quietly(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(demo)


def test_the_weights_are_the_known_ones(demo: Path) -> None:
    assert contents(demo)["model.safetensors"] == WEIGHTS


def test_a_build_reports_its_steps_and_leaves_nothing_beside_the_directory(tmp_path: Path) -> None:
    built, lines = build_quietly(tmp_path / "demo")
    assert built
    assert [line[:5] for line in lines[:3]] == ["[1/3]", "[2/3]", "[3/3]"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_a_current_directory_is_left_alone_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "demo"
    build_quietly(target)
    before = target.stat().st_ino
    assert build_quietly(target) == (False, ["demo checkpoint: up to date"])
    assert target.stat().st_ino == before
    assert build_quietly(target, force=True)[0]
    assert target.stat().st_ino != before
    assert is_current(target, DemoWeights.RANDOM)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FILES - {STAMP}))
def test_a_changed_or_missing_file_makes_a_new_build(tmp_path: Path, demo: Path, name: str) -> None:
    target = tmp_path / "demo"
    build_quietly(target)
    (target / name).write_bytes(b"damaged")
    assert not is_current(target, DemoWeights.RANDOM)
    (target / name).unlink()
    assert build_quietly(target)[0]
    assert contents(target) == contents(demo)


def test_a_stamp_of_other_sources_makes_a_new_build(tmp_path: Path) -> None:
    target = tmp_path / "demo"
    build_quietly(target)
    stamp = json.loads((target / STAMP).read_text())
    (target / STAMP).write_text(json.dumps(stamp | {"recipe": "of another version"}))
    assert not is_current(target, DemoWeights.RANDOM)


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_holds_something_else_is_never_touched(tmp_path: Path, force: bool) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InvalidValue, match="give a new directory"):
        build_quietly(tmp_path, force=force)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("letter.txt", "dear")]


def test_a_file_at_the_output_path_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("dear")
    with pytest.raises(InvalidValue):
        build_quietly(tmp_path / "demo", force=True)
    assert (tmp_path / "demo").read_text() == "dear"


@pytest.mark.slow
def test_a_build_that_fails_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "demo"
    build_quietly(target)
    before = contents(target)

    def out_of_space(*args: object, **kwargs: object) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(random_weights, "write_weights", out_of_space)
    with pytest.raises(OSError, match="no space left"):
        build_quietly(target, force=True)
    assert contents(target) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


@pytest.mark.slow
def test_of_two_concurrent_builders_the_second_keeps_the_result_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "demo"
    write = random_weights.write_weights

    def while_another_builds(*args: object, **kwargs: object) -> int:
        monkeypatch.setattr(random_weights, "write_weights", write)
        build_quietly(target)
        return write(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(random_weights, "write_weights", while_another_builds)
    build_quietly(target)
    assert is_current(target, DemoWeights.RANDOM)
    assert [entry.name for entry in tmp_path.iterdir()] == ["demo"]


def test_the_command_builds_and_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--output", str(tmp_path / "demo")]) == 0
    assert "up to date" not in capsys.readouterr().out
    assert command.main(["--output", str(tmp_path / "demo")]) == 0
    assert capsys.readouterr().out == "demo checkpoint: up to date\n"
    assert command.main(["--output", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
