"""The twin has every count of the published checkpoint; a short run serves it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kimi_k2_serving.core.vocabulary_files import read_vocabulary
from kimi_k2_serving.demo import random_weights
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint
from kimi_k2_serving.plan.shape import K2
from tests.support.demo import demo
from tests.support.vocabulary import reference_directory
from tests.twin import build
from tests.twin.__main__ import main
from tests.twin.shape import PUBLISHED, RANKS, TWIN, WIDTHS, config, planned

__all__ = ["demo"]

COUNTS = ("layers", "dense_layers", "heads", "experts", "experts_per_token", "shared_experts", "vocabulary", "context")


def test_the_twin_has_every_count_of_the_published_config() -> None:
    made = config()
    assert {name: made[name] for name in PUBLISHED} == PUBLISHED
    assert set(made) == {*PUBLISHED, *WIDTHS, "attention_bias"}


def test_the_published_facts_are_those_of_the_published_file() -> None:
    directory = reference_directory()
    if directory is None:
        pytest.skip("the published config.json is not at hand")
    published = json.loads((directory / "config.json").read_text())
    assert {name: published[name] for name in PUBLISHED} == PUBLISHED


def test_the_planner_knows_the_twin_as_it_knows_k2() -> None:
    ours = dataclasses.asdict(planned())
    assert {name: ours[name] for name in COUNTS} == {name: getattr(K2, name) for name in COUNTS}


def test_the_twins_weights_take_what_the_planner_says() -> None:
    parts = list(build.parts(random_weights.tensors(TWIN)))
    assert len(parts) == build.SHARDS
    assert sum(build.size(each) for part in parts for each in part) == planned().checkpoint_bytes()


def test_its_files_are_recognised_as_k2s(demo: Path, tmp_path: Path) -> None:
    build.write_json(tmp_path / "config.json", config())
    build.write_json(tmp_path / "tokenizer_config.json", build.names())
    lines = (demo / "tiktoken.model").read_bytes().splitlines(keepends=True)
    (tmp_path / "tiktoken.model").write_bytes(build.filled(lines))
    found = inspect_checkpoint(tmp_path)
    assert (found.why_not_k2, found.context_length, found.vocab_size) == ("", 262_144, 163_840)
    assert read_vocabulary(tmp_path).controls["<|im_end|>"] == RANKS + 2


@pytest.mark.server
@pytest.mark.slow
def test_the_twin_is_served_alone_with_the_memory_that_the_planner_says() -> None:
    assert main(["--short"]) == 0
