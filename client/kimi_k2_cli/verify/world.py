"""`--cases N`: scores on the demo's held-out world, whose conversations ask for tools of many names and shapes.

The demo model was trained on the other half of that world. Another model is scored by the same measure.
"""

from __future__ import annotations

from kimi_k2_cli.verify.checks import LEAST_F1, LEAST_SCHEMA_ACCURACY, Group, Result
from kimi_k2_serving.demo.evaluation.asking import ChatEndpoint, evaluate
from kimi_k2_serving.demo.evaluation.cases import held_out
from kimi_k2_serving.demo.evaluation.scoring import summary

LEAST_EXACT = 0.75
LEAST_READ = 0.75


def score_world(endpoint: ChatEndpoint, cases: int, concurrency: int) -> list[Result]:
    """One row for each score that the cases show."""
    found = summary(evaluate(endpoint, held_out(cases), concurrency=concurrency))
    rows: tuple[tuple[str, Group, float | None, float], ...] = (
        ("schema accuracy", "server", found.schema_accuracy, LEAST_SCHEMA_ACCURACY),
        ("trigger F1", "model", found.f1, LEAST_F1),
        ("exact arguments", "model", found.exact_arguments, LEAST_EXACT),
        ("results read back", "model", found.results_read, LEAST_READ),
    )
    failed = f"; {found.failed} of {found.cases} requests failed" if found.failed else f" of {found.cases} cases"
    return [
        Result.measured(f"held-out: {name}", group, score >= least, f"{score:.3f}{failed}")
        for name, group, score, least in rows
        if score is not None
    ]
