"""aiperf, guidellm and perf_analyzer: the command of each, the input that it needs, and the file that it writes."""

from __future__ import annotations

import enum
import json
import shutil
import subprocess
from pathlib import Path

from kimi_k2_cli.bench.figures import BenchLoad
from kimi_k2_serving.core.errors import Unavailable, Unsupported

INPUT = "input.json"
HELP_SECONDS = 60


class BenchTool(enum.StrEnum):
    """The benchmark programs, in order of preference."""

    AIPERF = "aiperf"
    GUIDELLM = "guidellm"
    PERF_ANALYZER = "perf_analyzer"

    @property
    def package(self) -> str:
        """The name of its package for pip."""
        return self.value.replace("_", "-")

    @property
    def result(self) -> str:
        """The name of the file with its figures, in the output folder."""
        match self:
            case BenchTool.AIPERF:
                return "profile_export_aiperf.json"
            case BenchTool.GUIDELLM:
                return "guidellm.json"
            case BenchTool.PERF_ANALYZER:
                return "perf_analyzer.json"


def installed_tool(*, any_will_do: bool) -> BenchTool:
    """Raises Unavailable."""
    found = next((tool for tool in BenchTool if shutil.which(tool)), BenchTool.AIPERF if any_will_do else None)
    if found is None:
        raise Unavailable(
            f"none of {', '.join(BenchTool)} is installed; pip install aiperf, in an environment of its own"
        )
    return found


def require(tool: BenchTool) -> None:
    """Raises Unavailable."""
    if shutil.which(tool) is None:
        raise Unavailable(f"{tool} is not installed: pip install {tool.package}, in an environment of its own")


def command_of(tool: BenchTool, load: BenchLoad, folder: Path, key: str | None = None) -> list[str]:
    """`key`: the endpoint's API key. Raises Unsupported for perf_analyzer with a key."""
    match tool:
        case BenchTool.AIPERF:
            return _aiperf(load, folder, key)
        case BenchTool.GUIDELLM:
            return _guidellm(load, folder / tool.result, key)
        case BenchTool.PERF_ANALYZER:
            if key is not None:
                raise Unsupported("perf_analyzer measures Triton, which has no keys", field="--api-key-file")
            return _perf_analyzer(load, folder)


def _aiperf(load: BenchLoad, folder: Path, key: str | None) -> list[str]:
    tokenizer = ["--tokenizer", load.tokenizer] if load.tokenizer else []
    given = ["--api-key", key] if key else []
    return [
        *("aiperf", "profile", "--model", load.model, "--url", _root(load.url), "--endpoint-type", "chat"),
        *("--streaming", "--concurrency", str(load.concurrency), "--request-count", str(load.requests)),
        *("--isl", str(load.inputs), "--osl", str(load.outputs), "--extra-inputs", "ignore_eos:true"),
        *(*tokenizer, *given, "--use-server-token-count", "--output-artifact-dir", str(folder)),
    ]


def _guidellm(load: BenchLoad, result: Path, key: str | None) -> list[str]:
    """guidellm 0.8: each option is an object with a kind. It asks for ignore_eos itself."""
    options: dict[str, dict[str, object]] = {
        "backend": {"kind": "openai_http", "target": _root(load.url), "model": load.model},
        "profile": {"kind": "concurrent", "streams": load.concurrency},
        "constraint": {"kind": "max_requests", "count": load.requests},
        "data": {"kind": "synthetic_text", "prompt_tokens": load.inputs, "output_tokens": load.outputs},
    }
    if key:
        options["backend"]["api_key"] = key
    if load.tokenizer:
        options["tokenizer"] = {"kind": "huggingface_auto", "model": load.tokenizer}
    options["output"] = {"kind": "json", "path": str(result)}
    words = [word for name, value in options.items() for word in (f"--{name}", json.dumps(value))]
    return ["guidellm", "run", *words, "--disable-progress"]


def _perf_analyzer(load: BenchLoad, folder: Path) -> list[str]:
    return [
        *("perf_analyzer", "-m", load.model, "-i", "grpc", "--streaming", "--async", "-u", _address(load.url)),
        *("--input-data", str(folder / INPUT), "--concurrency-range", str(load.concurrency)),
        *(*_count(load.requests), "--profile-export-file", str(folder / BenchTool.PERF_ANALYZER.result)),
    ]


def _count(requests: int) -> list[str]:
    """The options for the number of requests. perf_analyzer before 2.45 only counts requests in windows: it runs three
    of them, and the first results are kept.
    """
    if _has_request_count():
        return ["--request-count", str(requests)]
    windows = ["--measurement-mode", "count_windows", "--measurement-request-count", str(requests)]
    return [*windows, "--stability-percentage", "999"]


def _has_request_count() -> bool:
    """Whether perf_analyzer has this option. If it is not installed, it counts as a new version."""
    if shutil.which(BenchTool.PERF_ANALYZER) is None:
        return True
    try:
        told = subprocess.run([BenchTool.PERF_ANALYZER, "--help"], capture_output=True, timeout=HELP_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return True
    return b"--request-count" in told.stdout + told.stderr


def _root(url: str) -> str:
    """The URL without /v1, because both programs add it."""
    return url.rstrip("/").removesuffix("/v1")


def _address(url: str) -> str:
    return url.partition("://")[2] or url


def prepare(tool: BenchTool, load: BenchLoad, folder: Path) -> None:
    """Make the folder, without an earlier result, and the input of perf_analyzer: a prompt with about as many tokens as
    words, and an answer of a fixed length.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / tool.result).unlink(missing_ok=True)
    if tool is BenchTool.PERF_ANALYZER:
        words = ("The quick brown fox jumps over the lazy dog. " * (load.inputs // 9 + 1)).split()[: load.inputs]
        row = {"text_input": [" ".join(words)], "max_tokens": [load.outputs], "ignore_eos": [True], "stream": [True]}
        (folder / INPUT).write_text(json.dumps({"data": [row]}), encoding="utf-8")
