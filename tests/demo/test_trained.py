"""The trained model in the repository is what the code around it expects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.demo import random_weights, world
from kimi_k2_serving.demo.architecture import TRAINED, config
from kimi_k2_serving.demo.build import DemoWeights, build_checkpoint, shipped
from kimi_k2_serving.demo.vocabulary import RANKS, SIZE
from kimi_k2_serving.demo.world.ranks import read_ranks

MOST_BYTES = 16_000_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "checkpoint"
    build_checkpoint(directory, DemoWeights.TRAINED, report=lambda _: None)
    return directory


def test_the_weights_are_small_enough_for_git() -> None:
    assert len(shipped("model.safetensors").read_bytes()) <= MOST_BYTES


def test_the_weights_have_the_names_and_shapes_of_the_architecture(trained: Path) -> None:
    expected = {each.name: tuple(each.shape) for each in random_weights.tensors(TRAINED)}
    with safe_open(trained / "model.safetensors", "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert found == expected


def test_the_weights_are_finite_and_not_the_random_ones(trained: Path) -> None:
    with safe_open(trained / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            assert tensor.dtype in (torch.bfloat16, torch.float32)
            assert torch.isfinite(tensor).all(), name
        # A trained norm has learnt scales; a random one is all ones.
        assert file.get_tensor("model.norm.weight").float().std() > 0


def test_the_checkpoint_has_the_vocabulary_of_the_world(trained: Path) -> None:
    vocabulary = Vocabulary.load(trained)
    assert vocabulary.size == SIZE
    assert [vocabulary.token_bytes(rank) for rank in range(RANKS)] == read_ranks()
    assert dict(vocabulary.controls) == dict(world.vocabulary().controls)


def test_the_checkpoint_states_the_architecture(trained: Path) -> None:
    assert json.loads((trained / "config.json").read_text()) == json.loads(json.dumps(config(TRAINED)))
