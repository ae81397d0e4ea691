"""The stages of an engine's start, which the host writes to Triton's log. `scripts/serve` shows them while it waits."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TextIO

from kimi_k2_serving.logs import say

_MARK = "sglang::host: "


class StartStage(enum.Enum):
    IMPORTING = "importing SGLang"
    WEIGHTS = "starting the scheduler and loading the weights"
    WARM_UP = "warming up"


def enter(stage: StartStage, *, log: TextIO | None = None) -> None:
    say("sglang::host", f"{_MARK}{stage.value}", to=log)


def latest(lines: Iterable[str]) -> StartStage | None:
    """The last stage that these lines of a log name, or None."""
    known = {f"{_MARK}{stage.value}": stage for stage in StartStage}
    return next((known[line] for line in reversed([*lines]) if line in known), None)
