"""`kimi-k2 verify URL`: a table of checks and a verdict on an OpenAI-compatible K2 endpoint.

Checks of the server hold for any model, even the demo. Checks of the model need one that understands its prompt.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from kimi_k2_cli import endpoint
from kimi_k2_cli.endpoint import OpenAIEndpoint
from kimi_k2_cli.verify.asking import Asker
from kimi_k2_cli.verify.checks import CHECKS, CheckStatus, Result, Verification, run_checks
from kimi_k2_cli.verify.samples import read_samples, score_samples
from kimi_k2_serving.core.errors import InvalidValue, Unavailable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  kimi-k2 verify http://127.0.0.1:9000/v1\n"
        "  kimi-k2 verify http://127.0.0.1:9000/v1 --server-only     what holds for any model\n"
        "  kimi-k2 verify https://api.example.org/v1 --api-key-file key --samples samples.jsonl --json\n"
        "Exit code 1: a check failed. A check that can't be made there is skipped, with the reason."
    )
    parser.add_argument("url", metavar="URL", help="the endpoint, before /chat/completions")
    parser.add_argument("--model", metavar="ID", help="the model's id (default: the first that the endpoint lists)")
    endpoint.add_key_option(parser)
    parser.add_argument("--server-only", action="store_true", help="leave out the checks that need an able model")
    names = ", ".join(name for name, *_ in CHECKS)
    parser.add_argument("--check", metavar="NAME", action="append", default=[], help=f"only this one: {names}")
    parser.add_argument("--samples", metavar="FILE", type=Path, help="score these requests, too (JSONL)")
    parser.add_argument(
        "--cases", metavar="N", type=int, default=0, help="score N conversations of the demo's held-out world, too"
    )
    parser.add_argument("--concurrency", metavar="N", type=int, default=4, help="requests at a time (default: 4)")
    parser.add_argument(
        "--sentences", metavar="N", type=int, default=400, help="length of the long prompt, 15 tokens each (400)"
    )
    parser.add_argument(
        "--minutes", metavar="N", type=float, default=10.0, help="after them, what is left is skipped (10)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")


def run(args: argparse.Namespace) -> int:
    samples = read_samples(args.samples) if args.samples else []
    names = chosen(args.check, server_only=args.server_only)
    begun = time.monotonic()
    key = endpoint.read_key(args.api_key_file)
    with endpoint.open_endpoint(args.url, key) as server:
        model = args.model or first_model(server)
        asker = Asker(server, model, begun + 60 * args.minutes)
        checking = Verification(asker, args.concurrency, args.sentences)
        results = run_checks(checking, _quiet if args.json else show, names)
        scores = score_samples(checking, samples) if samples else []
        if args.cases > 0:
            scores += world_scores(server.at("/v1"), model, key, args)
    if not args.json:
        for score in scores:
            show(score)
    return report([*results, *scores], model, time.monotonic() - begun, as_json=args.json)


def world_scores(url: str, model: str, key: str | None, args: argparse.Namespace) -> list[Result]:
    from kimi_k2_cli.verify.world import score_world
    from kimi_k2_serving.demo.evaluation.asking import ChatEndpoint

    return score_world(ChatEndpoint(url, model, key or ""), args.cases, args.concurrency)


def chosen(names: list[str], *, server_only: bool) -> list[str]:
    known = [name for name, *_ in CHECKS]
    for name in names:
        if name not in known:
            raise InvalidValue(f"there is no check {name!r}; one of: {', '.join(known)}", field="--check")
    return [
        name for name, group, _ in CHECKS if (not names or name in names) and (not server_only or group == "server")
    ]


def first_model(server: OpenAIEndpoint) -> str:
    """The id of the first model that the endpoint lists. Raises Unavailable."""
    try:
        response = server.http.get(server.at("/v1/models"))
        if response.status_code in (401, 403):
            raise Unavailable(f"{server.url} asks for a key: --api-key-file FILE", field="--api-key-file")
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        raise Unavailable(
            f"{server.url} lists no models; is this an OpenAI-compatible endpoint, and is it up? Or give --model ID",
            field="URL",
        ) from None


SHOWN = {CheckStatus.PASSED: "ok  ", CheckStatus.FAILED: "FAIL", CheckStatus.SKIPPED: "skip"}


def show(result: Result) -> None:
    print(f"{SHOWN[result.status]}  {result.group:<6}  {result.name:<28}  {result.detail}", flush=True)


def _quiet(_: Result) -> None:
    pass


def report(results: list[Result], model: str, seconds: float, *, as_json: bool) -> int:
    failed, skipped, passed = (
        sum(result.status is status for result in results)
        for status in (CheckStatus.FAILED, CheckStatus.SKIPPED, CheckStatus.PASSED)
    )
    document: dict[str, Any] = {
        "model": model,
        "passed": not failed and passed > 0,
        "seconds": round(seconds, 1),
        "checks": [asdict(result) for result in results],
    }
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        verdict = f"{failed} of {len(results)} checks failed" if failed else f"{passed} of {len(results)} checks passed"
        verdict += f", {skipped} skipped" if skipped else ""
        print(f"\n{model}: {verdict} in {seconds:.0f} s", file=sys.stdout)
    return 0 if document["passed"] else 1
