"""What fits: the planner's bytes against K2's published figures, and its verdicts on known machines."""

from __future__ import annotations

import dataclasses

import pytest

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.plan.hardware import Hardware, find_accelerator, hardware_of
from kimi_k2_serving.plan.memory import GIB, Placement, pool_of, sglang_fraction, weights_of
from kimi_k2_serving.plan.planner import make_plan
from kimi_k2_serving.plan.presets import gpu_presets, sglang_flags
from kimi_k2_serving.plan.shape import BF16, FP8, K2

PLAIN = Placement(tensor=8, cache_bytes=FP8, fraction=0.9, chunk=8192, running=64, context=131_072)


def placed(**changes: object) -> Placement:
    return dataclasses.replace(PLAIN, **changes)  # type: ignore[arg-type]


def test_the_checkpoint_has_its_published_size() -> None:
    assert round(K2.checkpoint_bytes() / GIB) == 958
    assert round(K2.checkpoint_bytes() / 1e9) == 1029


def test_a_token_takes_the_bytes_of_one_latent_and_one_key_per_layer() -> None:
    assert PLAIN.token_bytes() == 35_136
    assert placed(cache_bytes=BF16).token_bytes() == 70_272


def test_one_gpu_holds_the_checkpoint_and_the_absorbed_copy() -> None:
    held = weights_of(placed(tensor=1))
    assert held.total - held.absorbed == K2.checkpoint_bytes()


def test_ranks_together_hold_the_checkpoint_and_what_is_repeated() -> None:
    held = weights_of(PLAIN)
    repeated = 7 * (K2.layers * K2.stored(*K2.whole_attention) + K2.norms + K2.routers)
    assert 8 * (held.total - held.absorbed) == pytest.approx(K2.checkpoint_bytes() + repeated, abs=8 * 8)
    # 1.2 GB more than an eighth, as a start on 8 GPUs shows it.
    assert 1.0 < (held.total - K2.checkpoint_bytes() / 8) / 1e9 < 1.4


def test_attention_data_parallelism_repeats_attention_and_vocabulary_but_no_expert() -> None:
    apart, together = weights_of(placed(attention_data=8, separate_head=True)), weights_of(PLAIN)
    assert apart.experts == together.experts
    assert apart.vocabulary == 2 * K2.vocabulary_matrix
    assert apart.absorbed == 8 * together.absorbed
    whole = K2.layers * K2.stored(*K2.whole_attention) + K2.norms
    assert apart.attention - whole == pytest.approx(8 * (together.attention - whole), abs=8 * K2.layers)


def test_a_cache_that_is_spread_holds_as_much_more_as_ranks_hold_it() -> None:
    b200 = find_accelerator("b200")
    one, spread = pool_of(PLAIN, b200), pool_of(placed(decode_context=8), b200)
    assert (spread.longest, spread.tokens) == (8 * one.longest, 8 * one.tokens)


def test_groups_have_caches_of_their_own() -> None:
    pool = pool_of(placed(attention_data=8), find_accelerator("b200"))
    assert pool.tokens == 8 * pool.longest
    assert pool.longest < pool_of(PLAIN, find_accelerator("b200")).longest


def test_pages_are_whole() -> None:
    assert pool_of(placed(page=64), find_accelerator("h200")).longest % 64 == 0


@pytest.mark.parametrize(
    ("gpu", "gpus", "fits"),
    [
        ("h100", 8, False),
        ("h100", 16, True),
        ("h200", 8, True),
        ("h200", 16, True),
        ("b200", 4, False),
        ("b200", 8, True),
        ("gb200", 16, True),
    ],
)
def test_known_machines(gpu: str, gpus: int, fits: bool) -> None:
    plan = make_plan(hardware_of(gpu, gpus), gpu_presets())
    assert plan.fits is fits, plan.why
    assert (plan.pool.tokens > 0) is fits


def test_weights_that_do_not_fit_leave_no_tokens() -> None:
    pool = pool_of(PLAIN, find_accelerator("h100"))
    assert pool.room < 0
    assert (pool.longest, pool.tokens) == (0, 0)


def test_sglang_s_own_fraction_leaves_ten_gib_at_least() -> None:
    accelerator = find_accelerator("h100")
    small, large = placed(chunk=2048, graph_batch=8), placed(chunk=16384)
    assert sglang_fraction(small, accelerator) == round(1 - 10 * 1024 / accelerator.memory_mib, 3)
    assert sglang_fraction(large, accelerator) < sglang_fraction(small, accelerator)


def test_no_preset_leaves_less_than_sglang_would_for_activations_and_graphs() -> None:
    """Except under attention data parallelism, where SGLang's own rule counts the chunk of all groups."""
    ruled = [each for each in gpu_presets() if each.placement.attention_data == 1]
    assert len(ruled) == 6
    for preset in ruled:
        assert preset.placement.fraction <= sglang_fraction(preset.placement, preset.hardware.accelerator), preset.name


@pytest.mark.parametrize(
    ("name", "gpus", "nodes", "field"),
    [("a100", 8, None, "gpu"), ("h100", 0, None, "gpus"), ("h100", 10, 4, "nodes"), ("h100", 8, 0, "nodes")],
)
def test_hardware_that_can_t_be_is_refused_by_field(name: str, gpus: int, nodes: int | None, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        hardware_of(name, gpus, nodes)
    assert caught.value.field == field


def test_nodes_are_as_usual_for_the_gpu() -> None:
    assert hardware_of("H200", 16) == Hardware(find_accelerator("h200"), 16, 2)
    assert hardware_of("gb200", 16).nodes == 4


def test_flags_are_words_for_a_shell() -> None:
    args = {"tp_size": 8, "enable_x": True, "disable_y": False, "graph": {"decode": {"max_bs": 8}}}
    assert sglang_flags(args) == ("--tp-size", "8", "--enable-x", "--graph", '{"decode": {"max_bs": 8}}')
