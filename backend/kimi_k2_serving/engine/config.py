"""Reads `engine.yaml` and presets: the checkpoint, SGLang's arguments, admission limits and the environment.

`${NAME}` and `${NAME:-default}` inside a string are replaced from `environ`; nothing else is expanded. The keys under
`engine:` and `admission:` in engine.yaml override the preset's. Raises InvalidType, InvalidValue, MissingField or
UnknownField, naming the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField, UnknownField
from kimi_k2_serving.engine.adapters import read_adapters
from kimi_k2_serving.engine.admission import Capacity

ENGINE_KEYS = (
    *("checkpoint", "preset", "parse_special", "strict_template", "deterministic", "restart", "engine"),
    *("admission", "adapters"),
)
ADMISSION_KEYS = ("requests", "prompt_tokens", "queue", "queue_seconds")
PRESET_KEYS = (
    "description",
    "evidence",
    "hardware",
    "checkpoint",
    "grammar",
    "grace_seconds",
    "start_timeout_seconds",
    "stall_seconds",
    "silent_seconds",
    "slow_reader_seconds",
    "admission",
    "engine",
    "environment",
)
# Presets for several nodes refer to this environment variable.
DIST_INIT_ADDR = "KIMI_K2_DIST_INIT_ADDR"
DETERMINISTIC = "engine.yaml.deterministic"
# The attention backends with which SGLang 0.5.23 computes models of K2's architecture deterministically.
DETERMINISTIC_BACKENDS = ("triton", "fa3", "fa4")
# The preset if engine.yaml names none. It is for a CPU; a GPU machine must name its preset.
CPU_PRESET = "demo"


class Restart(StrEnum):
    """What follows the end of an engine. Either it is started again on the same nodes, or the server and every worker
    end and an orchestrator creates all of them anew.
    """

    IN_PLACE = "in_place"
    POD = "pod"


@dataclass(frozen=True, slots=True)
class Preset:
    """One file of presets/. `server_args` are SGLang's ServerArgs by name; seconds are wall-clock time."""

    name: str
    description: str
    evidence: str
    hardware: Mapping[str, Any]
    checkpoint: str | None
    grammar: str
    grace_seconds: float
    start_timeout_seconds: float
    stall_seconds: float
    silent_seconds: float
    slow_reader_seconds: float
    admission: Mapping[str, Any]
    server_args: Mapping[str, Any]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    checkpoint: Path
    preset: Preset
    parse_special: bool
    server_args: Mapping[str, Any]
    admission: Capacity
    # Whether to refuse the model if its chat template renders a prompt that differs from this server's.
    strict_template: bool = True
    restart: Restart = Restart.IN_PLACE
    # The directories of LoRA adapters by the names that requests use.
    adapters: Mapping[str, str] = field(default_factory=dict)


def preset_names() -> list[str]:
    directory = resources.files("kimi_k2_serving") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in directory.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str, environ: Mapping[str, str]) -> Preset:
    if name not in preset_names():
        raise InvalidValue(f"no preset {name!r}; choose one of: {', '.join(preset_names())}", field="preset")
    text = (resources.files("kimi_k2_serving") / "presets" / f"{name}.yaml").read_text("utf-8")
    data = mapping(yaml.safe_load(text), name)
    check_keys(data, PRESET_KEYS, name)
    data = expand(data, environ, name)
    return Preset(
        name=name,
        description=data["description"],
        evidence=data["evidence"],
        hardware=data["hardware"],
        checkpoint=data.get("checkpoint"),
        grammar=data["grammar"],
        grace_seconds=float(data["grace_seconds"]),
        start_timeout_seconds=float(data["start_timeout_seconds"]),
        stall_seconds=float(data["stall_seconds"]),
        silent_seconds=float(data["silent_seconds"]),
        slow_reader_seconds=float(data["slow_reader_seconds"]),
        admission=mapping(data["admission"], f"{name}.admission"),
        server_args=data["engine"],
        environment=data["environment"],
    )


def load_engine_config(path: Path, environ: Mapping[str, str]) -> EngineConfig:
    """Read an engine.yaml and the preset that it names."""
    data = mapping(_parsed(path), "engine.yaml")
    check_keys(data, ENGINE_KEYS, "engine.yaml")
    data = expand(data, environ, "engine.yaml")
    if not data.get("checkpoint"):
        raise MissingField("set it to the checkpoint's directory", field="engine.yaml.checkpoint")
    for key in ("checkpoint", "preset"):
        if not isinstance(data.get(key) or "", str):
            raise InvalidType("must be text", field=f"engine.yaml.{key}")
    preset = load_preset(data.get("preset") or CPU_PRESET, environ)
    flags = {"parse_special": False, "strict_template": True, "deterministic": False}
    for key, default in flags.items():
        flags[key] = data.get(key, default)
        if not isinstance(flags[key], bool):
            raise InvalidType("must be true or false", field=f"engine.yaml.{key}")
    own = mapping(data.get("engine") or {}, "engine.yaml.engine")
    admission = {**preset.admission, **mapping(data.get("admission") or {}, "engine.yaml.admission")}
    server_args = (
        deterministic_args(preset.server_args, own) if flags["deterministic"] else {**preset.server_args, **own}
    )
    return EngineConfig(
        Path(data["checkpoint"]),
        preset,
        flags["parse_special"],
        server_args,
        read_capacity(admission),
        flags["strict_template"],
        read_restart(data.get("restart", Restart.IN_PLACE)),
        read_adapters(data.get("adapters") or {}, server_args),
    )


def deterministic_args(preset: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which the same seed gives the same answer. The attention backend becomes triton if the
    preset's can't compute deterministically, and if the preset names none: SGLang's own choice can't on Blackwell.
    Raises InvalidValue.
    """
    together = {**preset, **own}
    if together.get("device") == "cpu":
        raise InvalidValue("needs a GPU: SGLang has no such kernels for a CPU; remove it", field=DETERMINISTIC)
    if own.get("attention_backend", DETERMINISTIC_BACKENDS[0]) not in DETERMINISTIC_BACKENDS:
        raise InvalidValue(
            f"deterministic needs one of {', '.join(DETERMINISTIC_BACKENDS)}; choose one, or leave it out",
            field="engine.yaml.engine.attention_backend",
        )
    if together.get("attention_backend") not in DETERMINISTIC_BACKENDS:
        together["attention_backend"] = DETERMINISTIC_BACKENDS[0]
    return {**together, "enable_deterministic_inference": True}


def _parsed(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidValue(f"cannot be read: {error.strerror}", field="engine.yaml") from None
    except UnicodeDecodeError:
        raise InvalidValue("must be UTF-8", field="engine.yaml") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        raise InvalidValue(f"is not YAML{f' in line {mark.line + 1}' if mark else ''}", field="engine.yaml") from None


def engine_of_preset(checkpoint: Path, preset: str, environ: Mapping[str, str]) -> EngineConfig:
    """The configuration of an engine.yaml that has only these two keys."""
    found = load_preset(preset, environ)
    return EngineConfig(checkpoint, found, False, found.server_args, read_capacity(found.admission))


def read_capacity(given: Mapping[str, Any]) -> Capacity:
    check_keys(given, ADMISSION_KEYS, "admission")
    for key in ADMISSION_KEYS:
        minimum = 0 if key == "queue" else 1
        if type(given.get(key)) is not int or given[key] < minimum:
            raise InvalidValue(f"must be a whole number, at least {minimum}", field=f"admission.{key}")
    return Capacity(given["requests"], given["prompt_tokens"], given["queue"], float(given["queue_seconds"]))


def read_restart(given: object) -> Restart:
    try:
        return Restart(str(given))
    except ValueError:
        raise InvalidValue(f"must be one of: {', '.join(Restart)}", field="restart") from None


def mapping(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InvalidType("must be a mapping", field=where)
    return data


def check_keys(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            raise UnknownField(f"unknown key; the known ones: {', '.join(known)}", field=f"{where}.{key}")


def expand(value: Any, environ: Mapping[str, str], where: str) -> Any:
    """`value` with every `${NAME}` in its strings replaced. Raises MissingField for an unset name without a default."""
    match value:
        case str():
            return expand_text(value, environ, where)
        case dict():
            return {key: expand(each, environ, f"{where}.{key}") for key, each in value.items()}
        case list():
            return [expand(each, environ, f"{where}[{number}]") for number, each in enumerate(value)]
        case _:
            return value


def expand_text(text: str, environ: Mapping[str, str], where: str) -> str:
    pieces = []
    rest = text
    while (start := rest.find("${")) >= 0:
        end = rest.find("}", start)
        if end < 0:
            raise InvalidValue("`${` has no closing `}`; add it", field=where)
        name, has_default, default = rest[start + 2 : end].partition(":-")
        value = environ.get(name) or (default if has_default else None)
        if value is None:
            raise MissingField(f"set the environment variable {name}, which this value uses", field=where)
        pieces += [rest[:start], value]
        rest = rest[end + 1 :]
    return "".join([*pieces, rest])
