"""A prepared prompt: what the engine gets, and what the parser of its answer has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.enforcer.inspection import Relaxed
from kimi_k2_serving.grammar.constraint import Constraint


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """`first_call`: the index of the answer's first call; None for a completion without a chat, which has no calls.
    `tools`: the names that may be called. `sampling`: parameters by SGLang's names, the grammar included. `stops`: the
    stop strings that the parser matches. `relaxed`: what the grammar does not enforce, None if it enforces everything.
    """

    ids: Sequence[int]
    sampling: dict[str, Any]
    stops: tuple[str, ...]
    tools: tuple[str, ...] = ()
    first_call: int | None = None
    parallel: bool = True
    relaxed: Relaxed | None = None


def with_constraint(prompt: PreparedPrompt, constraint: Constraint, conversation: Conversation) -> PreparedPrompt:
    """The prompt with its constraint. Reads only those parts of the conversation that determined the constraint."""
    sampling = dict(prompt.sampling)
    if constraint.structural_tag is not None:
        sampling["structural_tag"] = constraint.structural_tag
    return replace(prompt, sampling=sampling, relaxed=Relaxed.of(constraint, conversation))
