"""Readiness checks over HTTP, the phase of a server that is still starting, and the READY block."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.engine.stages import StartStage, latest
from kimi_k2_serving.launch.cli import Options
from kimi_k2_serving.logs import text_of

MODEL = "kimi_k2"
_ENGINE = "kimi_k2_engine"
# The usual times of the demo, on two cores with nothing else running.
_USUAL = {
    StartStage.IMPORTING: "usually 12 s",
    StartStage.WEIGHTS: "usually 1 s",
    StartStage.WARM_UP: "usually 1 s",
}
_LOADED = "successfully loaded '"
_LOADING = "loading: "


def reachable(host: str) -> str:
    """The address at which this machine reaches a server bound to `host`."""
    return "127.0.0.1" if host == "0.0.0.0" else host


def answers(host: str, port: int, path: str) -> bool:
    """Whether a GET of `path` returns 200. The timeout is 2 s."""
    connection = http.client.HTTPConnection(reachable(host), port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_ready(host: str, port: int, model: str) -> bool:
    return answers(host, port, "/v2/health/ready") and answers(host, port, f"/v2/models/{model}/ready")


def phase(log: Path, *, demo: bool = False) -> str:
    """Say what Triton is doing, judged by its log: the models that have begun to load and have not finished, and the
    stage of the engine. For the demo it adds the usual time of the stage.
    """
    try:
        lines = [text_of(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return "starting Triton"
    begun = [line.partition(_LOADING)[2].split(":")[0] for line in lines if _LOADING in line]
    done = {line.partition(_LOADED)[2].split("'")[0] for line in lines if _LOADED in line}
    pending = [name for name in begun if name not in done]
    if _ENGINE in pending and (stage := latest(lines)) is not None:
        place = f"{[*StartStage].index(stage) + 1} of {len(StartStage)}"
        return f"{_ENGINE}, stage {place}: {stage.value}{f' ({_USUAL[stage]})' if demo else ''}"
    if pending:
        return f"loading {', '.join(pending)}"
    return "Triton is opening its ports" if begun else "starting Triton"


@dataclass(frozen=True, slots=True)
class Ready:
    """The content of the READY block. `context` is in tokens, None if not stated; `seconds` is the start's duration."""

    options: Options
    checkpoint: Path
    context: int | None
    engine: str
    log: Path
    seconds: float

    def curl(self) -> str:
        where = reachable(self.options.triton_host)
        body = json.dumps({"text_input": "Hello", "max_tokens": 32, "stream": True})
        return f"curl -sN http://{where}:{self.options.http_port}/v2/models/{MODEL}/generate_stream -d '{body}'"

    def document(self) -> dict[str, object]:
        return {
            "ready": True,
            "model": MODEL,
            "checkpoint": str(self.checkpoint),
            "context_length": self.context,
            "engine": self.engine,
            "host": self.options.triton_host,
            "http_port": self.options.http_port,
            "grpc_port": self.options.grpc_port,
            "metrics_port": self.options.metrics_port,
            "frontend_host": self.options.host if self.options.frontend else None,
            "frontend_port": self.options.frontend_port if self.options.frontend else None,
            "log": str(self.log),
            "seconds": round(self.seconds, 1),
        }

    def _apis(self) -> list[tuple[str, str]]:
        if not self.options.frontend:
            return []
        base = f"http://{reachable(self.options.host)}:{self.options.frontend_port}"
        page = self.options.loopback if self.options.page is None else self.options.page
        shown = [("page", f"{base}/")] if page else []
        return [*shown, ("openai", f"{base}/v1, model kimi_k2"), ("anthropic", base)]

    def text(self) -> str:
        options = self.options
        triton = f"HTTP {options.http_port}, gRPC {options.grpc_port}, metrics {options.metrics_port}"
        rows = (
            ("model", f"{MODEL} ({self.checkpoint})"),
            ("context", f"{self.context:,} tokens" if self.context else "not stated by the checkpoint"),
            ("engine", self.engine),
            ("ports", f"{triton} at {options.triton_host}"),
            *self._apis(),
            ("log", str(self.log)),
            ("try", self.curl()),
        )
        body = "\n".join(f"  {name:<9} {value}" for name, value in rows)
        return f"READY in {self.seconds:.1f} s\n{body}\n  Ctrl-C stops it."
