"""The key that the steps share: made once, for this user alone, gone with the last of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import EngineUnavailable
from kimi_k2_serving.triton.chat.seal import KEY_BYTES, NAME, Seal


def test_whoever_comes_first_makes_the_key_and_the_last_to_go_removes_it(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    first, second = Seal.open(runtime), Seal.open(runtime)
    assert first.tag("a", "b") == second.tag("a", "b") != first.tag("a", "c")
    assert (runtime.stat().st_mode & 0o777, (runtime / NAME).stat().st_mode & 0o777) == (0o700, 0o600)
    assert [path.name for path in runtime.iterdir()] == [NAME]
    first.close()
    first.close()
    assert (runtime / NAME).exists()
    second.close()
    assert not runtime.exists()


def test_steps_that_start_together_get_one_key(tmp_path: Path) -> None:
    seals: list[Seal] = []
    threads = [threading.Thread(target=lambda: seals.append(Seal.open(tmp_path / "run"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({seal.tag("x") for seal in seals}) == 1
    for seal in seals:
        seal.close()


def test_every_server_has_another_key(tmp_path: Path) -> None:
    seals = [Seal.open(tmp_path / name) for name in ("a", "b")]
    assert seals[0].tag("x") != seals[1].tag("x")
    for seal in seals:
        seal.close()


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    with pytest.raises(EngineUnavailable, match="runtime directory") as raised:
        Seal.open(tmp_path / "run")
    assert str(tmp_path) not in str(raised.value)


def test_a_link_in_the_directory_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "theirs")
    with pytest.raises(EngineUnavailable):
        Seal.open(tmp_path / "run")


@pytest.mark.parametrize(("content", "mode"), [(b"k" * KEY_BYTES, 0o644), (b"short", 0o600), (b"k" * 99, 0o600)])
def test_a_key_that_we_did_not_make_is_refused(tmp_path: Path, content: bytes, mode: int) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    (runtime / NAME).write_bytes(content)
    (runtime / NAME).chmod(mode)
    with pytest.raises(EngineUnavailable):
        Seal.open(runtime)
