"""What was measured, as figures: an arm's rounds at one concurrency, ratios of arms, and the whole document."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.serving.arms import RATIOS
from tests.bench.serving.load import Outcome
from tests.bench.serving.processes import Spent
from tests.chaos.row import quantile


@dataclass(frozen=True, slots=True)
class Round:
    """`others`: the average number of cores that neither the server nor the client had."""

    outcome: Outcome
    spent: Mapping[str, Spent]
    others: float

    @property
    def rate(self) -> float:
        return self.outcome.tokens / self.outcome.seconds


Rounds = Sequence[Round]


def figures(rounds: Rounds) -> dict[str, Any]:
    answers = [answer for each in rounds for answer in each.outcome.answers]
    rates = [each.rate for each in rounds]
    gaps = [gap for answer in answers for gap in answer.gaps]
    tokens = sum(answer.tokens for answer in answers)
    cpu = cpu_per_token(rounds)
    return {
        "requests": len(answers),
        "prompt_tokens": round(statistics.mean(answer.prompt for answer in answers), 1),
        "tokens_per_second": round(statistics.median(rates), 1),
        "tokens_per_second_spread": [round(min(rates), 1), round(max(rates), 1)],
        "ttft_p50_ms": milliseconds((answer.first for answer in answers), 0.5),
        "ttft_p99_ms": milliseconds((answer.first for answer in answers), 0.99),
        "itl_p50_ms": milliseconds(gaps, 0.5),
        "itl_p99_ms": milliseconds(gaps, 0.99),
        "tokens_per_event": round(tokens / sum(answer.events for answer in answers), 3),
        "cpu_us_per_token": cpu,
        "cpu_us_per_token_total": round(sum(cpu.values()), 1),
        "client_cpu_us_per_token": round(1e6 * sum(each.outcome.processor for each in rounds) / tokens, 1),
        "switches_per_token": per_token(rounds, tokens, "switches"),
        "reads_per_token": per_token(rounds, tokens, "reads"),
        "writes_per_token": per_token(rounds, tokens, "writes"),
        "other_work_cores": round(statistics.median(each.others for each in rounds), 2),
    }


def cpu_per_token(rounds: Rounds) -> dict[str, float]:
    """Microseconds by process, the largest first."""
    tokens = sum(each.outcome.tokens for each in rounds)
    total: dict[str, float] = {}
    for each in rounds:
        for name, spent in each.spent.items():
            total[name] = total.get(name, 0.0) + spent.seconds
    ordered = sorted(total.items(), key=lambda item: -item[1])
    return {name: round(1e6 * seconds / tokens, 1) for name, seconds in ordered if 1e6 * seconds / tokens >= 0.05}


def per_token(rounds: Rounds, tokens: int, what: str) -> dict[str, float]:
    total: dict[str, int] = {}
    for each in rounds:
        for name, spent in each.spent.items():
            total[name] = total.get(name, 0) + getattr(spent, what)
    return {name: round(count / tokens, 3) for name, count in total.items() if count}


def milliseconds(seconds: Iterable[float], share: float) -> float:
    return round(1000 * quantile(seconds, share), 2)


def ratios(rounds: Mapping[str, Rounds]) -> dict[str, tuple[float, list[float]]]:
    """By name: the median of the ratios of tokens/s, round by round, and their range."""
    found = {}
    for name, (above, below) in RATIOS.items():
        if above in rounds and below in rounds:
            each = [one.rate / other.rate for one, other in zip(rounds[above], rounds[below], strict=True)]
            found[name] = (round(statistics.median(each), 3), [round(min(each), 3), round(max(each), 3)])
    return found


def cpu_ratios(rounds: Mapping[str, Rounds]) -> dict[str, float]:
    """The same ratios of tokens per CPU second of the server. Other work on the machine disturbs them less."""
    total = {arm: sum(cpu_per_token(each).values()) for arm, each in rounds.items()}
    pairs = {name: pair for name, pair in RATIOS.items() if set(pair) <= set(total)}
    return {name: round(total[below] / total[above], 3) for name, (above, below) in pairs.items() if total[above]}


def document(measured: Mapping[int, Mapping[str, Rounds]]) -> dict[str, Any]:
    """One workload's part of the result; `measured` holds the rounds by concurrency and arm. Levels are `c16`."""
    result: dict[str, Any] = {"ratios": {}, "spread": {}, "cpu_ratios": {}, "cpu_us_per_token": {}, "arms": {}}
    for concurrency, rounds in measured.items():
        level = f"c{concurrency}"
        for name, (median, spread) in ratios(rounds).items():
            result["ratios"].setdefault(name, {})[level] = median
            result["spread"].setdefault(name, {})[level] = spread
        for name, ratio in cpu_ratios(rounds).items():
            result["cpu_ratios"].setdefault(name, {})[level] = ratio
        for arm, each in rounds.items():
            row = figures(each)
            result["arms"].setdefault(arm, {})[level] = row
            for process, cost in row["cpu_us_per_token"].items():
                result["cpu_us_per_token"].setdefault(arm, {}).setdefault(process, {})[level] = cost
    return result
