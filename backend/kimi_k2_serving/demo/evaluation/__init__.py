"""Measures how well a K2 model behind an OpenAI-compatible URL calls tools and reads their results.

    outcomes = evaluate(url, cases, stream=True)
    table(summary(outcomes))

The cases are the held-out half of the demo's world, and requests in words that no code wrote. Needs no torch.
"""

from __future__ import annotations

from kimi_k2_serving.demo.evaluation.asking import ChatEndpoint, evaluate
from kimi_k2_serving.demo.evaluation.cases import Case, held_out, in_other_words
from kimi_k2_serving.demo.evaluation.scoring import Outcome, Summary, judge, summary, table

__all__ = [
    "Case",
    "ChatEndpoint",
    "Outcome",
    "Summary",
    "evaluate",
    "held_out",
    "in_other_words",
    "judge",
    "summary",
    "table",
]
