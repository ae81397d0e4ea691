"""`kimi-k2 bench`: runs the installed one of aiperf, guidellm and perf_analyzer, and shows the exact command.

It measures nothing itself. It writes the program's figures to `bench.json` and draws them in `bench.svg`. `kimi-k2
bench compare A B` compares two runs of one program.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from kimi_k2_cli.bench import comparing, tools
from kimi_k2_cli.bench.chart import draw
from kimi_k2_cli.bench.comparing import FILE, read_run
from kimi_k2_cli.bench.figures import BenchFigures, BenchLoad, BenchRun
from kimi_k2_cli.bench.results import read_result
from kimi_k2_cli.bench.tools import BenchTool
from kimi_k2_cli.endpoint import add_key_option, read_key
from kimi_k2_cli.given_url import checked_url
from kimi_k2_serving.core.errors import InvalidValue, MissingField

OUTPUT = Path("kimi-k2-bench")
CHART = "bench.svg"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  kimi-k2 bench http://127.0.0.1:9000 --concurrency 16 --tokenizer ./tokenizer --output before\n"
        "  kimi-k2 bench 127.0.0.1:8001 --tool perf_analyzer       Triton's gRPC\n"
        "  kimi-k2 bench http://127.0.0.1:9000 --print             the command, without running it\n"
        "  kimi-k2 bench compare before/ after/\n"
        "Exit code 1: a request failed, or the program did; with compare: a rate, a median or the failures got worse."
    )
    parser.add_argument("target", metavar="URL|compare", nargs="?", help="the endpoint, or `compare A B`")
    parser.add_argument("folders", metavar="A B", nargs="*", type=Path, help="two folders of runs, for compare")
    parser.add_argument(
        "--tool", choices=list(map(str, BenchTool)), help="default: the first of these that is installed"
    )
    parser.add_argument("--model", default="kimi_k2", help="the model's id (default: %(default)s)")
    parser.add_argument("--concurrency", metavar="N", type=int, default=16, help="requests at a time (16)")
    parser.add_argument("--requests", metavar="N", type=int, default=64, help="requests in all (64)")
    parser.add_argument("--inputs", metavar="N", type=int, default=512, help="tokens of a prompt (512)")
    parser.add_argument("--outputs", metavar="N", type=int, default=128, help="tokens of an answer (128)")
    parser.add_argument("--tokenizer", metavar="DIR", help="from `kimi-k2 tokenizer --export DIR` (aiperf, guidellm)")
    add_key_option(parser)
    parser.add_argument("--output", metavar="DIR", type=Path, default=OUTPUT, help="where results go (%(default)s)")
    parser.add_argument("--print", dest="only_print", action="store_true", help="print the command and run nothing")
    parser.add_argument("--json", action="store_true", help="print bench.json, or the rows of compare as JSON")
    parser.add_argument(
        "--tolerance", metavar="PERCENT", type=float, default=10.0, help="compare: what is no change (10)"
    )
    parser.add_argument("--chart", metavar="FILE.svg", type=Path, help="compare: draw both runs into this file")


def run(args: argparse.Namespace) -> int:
    if args.target == "compare":
        return compare(args)
    if not args.target:
        raise MissingField("name the endpoint, as in kimi-k2 bench http://127.0.0.1:9000", field="URL")
    if args.folders:
        raise InvalidValue("folders belong to `kimi-k2 bench compare A B`", field="bench")
    checked_url(args.target, ("http", "https", "grpc"), "URL")
    key = read_key(args.api_key_file)
    for name in ("concurrency", "requests", "inputs", "outputs"):
        if getattr(args, name) < 1:
            raise InvalidValue("must be at least 1", field=f"--{name}")
    tool = BenchTool(args.tool) if args.tool else tools.installed_tool(any_will_do=args.only_print)
    load = BenchLoad(
        args.target, args.model, args.concurrency, args.requests, args.inputs, args.outputs, args.tokenizer
    )
    # This program writes the key to no file and no screen, but the other one gets it as an argument.
    public = tools.command_of(tool, load, args.output, None if key is None else "KEY")
    command = public if key is None else tools.command_of(tool, load, args.output, key)
    shown = shlex.join(public)
    print(shown, file=sys.stdout if args.only_print else sys.stderr, flush=True)
    if args.only_print:
        return 0
    tools.require(tool)
    tools.prepare(tool, load, args.output)
    # With --json, only the document is on stdout.
    code = subprocess.run(command, stdout=sys.stderr if args.json else None).returncode
    return keep(tool, shown, code, load, args)


def keep(tool: BenchTool, command: str, code: int, load: BenchLoad, args: argparse.Namespace) -> int:
    """Write bench.json and bench.svg. Returns the exit code of the command."""
    problem, figures = None, None
    try:
        figures = read_result(tool, args.output)
    except InvalidValue as error:
        problem = error
    done = BenchRun(tool, command, code, load, figures)
    text = json.dumps(done.as_json(), indent=2)
    (args.output / FILE).write_text(f"{text}\n", encoding="utf-8")
    (args.output / CHART).write_text(draw([("", done)]), encoding="utf-8")
    if args.json:
        print(text)
    if code:
        hint = "" if load.tokenizer or tool is BenchTool.PERF_ANALYZER else "; it may need --tokenizer DIR"
        print(f"bench: {tool} ended with exit code {code}{hint}", file=sys.stderr)
        return code
    if problem:
        raise problem
    if figures and not args.json:
        print(summary(figures, args.output))
    return 1 if figures is None or figures.failed or not figures.requests else 0


def summary(figures: BenchFigures, folder: Path) -> str:
    tokens = figures.output_tokens_per_second
    lines = [
        f"{figures.requests} requests, {figures.failed} failed, {figures.requests_per_second:.3g} a second"
        + ("" if tokens is None else f", {tokens:.4g} tokens/s")
    ]
    lines += [
        f"{name:<24} p50 {spread.p50:>9,.4g} ms   p90 {spread.p90:>9,.4g} ms   p99 {spread.p99:>9,.4g} ms"
        for name, spread in figures.spreads
        if spread
    ]
    return "\n".join([*lines, f"in {folder / FILE} and {folder / CHART}"])


def compare(args: argparse.Namespace) -> int:
    if len(args.folders) != 2:
        raise InvalidValue("give two folders: kimi-k2 bench compare A B", field="compare")
    if not args.tolerance >= 0:
        raise InvalidValue("must be 0 or more", field="--tolerance")
    before, after = map(read_run, args.folders)
    differing = comparing.differences(before, after)
    assert before.figures is not None
    assert after.figures is not None
    rows = comparing.compared(before.figures, after.figures, args.tolerance / 100)
    worse = [row.figure for row in rows if row.verdict == "worse"]
    if args.chart:
        labelled = [(f"{folder}: ", each) for folder, each in zip(args.folders, (before, after), strict=True)]
        args.chart.write_text(draw(labelled), encoding="utf-8")
    if args.json:
        document = {"tool": before.tool, "loads_differ": differing, "worse": worse}
        print(json.dumps({**document, "figures": [asdict(row) for row in rows]}, indent=2))
    else:
        print(comparing.table(rows))
        for line in differing:
            print(f"the loads differ in {line}")
    return 1 if worse else 0
