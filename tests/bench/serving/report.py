"""The result as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.bench.serving.arms import ARMS

LABELS = {arm.name: arm.label for arm in ARMS}
COLUMNS = (
    ("tok/s", "tokens_per_second"),
    ("TTFT p50", "ttft_p50_ms"),
    ("p99", "ttft_p99_ms"),
    ("ITL p50", "itl_p50_ms"),
    ("p99", "itl_p99_ms"),
    ("tok/event", "tokens_per_event"),
    ("CPU us/tok", "cpu_us_per_token_total"),
    ("client", "client_cpu_us_per_token"),
    ("others", "other_work_cores"),
)


def lines(document: dict[str, Any]) -> Iterator[str]:
    machine = document["machine"]
    yield f"commit {machine['commit']}, load average {machine['load_before']} before and {machine['load_after']} after"
    if "scripted" in document:
        yield from _scripted(document["scripted"])
        return
    for name, part in document["workloads"].items():
        yield ""
        yield f"{name}: times in ms, `others` in cores used by other work"
        yield from _arms(part)
        yield from _ratios(part)
        yield from _processes(part)
    yield from _memory(document["memory"])


def _arms(part: dict[str, Any]) -> Iterator[str]:
    yield f"{'':26}{'at once':>8}" + "".join(f"{title:>11}" for title, _ in COLUMNS)
    for arm, levels in part["arms"].items():
        for level, row in levels.items():
            cells = "".join(f"{row[key]:11g}" for _, key in COLUMNS)
            yield f"{LABELS[arm]:26}{level[1:]:>8}{cells}"


def _ratios(part: dict[str, Any]) -> Iterator[str]:
    yield ""
    for name, levels in part["ratios"].items():
        cells = [
            f"{level} {value:.3f} ({'..'.join(map(str, part['spread'][name][level]))})"
            for level, value in levels.items()
        ]
        cpu = ", ".join(f"{level} {value:.3f}" for level, value in part["cpu_ratios"][name].items())
        yield f"{name:28} " + ", ".join(cells) + f"; per CPU second {cpu}"


def _processes(part: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "CPU microseconds per token"
    for arm, processes in part["cpu_us_per_token"].items():
        for level in part["arms"][arm]:
            cells = [f"{name} {levels[level]:g}" for name, levels in processes.items() if level in levels]
            yield f"{LABELS[arm]:26}{level[1:]:>4}  " + ", ".join(cells)


def _memory(memory: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "memory: PSS idle, MiB; growth under load, KiB a stream"
    for arm, row in memory.items():
        growth = row["growth_pss_kib_per_stream"]
        cells = [f"{name} {size:g} +{growth.get(name, 0):g}" for name, size in row["idle_pss_mib"].items()]
        yield f"{LABELS[arm]:26}  " + ", ".join(cells)
        if "idle_connection_pss_kib" in row:
            yield f"{'':26}  KiB an idle connection: {row['idle_connection_pss_kib']}"


def _scripted(arms: dict[str, Any]) -> Iterator[str]:
    for arm, levels in arms.items():
        yield ""
        yield LABELS[arm]
        for row in levels.values():
            kept = "kept" if row["kept"] else "NOT kept"
            yield (
                f"  {row['streams']} streams, {row['offered_tokens_per_second']:g} tokens/s offered: {kept}; "
                f"a stream's rate p50 {row['stream_rate_p50']:g}, p5 {row['stream_rate_p5']:g}; "
                f"first token p50 {row['added_ttft_p50_ms']:g}, p99 {row['added_ttft_p99_ms']:g} ms; "
                f"tokens per response {row['tokens_per_response_p50']:.2f}"
            )
            cells = ", ".join(f"{name} {cost:g}" for name, cost in row["cpu_us_per_token"].items())
            client = row["client_cpu_us_per_token"]
            yield f"    CPU us/token {row['cpu_us_per_token_total']:g}: {cells}; client {client:g}"
