"""config.pbtxt, docs/tensors.md, the table and `auto_complete_config` say the same; the ensemble's wiring fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from kimi_k2_serving.triton.engine.backend import complete_config, refuse_several_instances
from kimi_k2_serving.triton.signatures import ENGINE_INPUTS, ENGINE_OUTPUTS, MODELS, TensorSpec

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"


def config_of(model: str) -> Any:
    text = (REPOSITORY / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def row(tensor: TensorSpec) -> tuple[str, str, tuple[int, ...], bool]:
    return tensor.name, tensor.data_type, tensor.dims, tensor.optional


def declared(entries: Any) -> list[tuple[str, str, tuple[int, ...], bool]]:
    return [
        (
            each.name,
            model_config_pb2.DataType.Name(each.data_type),
            tuple(each.dims),
            getattr(each, "optional", True),
        )
        for each in entries
    ]


def test_every_model_of_the_repository_is_in_the_table() -> None:
    assert sorted(path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")) == sorted(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_config_pbtxt_declares_exactly_the_tensors_of_the_table(model: str) -> None:
    config = config_of(model)
    inputs, outputs = MODELS[model]
    assert config.name == model
    assert config.max_batch_size == 0
    assert declared(config.input) == [row(tensor) for tensor in inputs]
    assert declared(config.output) == [row(tensor) for tensor in outputs]


@pytest.mark.parametrize("model", MODELS)
def test_docs_list_exactly_the_tensors_of_the_table(model: str) -> None:
    text = (ROOT / "docs" / "tensors.md").read_text()
    section = text.split(f"\n## `{model}`", 1)[1].split("\n## ", 1)[0]
    rows = [
        tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    inputs, outputs = MODELS[model]
    expected = [
        (tensor.name, kind, tensor.data_type.removeprefix("TYPE_"), f"[{', '.join(map(str, tensor.dims))}]")
        for kind, tensors in (("in", inputs), ("out", outputs))
        for tensor in tensors
    ]
    assert [cells[:4] for cells in rows] == expected


class Config:
    """Triton's ModelConfig object, as `auto_complete_config` sees it."""

    def __init__(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self.input, self.output = inputs, outputs
        self.max_batch_size: int | None = None
        self.policy: dict[str, bool] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"input": self.input, "output": self.output}

    def add_input(self, entry: dict[str, Any]) -> None:
        self.input.append(entry)

    def add_output(self, entry: dict[str, Any]) -> None:
        self.output.append(entry)

    def set_max_batch_size(self, size: int) -> None:
        self.max_batch_size = size

    def set_model_transaction_policy(self, policy: dict[str, bool]) -> None:
        self.policy = policy


def test_completing_an_empty_configuration_gives_the_table() -> None:
    config = complete_config(Config([], []))
    assert [each["name"] for each in config.input] == [tensor.name for tensor in ENGINE_INPUTS]
    assert all(each["optional"] for each in config.input)
    assert [each["name"] for each in config.output] == [tensor.name for tensor in ENGINE_OUTPUTS]
    assert config.policy == {"decoupled": True}
    assert config.max_batch_size == 0


def test_completing_the_static_configuration_adds_nothing() -> None:
    static = config_of("kimi_k2_engine")
    config = Config([{"name": each.name} for each in static.input], [{"name": each.name} for each in static.output])
    before = (list(config.input), list(config.output))
    complete_config(config)
    assert (config.input, config.output) == before
    assert static.model_transaction_policy.decoupled


def test_the_ensemble_maps_tensors_of_one_type_and_shape_and_none_twice() -> None:
    ensemble = config_of("kimi_k2")
    produced = {each.name: (each.data_type, tuple(each.dims)) for each in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        inner = config_of(step.model_name)
        inputs = {each.name: each for each in inner.input}
        outputs = {each.name: each for each in inner.output}
        for key, source in step.input_map.items():
            assert produced[source][0] == inputs[key].data_type, (step.model_name, key)
            assert fits(produced[source][1], tuple(inputs[key].dims)), (step.model_name, key)
        missing = [name for name, each in inputs.items() if not each.optional and name not in step.input_map]
        assert not missing, (step.model_name, missing)
        for key, target in step.output_map.items():
            assert target not in produced or step.model_name == "kimi_k2_postprocess", target
            produced[target] = (outputs[key].data_type, tuple(outputs[key].dims))
    for each in ensemble.output:
        assert produced[each.name] == (each.data_type, tuple(each.dims)), each.name


def fits(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(given) == len(wanted) and all(b in (-1, a) or a == -1 for a, b in zip(given, wanted, strict=True))


def test_no_step_after_the_decoupled_one_reads_anything_from_before_it() -> None:
    """Triton refuses a step that mixes tensors of different decoupled lineages."""
    steps = config_of("kimi_k2").ensemble_scheduling.step
    engine = next(step for step in steps if step.model_name == "kimi_k2_engine")
    postprocess = next(step for step in steps if step.model_name == "kimi_k2_postprocess")
    assert set(postprocess.input_map.values()) <= set(engine.output_map.values())


def test_the_last_step_gets_cancelled_requests_too() -> None:
    """Triton's dynamic batcher would answer them itself, and nobody would end the generation."""
    assert not config_of("kimi_k2_postprocess").HasField("dynamic_batching")


@pytest.mark.parametrize("model", ["kimi_k2_engine", "kimi_k2_postprocess"])
def test_models_that_keep_state_have_one_instance(model: str) -> None:
    assert [group.count for group in config_of(model).instance_group] == [1]


def test_a_second_engine_instance_is_refused_by_name() -> None:
    from triton_python_backend_utils import TritonModelException

    with pytest.raises(TritonModelException, match=r"instance_group\.count"):
        refuse_several_instances({"instance_group": [{"count": 2}]})
    refuse_several_instances({"instance_group": [{"count": 1}]})
