"""`scripts/fuzz parser`: cumulative, resumable, repeatable, and it does notice a fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz import parser


def fuzz(monkeypatch: pytest.MonkeyPatch, state: Path, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["fuzz", "--seed", "3", "--state", str(state), *options])
    return parser.main()


def test_runs_add_up_and_fresh_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "fuzz" / "state.json"
    assert fuzz(monkeypatch, state, "--runs", "30") == 0
    assert fuzz(monkeypatch, state, "--runs", "20") == 0
    assert json.loads(state.read_text()) == {"3": 50}
    assert fuzz(monkeypatch, state, "--runs", "10", "--fresh") == 0
    assert json.loads(state.read_text()) == {"3": 10}


def test_a_run_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (parser.hostile_answer(parser.Random("3:17")) for _ in range(2))
    assert one == two
    assert fuzz(monkeypatch, tmp_path / "state.json", "--only", "17") == 0
    assert not (tmp_path / "state.json").exists()


def test_a_fault_is_reported_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is read otherwise when it is split."""
    whole = parser.run

    def split_matters(stream, ids, places, reason):  # type: ignore[no-untyped-def]
        return whole(stream, ids if not places else ids[:-1], places, reason)

    monkeypatch.setattr(parser, "run", split_matters)
    end, number, fault = parser.batch(3, 0, 200)
    assert end == 200
    assert 0 <= number < 200
    assert fault.startswith(("at once:", "out of order:"))
    assert parser.check(3, number) == fault
