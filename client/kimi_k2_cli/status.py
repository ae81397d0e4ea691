"""`kimi-k2 status`: shows whether a server is up, its models, its counts of requests, and the engine's load."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from kimi_k2_cli import server
from kimi_k2_client import Client, KimiError
from kimi_k2_serving.launch.running import RunningServer

# Triton's metrics -> the name that is shown
LOAD = {
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "queued",
    "sglang:token_usage": "kv_usage",
    "sglang_backend:engine_restarts": "engine_restarts",
}
# A counter per outcome: completed, aborted, probe or an error's code. Triton itself counts a cancelled stream as a
# success.
OUTCOMES, PROBE = "sglang_backend:requests", "probe"


def configure(parser: argparse.ArgumentParser) -> None:
    server.add_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """0 if the model takes requests, else 1."""
    running = server.here()
    url = server.server_url(args.url, grpc=args.grpc, running=running)
    with Client(url, timeout=10) as client:
        found = examine(client, url, server.server_at(url, running))
    print(json.dumps(found, indent=2) if args.json else as_text(found))
    return 0 if found["health"]["model_ready"] else 1


def examine(client: Client, url: str, own: RunningServer | None) -> dict[str, Any]:
    """All that can be learnt about a server. Raises WrongPort."""
    health = client.health()
    found: dict[str, Any] = {"url": url, "health": asdict(health), "models": [], "stats": None}
    found |= {"load": {}, "outcomes": {}}
    if own is not None:
        found["process"] = {"pid": own.pid, "checkpoint": own.checkpoint, "demo": own.demo, "ports": list(own.ports)}
        found["load"], found["outcomes"] = read_metrics(metrics_page(own.ports[2]))
    if not health.live:
        return found
    try:
        found["models"] = [asdict(model) for model in client.models()]
        found["stats"] = asdict(client.stats()) if health.model_ready else None
    except KimiError as error:
        found["health"]["detail"] = found["health"]["detail"] or error.detail
    return found


def metrics_page(port: int) -> str:
    """Triton's metrics at a local port; "" if they can't be read."""
    import httpx

    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5, trust_env=False).text
    except httpx.HTTPError:
        return ""


def read_metrics(page: str) -> tuple[dict[str, float], dict[str, int]]:
    """The engine's state, and the number of its requests by outcome, without probes."""
    load: dict[str, float] = {}
    outcomes: dict[str, int] = {}
    for line in page.splitlines():
        name, _, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        if name in LOAD:
            load[LOAD[name]] = float(value)
        elif name == OUTCOMES:
            outcome = labels.partition('outcome="')[2].partition('"')[0]
            if outcome != PROBE:
                outcomes[outcome] = outcomes.get(outcome, 0) + int(float(value))
    return load, outcomes


def as_text(found: dict[str, Any]) -> str:
    health = found["health"]
    state = "ready" if health["model_ready"] else "not ready" if health["live"] else "down"
    lines = [f"{found['url']}: {state}{': ' + health['detail'] if health['detail'] else ''}"]
    if process := found.get("process"):
        lines.append(f"  process  {process['pid']}, {process['checkpoint']}")
    lines += [f"  model    {each['name']}: {'ready' if each['is_ready'] else 'not ready'}" for each in found["models"]]
    if stats := found["stats"]:
        counts = f"{stats['succeeded']} succeeded, {stats['failed']} failed, {stats['cancelled']} cancelled"
        lines.append(f"  requests {counts}, mean {stats['seconds']:.2f} s")
    if outcomes := found["outcomes"]:
        lines.append(f"  answers  {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")
    if load := found["load"]:
        lines.append(f"  engine   {', '.join(f'{name} {value:g}' for name, value in load.items())}")
    if not health["live"]:
        lines.append("  start one with scripts/serve, or name another with --url")
    return "\n".join(lines)
