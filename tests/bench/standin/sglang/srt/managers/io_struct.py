"""One step's outputs of all requests, as the scheduler sends them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class BatchTokenIDOutput:
    """Each field has a row for every request of the step."""

    rids: list[str] = field(default_factory=list)
    finished_reasons: list[dict[str, Any] | None] = field(default_factory=list)
    decoded_texts: list[str] = field(default_factory=list)
    decode_ids: list[array[int]] = field(default_factory=list)
    read_offsets: list[int] = field(default_factory=list)
    output_ids: list[array[int]] = field(default_factory=list)
    skip_special_tokens: list[bool] = field(default_factory=list)
    spaces_between_special_tokens: list[bool] = field(default_factory=list)
    no_stop_trim: list[bool] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    completion_tokens: list[int] = field(default_factory=list)
    cached_tokens: list[int] = field(default_factory=list)

    def add(self, rid: str, ids: array[int], made: int, prompt: int, finish: dict[str, Any] | None) -> None:
        self.rids.append(rid)
        self.finished_reasons.append(finish)
        self.decoded_texts.append("")
        self.decode_ids.append(ids)
        self.read_offsets.append(0)
        self.output_ids.append(ids)
        self.skip_special_tokens.append(True)
        self.spaces_between_special_tokens.append(True)
        self.no_stop_trim.append(False)
        self.prompt_tokens.append(prompt)
        self.completion_tokens.append(made)
        self.cached_tokens.append(0)
