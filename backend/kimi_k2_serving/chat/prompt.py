"""What is asked of the engine, and what the reader of its answer has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.enforcer.inspection import Relaxed
from kimi_k2_serving.grammar.constraint import Constraint


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """`first_call` is None for a completion without a chat, whose answer holds no calls; `tools` may be called.

    `sampling` is by SGLang's names, the grammar included; `stops` are the reader's to match where the engine's are not
    the same. `relaxed` is what the grammar does not hold, None where it holds everything.
    """

    ids: Sequence[int]
    sampling: dict[str, Any]
    stops: tuple[str, ...]
    tools: tuple[str, ...] = ()
    first_call: int | None = None
    parallel: bool = True
    relaxed: Relaxed | None = None


def with_constraint(prompt: PreparedPrompt, constraint: Constraint, conversation: Conversation) -> PreparedPrompt:
    """The prompt with its constraint. Of the conversation only what determined the constraint is read."""
    sampling = dict(prompt.sampling)
    if constraint.structural_tag is not None:
        sampling["structural_tag"] = constraint.structural_tag
    return replace(prompt, sampling=sampling, relaxed=Relaxed.of(constraint, conversation))
