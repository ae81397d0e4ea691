"""`kimi-k2 bench`: runs aiperf, guidellm or perf_analyzer, whichever is installed, and shows the exact command.

It measures nothing itself. `kimi-k2 bench compare A B` prints two runs of one program side by side.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.errors import InvalidValue, Unavailable

OUTPUT = Path("kimi-k2-bench")
TOOLS = ("aiperf", "guidellm", "perf_analyzer")


@dataclass(frozen=True, slots=True)
class BenchLoad:
    """`inputs` and `outputs` are tokens in each request and answer."""

    url: str
    model: str
    concurrency: int
    requests: int
    inputs: int
    outputs: int
    tokenizer: str | None
    folder: Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  kimi-k2 bench http://127.0.0.1:9000 --concurrency 16 --tokenizer ./tokenizer\n"
        "  kimi-k2 bench 127.0.0.1:8001 --tool perf_analyzer       Triton's gRPC\n"
        "  kimi-k2 bench http://127.0.0.1:9000 --print             the command, without running it\n"
        "  kimi-k2 bench compare before/ after/"
    )
    parser.add_argument("target", metavar="URL|compare", help="the endpoint, or `compare A B`")
    parser.add_argument("folders", metavar="A B", nargs="*", type=Path, help="two folders of runs, for compare")
    parser.add_argument("--tool", choices=TOOLS, help="default: the first of these that is installed")
    parser.add_argument("--model", default="kimi_k2", help="the model's id (default: %(default)s)")
    parser.add_argument("--concurrency", metavar="N", type=int, default=16, help="requests at a time (16)")
    parser.add_argument("--requests", metavar="N", type=int, default=64, help="requests in all (64)")
    parser.add_argument("--inputs", metavar="N", type=int, default=512, help="tokens of a prompt (512)")
    parser.add_argument("--outputs", metavar="N", type=int, default=128, help="tokens of an answer (128)")
    parser.add_argument("--tokenizer", metavar="DIR", help="from `kimi-k2 tokenizer --export DIR` (aiperf, guidellm)")
    parser.add_argument("--output", metavar="DIR", type=Path, default=OUTPUT, help="where results go (%(default)s)")
    parser.add_argument("--print", dest="only_print", action="store_true", help="print the command and run nothing")
    parser.add_argument("--json", action="store_true", help="figures of compare as JSON")


def run(args: argparse.Namespace) -> int:
    if args.target == "compare":
        return compare(args.folders, as_json=args.json)
    tool = args.tool or installed_tool(any_will_do=args.only_print)
    load = BenchLoad(
        args.target, args.model, args.concurrency, args.requests, args.inputs, args.outputs, args.tokenizer, args.output
    )
    command = command_of(tool, load)
    print(shlex.join(command), file=sys.stdout if args.only_print else sys.stderr, flush=True)
    if args.only_print:
        return 0
    if shutil.which(tool) is None:
        raise Unavailable(
            f"{tool} is not installed: pip install {tool.replace('_', '-')}, in an environment of its own"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    if tool == "perf_analyzer":
        write_inputs(load)
    return subprocess.run(command).returncode


def installed_tool(*, any_will_do: bool) -> str:
    found = next((tool for tool in TOOLS if shutil.which(tool)), TOOLS[0] if any_will_do else None)
    if found is None:
        raise Unavailable(f"none of {', '.join(TOOLS)} is installed; pip install aiperf, in an environment of its own")
    return found


def command_of(tool: str, load: BenchLoad) -> list[str]:
    match tool:
        case "aiperf":
            tokenizer = ["--tokenizer", load.tokenizer] if load.tokenizer else []
            return [
                *(
                    "aiperf",
                    "profile",
                    "--model",
                    load.model,
                    "--url",
                    load.url,
                    "--endpoint-type",
                    "chat",
                    "--streaming",
                ),
                *("--concurrency", str(load.concurrency), "--request-count", str(load.requests)),
                *("--isl", str(load.inputs), "--osl", str(load.outputs), "--extra-inputs", "ignore_eos:true"),
                *(*tokenizer, "--use-server-token-count", "--output-artifact-dir", str(load.folder)),
            ]
        case "guidellm":
            data = f"prompt_tokens={load.inputs},output_tokens={load.outputs}"
            tokenizer = ["--processor", load.tokenizer] if load.tokenizer else []
            return [
                *("guidellm", "benchmark", "--target", load.url, "--model", load.model, "--data", data),
                *("--rate-type", "concurrent", "--rate", str(load.concurrency), "--max-requests", str(load.requests)),
                *(*tokenizer, "--output-path", str(load.folder / "guidellm.json")),
            ]
        case _:
            return [
                *("perf_analyzer", "-m", load.model, "-i", "grpc", "--streaming", "--async", "-u", _address(load.url)),
                *("--input-data", str(load.folder / "input.json"), "--concurrency-range", str(load.concurrency)),
                *("--request-count", str(load.requests)),
                *("--profile-export-file", str(load.folder / "perf_analyzer.json")),
            ]


def _address(url: str) -> str:
    return url.partition("://")[2] or url


def write_inputs(load: BenchLoad) -> None:
    """perf_analyzer's input: a prompt of about as many tokens as words, and an answer of a fixed length."""
    words = ("The quick brown fox jumps over the lazy dog. " * (load.inputs // 9 + 1)).split()[: load.inputs]
    row = {"text_input": [" ".join(words)], "max_tokens": [load.outputs], "ignore_eos": [True], "stream": [True]}
    (load.folder / "input.json").write_text(json.dumps({"data": [row]}), encoding="utf-8")


def compare(folders: list[Path], *, as_json: bool) -> int:
    if len(folders) != 2:
        raise InvalidValue("give two folders: kimi-k2 bench compare A B", field="compare")
    before, after = map(figures_of, folders)
    rows = [
        {"figure": name, "before": before[name], "after": after[name], "change": _change(before[name], after[name])}
        for name in before
        if name in after
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['figure']:<44} {row['before']:>12.4g} {row['after']:>12.4g} {row['change']:>+8.1%}")
    return 0


def _change(before: float, after: float) -> float:
    return (after - before) / abs(before) if before else 0.0


def figures_of(folder: Path) -> dict[str, float]:
    """All numbers of the folder's JSON summaries, by their path. Raises InvalidValue if there are none."""
    found: dict[str, float] = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name in ("input.json", "inputs.json"):
            continue
        try:
            _numbers(json.loads(path.read_text(encoding="utf-8")), path.stem, found)
        except (OSError, ValueError):
            continue
    if not found:
        raise InvalidValue(f"{folder} has no results of a benchmark", field="compare")
    return found


def _numbers(value: Any, name: str, found: dict[str, float]) -> None:
    """Numbers in objects; lists are single requests, which are not compared."""
    if isinstance(value, dict):
        for key, each in value.items():
            _numbers(each, f"{name}.{key}", found)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found[name] = float(value)
