"""Only the published checkpoint of 0905 gets the published name without being asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving.launch import cli
from kimi_k2_serving.launch.frontend import frontend_arguments
from kimi_k2_serving.launch.published import K2_0905, published_name

# The lines of moonshotai/Kimi-K2-Instruct-0905's config.json that matter here.
PUBLISHED: dict[str, Any] = {
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "n_routed_experts": 384,
    "vocab_size": 163840,
    "max_position_embeddings": 262144,
    "quantization_config": {"quant_method": "fp8"},
}


def named(tmp_path: Path, config: object) -> str | None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return published_name(tmp_path)


def test_the_published_checkpoint_has_its_published_name(tmp_path: Path) -> None:
    assert named(tmp_path, PUBLISHED) == K2_0905 == "moonshotai/Kimi-K2-Instruct-0905"


@pytest.mark.parametrize(
    "change",
    [
        {"max_position_embeddings": 131072},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"quantization_config": None},
        {"hidden_size": 64},
    ],
)
def test_a_predecessor_a_requantized_one_and_the_demo_have_none(tmp_path: Path, change: dict[str, Any]) -> None:
    assert named(tmp_path, {**PUBLISHED, **change}) is None


def test_an_unreadable_configuration_names_nothing(tmp_path: Path) -> None:
    assert published_name(tmp_path) is None
    assert named(tmp_path, []) is None


def test_aliases_reach_the_frontend() -> None:
    options = cli.parse_options(["--model-alias", "a", "--model-alias", "b"])
    line = frontend_arguments(
        options, python=Path("/p"), checkpoint=Path("/c"), repository=Path("/m"), aliases=options.model_alias
    )
    assert line[-4:] == ["--model-alias", "a", "--model-alias", "b"]
