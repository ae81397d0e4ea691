"""`--samples FILE`: the vendor's requests, or your own, one JSON object per line.

A line is a chat request (`messages`, `tools`, ...), or `{"request": {...}}`; `finish_reason` next to it is that of the
reference answer, which the trigger F1 needs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kimi_k2_cli.given_file import read_lines
from kimi_k2_cli.verify.asking import OutOfTime
from kimi_k2_cli.verify.checks import LEAST_F1, LEAST_SCHEMA_ACCURACY, CheckStatus, Result, Verification
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidRequest, InvalidValue
from kimi_k2_serving.demo.call_scoring import schema_problems, trigger_score
from kimi_k2_serving.demo.openai_answer import BadAnswer, EndpointAnswer

LEFT_OUT = ("model", "messages", "stream", "stream_options")


def read_samples(path: Path) -> list[tuple[dict[str, Any], str]]:
    """(request, the reference's finish_reason or ""). Raises InvalidValue that names the line."""
    found: list[tuple[dict[str, Any], str]] = []
    for number, line in read_lines(path, "--samples"):
        try:
            value: Any = strict_json.loads(line, field="--samples")
            request = value.get("request", value)
            messages, tools = request["messages"], request.get("tools") or []
            if not isinstance(messages, list) or not isinstance(tools, list):
                raise TypeError
        except (InvalidRequest, KeyError, TypeError, AttributeError):
            raise InvalidValue(f"line {number} is no chat request", field="--samples") from None
        found.append((request, str(value.get("finish_reason") or "")))
    if not found:
        raise InvalidValue(f"{path} has no request", field="--samples")
    return found


def score_samples(run: Verification, samples: list[tuple[dict[str, Any], str]]) -> list[Result]:
    def one(sample: tuple[dict[str, Any], str]) -> EndpointAnswer | None:
        options = {name: value for name, value in sample[0].items() if name not in LEFT_OUT}
        try:
            return run.whole(sample[0]["messages"], **options)
        except (BadAnswer, OutOfTime):
            return None

    with ThreadPoolExecutor(run.concurrency) as pool:
        answers = list(pool.map(one, samples))
    rows = [(answer, request, reason) for answer, (request, reason) in zip(answers, samples, strict=True)]
    calling = [(answer, request) for answer, request, _ in rows if answer and answer.finish_reason == "tool_calls"]
    valid = sum(not schema_problems(answer, request.get("tools") or []) for answer, request in calling)
    failed = answers.count(None)
    results = [_accuracy(valid, len(calling), failed, len(samples))]
    if any(reason for _, reason in samples):
        pairs = [(reason == "tool_calls", answer.finish_reason == "tool_calls") for answer, _, reason in rows if answer]
        score = trigger_score(pairs)
        results.append(Result.measured("samples: trigger F1", "model", score.f1 >= LEAST_F1, f"{score.f1:.3f}"))
    return results


def _accuracy(valid: int, calling: int, failed: int, asked: int) -> Result:
    told = f"{calling} answers with calls; {failed} of {asked} requests failed"
    name = "samples: schema accuracy"
    if not calling:
        return Result(name, "server", CheckStatus.FAILED if failed else CheckStatus.SKIPPED, told)
    accuracy = valid / calling
    holds = accuracy >= LEAST_SCHEMA_ACCURACY and not failed
    return Result.measured(name, "server", holds, f"{accuracy:.3f} of {told}")
