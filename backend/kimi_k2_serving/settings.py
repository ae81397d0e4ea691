"""What the environment says, read in one place and nowhere else.

The launcher writes these variables for the Triton process; someone who starts `tritonserver` by hand sets
KIMI_K2_CHECKPOINT and may set the others. Unknown names are ignored, and an empty value counts as unset.

    KIMI_K2_CHECKPOINT   directory of the model's checkpoint
    KIMI_K2_PRESET       name of an engine preset (presets/NAME.yaml); unset: the engine chooses
    KIMI_K2_RUNTIME_DIR  directory (0700) for unix sockets, removed by its maker; unset: the backend makes its own
    KIMI_K2_WARMUP       0: the engine is reported as started before it has compiled what requests need
    KIMI_K2_DIST_INIT_ADDR
                         host and port of rank 0 for an engine over several nodes; presets refer to it
    KIMI_K2_RESTART      pod: a death of the engine ends the server (engine.yaml's restart); unset: in_place
    KIMI_K2_TRACE_ENDPOINT
                         host and port of an OTLP collector (gRPC) for traces; unset: no traces
    KIMI_K2_LOG_FORMAT   json: every process writes one JSON object a line; text or unset: text
    KIMI_K2_CACHE        directory for derived files such as tokenizer.json; unset: kimi-k2 in the user's cache
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.core.errors import InvalidValue

CHECKPOINT = "KIMI_K2_CHECKPOINT"
PRESET = "KIMI_K2_PRESET"
RUNTIME_DIR = "KIMI_K2_RUNTIME_DIR"
CACHE = "KIMI_K2_CACHE"
TRACE_ENDPOINT = "KIMI_K2_TRACE_ENDPOINT"
LOG_FORMAT = "KIMI_K2_LOG_FORMAT"
WARM_UP = "KIMI_K2_WARMUP"


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths are as given, not resolved and not checked: the code that uses one reports what is wrong with it."""

    checkpoint: Path | None
    preset: str | None
    runtime_dir: Path | None
    cache: Path
    warm_up: bool = True
    trace_endpoint: str = ""
    json_logs: bool = False

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in `environ`, by default those of this process."""
        variables = os.environ if environ is None else environ

        def path(name: str) -> Path | None:
            value = variables.get(name)
            return Path(value) if value else None

        home = path("HOME") or Path("/tmp")
        return cls(
            checkpoint=path(CHECKPOINT),
            preset=variables.get(PRESET) or None,
            runtime_dir=path(RUNTIME_DIR),
            cache=path(CACHE) or (path("XDG_CACHE_HOME") or home / ".cache") / "kimi-k2",
            warm_up=variables.get(WARM_UP) != "0",
            trace_endpoint=variables.get(TRACE_ENDPOINT) or "",
            json_logs=_one_of(LOG_FORMAT, variables.get(LOG_FORMAT) or "text", ("text", "json")) == "json",
        )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InvalidValue(f"must be {' or '.join(known)}, got {value!r}", field=name)
    return value


def wants_colour(environ: Mapping[str, str] | None = None) -> bool:
    """Whether a terminal may be written to in colour: NO_COLOR is not set, and it is not a dumb one."""
    variables = os.environ if environ is None else environ
    return not variables.get("NO_COLOR") and variables.get("TERM") != "dumb"


def inherited() -> dict[str, str]:
    """A copy of this process's environment, to build a child's from."""
    return dict(os.environ)


def export(name: str, value: str) -> None:
    """Set a variable of this process, for a library that takes it no other way and for children, which inherit it."""
    os.environ[name] = value


def runtime_base(environ: Mapping[str, str] | None = None) -> Path:
    """Where runtime directories go: XDG_RUNTIME_DIR if it is a directory, else /tmp."""
    given = (os.environ if environ is None else environ).get("XDG_RUNTIME_DIR")
    return Path(given) if given and Path(given).is_dir() else Path("/tmp")


def runtime_directory(server: int, settings: Settings) -> Path:
    """Where one server's sockets are: as set, or a name that every model under the same Triton process can derive."""
    return settings.runtime_dir or runtime_base() / f"kimi-k2-{server}"
