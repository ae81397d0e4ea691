"""The planner chooses the preset that holds the load, says why something does not fit, and never beats a roofline."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kimi_k2_cli.main import main
from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.plan.hardware import hardware_of
from kimi_k2_serving.plan.planner import Plan, make_plan, plain_placement
from kimi_k2_serving.plan.presets import gpu_presets
from kimi_k2_serving.plan.shape import K2
from kimi_k2_serving.plan.speed import decode_step, prefill

B200 = hardware_of("b200", 8)
PRESETS = gpu_presets()


def plan(gpu: str = "b200", gpus: int = 8, *, context: int | None = None, concurrency: int = 1) -> Plan:
    return make_plan(hardware_of(gpu, gpus), PRESETS, context=context, concurrency=concurrency)


@pytest.mark.parametrize(
    ("concurrency", "context", "preset"),
    [
        (1, 262_144, "b200-8"),
        (16, 8_192, "b200-8"),
        (256, 8_192, "b200-8-throughput"),
        # Only the spread cache holds it, and it is experimental: no other load gets that preset.
        (20, 262_144, "b200-8-long"),
    ],
)
def test_the_preset_follows_from_the_load(concurrency: int, context: int, preset: str) -> None:
    found = plan(concurrency=concurrency, context=context)
    assert found.fits
    assert found.preset is not None
    assert found.preset.name == preset


@pytest.mark.parametrize(
    ("gpu", "gpus", "load", "why"),
    [
        ("h100", 8, {}, "the weights take 121.0 GiB of each GPU"),
        ("h200", 24, {}, "can't be divided over 24 GPUs"),
        ("h200", 8, {"context": 200_000}, "the preset's context is 131,072"),
        ("h200", 8, {"context": 65_536, "concurrency": 4}, "4 x 65,536 do not fit"),
        ("h100", 16, {"context": 100, "concurrency": 1000}, "at most 64 requests run at a time"),
    ],
)
def test_what_does_not_fit_is_said_with_its_reason(gpu: str, gpus: int, load: dict[str, int], why: str) -> None:
    found = plan(gpu, gpus, **load)  # type: ignore[arg-type]
    assert not found.fits
    assert why in found.why


def test_hardware_without_a_preset_gets_arithmetic_and_no_preset() -> None:
    found = plan("b200", 16)
    assert found.fits
    assert found.preset is None
    assert found.placement == plain_placement(hardware_of("b200", 16))


@pytest.mark.parametrize("load", [{"concurrency": 0}, {"context": 0}, {"context": K2.context + 1}])
def test_a_load_that_can_t_be_is_refused(load: dict[str, int]) -> None:
    with pytest.raises(InvalidValue):
        plan(**load)  # type: ignore[arg-type]


def test_a_single_token_reads_the_active_weights_and_no_more() -> None:
    """33 GB, the published active parameters with their repeated parts, is what one token must read."""
    step = decode_step(B200, PRESETS[0].placement, 1, 1)
    assert step.experts_touched == pytest.approx(K2.experts_per_token)
    assert 33e9 < 8 * step.weight_bytes < 45e9


@pytest.mark.parametrize(("batch", "experts"), [(16, 110), (64, 284), (256, 382)])
def test_a_batch_touches_more_experts(batch: int, experts: int) -> None:
    assert round(decode_step(B200, PRESETS[0].placement, batch, 1).experts_touched) == experts


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_no_estimate_is_below_its_roofline_and_load_only_slows(preset) -> None:  # type: ignore[no-untyped-def]
    steps = [decode_step(preset.hardware, preset.placement, batch, 8192) for batch in (1, 8, 64, 256)]
    assert all(step.estimated_seconds > step.roofline_seconds > 0 for step in steps)
    assert [step.in_total for step in steps] == sorted(step.in_total for step in steps)
    assert [step.per_request for step in steps] == sorted((step.per_request for step in steps), reverse=True)
    prompts = [prefill(preset.hardware, preset.placement, tokens) for tokens in (1_000, 10_000, 100_000)]
    assert all(each.estimated_seconds > each.roofline_seconds > 0 for each in prompts)
    # Attention grows with the square.
    assert prompts[2].attention_operations == 100 * prompts[1].attention_operations


def test_a_long_prompt_takes_the_operations_of_its_tokens_and_pairs() -> None:
    found = prefill(B200, PRESETS[0].placement, 200_000)
    assert found.linear_operations / 1e15 == pytest.approx(12, rel=0.05)
    assert found.attention_operations / 1e15 == pytest.approx(50, rel=0.01)


def test_the_command_prints_the_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpu", "h100", "--gpus", "16", "--concurrency", "8", "--context", "16384", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["measured"] is False
    assert (found["preset"], found["bytes_per_token"]) == ("h100-16", 35_136)
    assert found["kv_tokens"] > 131_072
    assert found["weights"]["checkpoint_gib"] == pytest.approx(958.5, abs=0.1)
    assert found["weights"]["gib_per_gpu"] < 81_559 / 1024
    assert 0 < found["decode"]["roofline_ms"] < found["decode"]["estimate_ms"]
    assert 0 < found["prefill"]["roofline_seconds"] < found["prefill"]["estimate_seconds"]
    flags = found["flags"]
    assert flags[flags.index("--tp-size") + 1] == "16"


def test_the_command_says_what_does_not_fit_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpu", "h100", "--gpus", "8"]) == 1
    text = capsys.readouterr().out
    assert "does not fit" in text
    assert "tokens/s" not in text
    assert main(["plan", "--gpu", "b200", "--gpus", "8"]) == 0
    text = capsys.readouterr().out
    assert "KIMI_K2_PRESET=b200-8" in text
    assert "not measured on a GPU" in text


def test_the_command_refuses_an_unknown_gpu_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--gpu", "a100", "--gpus", "8"]) == 2
    assert "one of: h100, h200, b200, gb200" in capsys.readouterr().err


def test_the_command_needs_neither_torch_nor_sglang() -> None:
    program = (
        "import sys; from kimi_k2_cli.main import main; main(['plan', '--gpu', 'b200', '--gpus', '8']);"
        "assert not {'torch', 'sglang', 'numpy', 'tokenizers'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
