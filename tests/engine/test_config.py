from __future__ import annotations

from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField, ServingError
from kimi_k2_serving.engine.adapters import adapter_args
from kimi_k2_serving.engine.admission import Capacity
from kimi_k2_serving.engine.build import group_of, server_args
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint
from kimi_k2_serving.engine.config import (
    EngineConfig,
    Restart,
    load_engine_config,
    load_preset,
    preset_names,
    read_capacity,
)
from tests.support.demo import demo

__all__ = ["demo"]

ENVIRON = {"KIMI_K2_DIST_INIT_ADDR": "10.0.0.1:5000"}


def engine_yaml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "engine.yaml"
    path.write_text("checkpoint: /model\npreset: demo\n" + text)
    return path


@pytest.mark.parametrize("name", preset_names())
def test_admission_never_lets_more_in_than_sglang_itself_takes(name: str) -> None:
    preset = load_preset(name, ENVIRON)
    capacity = read_capacity(preset.admission)
    arguments = preset.server_args
    # Without max_queued_requests SGLang's queue has no bound.
    assert capacity.requests <= arguments["max_running_requests"] + arguments.get("max_queued_requests", 1 << 30)
    assert capacity.requests > arguments["max_running_requests"], "the next batch must be there when one ends"
    assert arguments["context_length"] <= capacity.prompt_tokens
    assert arguments["enable_priority_scheduling"]


def test_engine_yaml_wins_over_the_presets_admission_key_by_key(tmp_path: Path) -> None:
    config = load_engine_config(engine_yaml(tmp_path, "admission: {requests: 3, queue: 0}\n"), ENVIRON)
    assert config.admission == Capacity(requests=3, prompt_tokens=131072, queue=0, queue_seconds=30.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("admission: {requests: 0}", "invalid_value: admission.requests: must be a whole number, at least 1"),
        ("admission: {queue: -1}", "invalid_value: admission.queue: must be a whole number, at least 0"),
        ("admission: {tokens: 1}", "unknown_field: admission.tokens: "),
        ("admission: {requests: true}", "invalid_value: admission.requests: must be a whole number, at least 1"),
        ("admission: {queue: false}", "invalid_value: admission.queue: must be a whole number, at least 0"),
        ("admission: [1]", "invalid_type: engine.yaml.admission: "),
        ("restart: always", "invalid_value: restart: must be one of: in_place, pod"),
        ("checkpoint: 5", "invalid_type: engine.yaml.checkpoint: must be text"),
        ("preset: [demo]", "invalid_type: engine.yaml.preset: must be text"),
        ("deterministic: 1", "invalid_type: engine.yaml.deterministic: must be true or false"),
        ("deterministic: true", "invalid_value: engine.yaml.deterministic: needs a GPU"),
        ("adapters: [a]", "invalid_type: engine.yaml.adapters: must be a mapping"),
        ("adapters: {a: /a}", "invalid_value: engine.yaml.adapters: needs a GPU"),
        ("engine: {a: [}", "invalid_value: engine.yaml: is not YAML in line 3"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ServingError) as caught:
        load_engine_config(engine_yaml(tmp_path, text), ENVIRON)
    assert str(caught.value).startswith(expected)


def test_a_death_is_final_only_if_engine_yaml_says_so(tmp_path: Path) -> None:
    assert load_engine_config(engine_yaml(tmp_path, ""), ENVIRON).restart is Restart.IN_PLACE
    assert load_engine_config(engine_yaml(tmp_path, "restart: pod"), ENVIRON).restart is Restart.POD


def test_the_shipped_engine_yaml_takes_what_a_death_means_from_the_environment() -> None:
    shipped = Path(__file__).parents[2] / "model_repository" / "kimi_k2_engine" / "1" / "engine.yaml"
    environ = {**ENVIRON, "KIMI_K2_CHECKPOINT": "/checkpoint"}
    assert load_engine_config(shipped, environ).restart is Restart.IN_PLACE
    assert load_engine_config(shipped, environ | {"KIMI_K2_RESTART": "pod"}).restart is Restart.POD


def test_several_nodes_need_the_address_of_rank_0(tmp_path: Path, demo: Path) -> None:
    config = load_engine_config(engine_yaml(tmp_path, "engine: {nnodes: 2}"), ENVIRON)
    with pytest.raises(MissingField, match=r"engine\.dist_init_addr: set it to HOST:PORT"):
        group_of(config, inspect_checkpoint(demo))
    config = load_engine_config(engine_yaml(tmp_path, "engine: {nnodes: 2, dist_init_addr: '10.0.0.1:70000'}"), ENVIRON)
    with pytest.raises(InvalidValue, match=r"engine\.dist_init_addr: must be HOST:PORT"):
        group_of(config, inspect_checkpoint(demo))


def test_an_engine_yaml_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    with pytest.raises(ServingError, match="cannot be read: No such file"):
        load_engine_config(path, ENVIRON)
    path.write_bytes(b"checkpoint: \xff")
    with pytest.raises(ServingError, match="must be UTF-8"):
        load_engine_config(path, ENVIRON)


GPU = "deterministic: true\npreset: h200-8\n"


def test_deterministic_replaces_an_attention_of_the_preset_that_is_not(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(f"checkpoint: /model\n{GPU}")
    found = load_engine_config(path, ENVIRON).server_args
    assert found["enable_deterministic_inference"] is True
    assert found["attention_backend"] == "triton", "the preset's flashmla is not deterministic"
    path.write_text(f"checkpoint: /model\n{GPU}engine: {{attention_backend: fa3}}\n")
    assert load_engine_config(path, ENVIRON).server_args["attention_backend"] == "fa3"


def test_deterministic_is_refused_on_a_cpu_whoever_names_the_device(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(f"checkpoint: /model\n{GPU}engine: {{device: cpu}}\n")
    with pytest.raises(InvalidValue, match="needs a GPU"):
        load_engine_config(path, ENVIRON)


def adapted(tmp_path: Path, adapters: str, engine: str = "{}") -> EngineConfig:
    path = tmp_path / "engine.yaml"
    path.write_text(f"checkpoint: /model\npreset: h200-8\nadapters: {adapters}\nengine: {engine}\n")
    return load_engine_config(path, {**ENVIRON, "ADAPTERS": str(tmp_path)})


def test_sglang_loads_the_adapters_that_engine_yaml_names(tmp_path: Path, demo: Path) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "adapter_config.json").write_text("{}")
    config = adapted(tmp_path, "{queries: '${ADAPTERS}/sql'}")
    assert config.adapters == {"queries": f"{tmp_path}/sql"}
    found = server_args(config, inspect_checkpoint(demo), tmp_path)
    assert found["lora_paths"] == [{"lora_name": "queries", "lora_path": f"{tmp_path}/sql", "pinned": False}]
    assert "lora_backend" not in found
    none = adapted(tmp_path, "{}")
    assert "lora_paths" not in server_args(none, inspect_checkpoint(demo), tmp_path)


def test_a_directory_without_an_adapter_is_refused_by_its_name(tmp_path: Path, demo: Path) -> None:
    config = adapted(tmp_path, "{queries: '${ADAPTERS}/none'}")
    with pytest.raises(InvalidValue, match=r"engine\.yaml\.adapters\.queries: .*/none has no adapter_config\.json"):
        server_args(config, inspect_checkpoint(demo), tmp_path)


def test_adapters_are_declared_in_one_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"engine\.lora_paths: declare them by name as engine\.yaml\.adapters"):
        adapted(tmp_path, "{}", "{lora_paths: [/a]}")


def test_adapters_have_a_place_in_every_batch_where_attention_is_data_parallel() -> None:
    parallel = {"attn_dp_size": 8}
    few, many = ({str(number): "/a" for number in range(count)} for count in (3, 20))
    assert adapter_args(few, parallel)["max_loras_per_batch"] == 8
    assert adapter_args(many, parallel)["max_loras_per_batch"] == 21, "the base model has a place, too"
    assert all(each["pinned"] for each in adapter_args(many, parallel)["lora_paths"])
    assert adapter_args({}, parallel) == {}


@pytest.mark.parametrize("adapters", ["{1: /a}", "{a: 1}", "{a: ''}", "{'': /a}", "{a: [/a]}"])
def test_names_and_directories_of_adapters_are_text(tmp_path: Path, adapters: str) -> None:
    with pytest.raises(InvalidType, match="must be text, not empty"):
        adapted(tmp_path, adapters)


def test_deterministic_refuses_an_attention_that_is_not(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(f"checkpoint: /model\n{GPU}engine: {{attention_backend: flashmla}}\n")
    with pytest.raises(ServingError, match="one of triton, fa3, fa4"):
        load_engine_config(path, ENVIRON)
