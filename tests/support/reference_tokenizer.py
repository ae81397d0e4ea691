"""The published rules of K2's reference tokenizer and chat template, written down once more and differently.

Slow and plain on purpose: character by character, whole prompts as one string. Only tests use it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tiktoken import Encoding

from kimi_k2_serving.core.tokens import PATTERN, Vocabulary


def reference_pieces(text: str, part_length: int, run_length: int) -> Iterator[str]:
    """A counter of like characters starts again where the class changes and where a cut is made."""
    for offset in range(0, len(text), part_length):
        part = text[offset : offset + part_length]
        begin = 0
        count = 0
        space = part[0].isspace()
        for position, character in enumerate(part):
            if character.isspace() != space:
                space = not space
                count = 1
                continue
            count += 1
            if count > run_length:
                yield part[begin:position]
                begin = position
                count = 1
        yield part[begin:]


class ReferenceTokenizer:
    """Renders with the published template and encodes the whole string with control tokens switched on."""

    def __init__(self, directory: Path, vocabulary: Vocabulary) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value, **rest: json.dumps(value, ensure_ascii=False, **rest)
        self._template = environment.from_string((directory / "chat_template.jinja").read_text())
        ranks = {vocabulary.token_bytes(token): token for token in range(vocabulary.size - len(vocabulary.controls))}
        controls = dict(vocabulary.controls)
        self._encoding = Encoding("reference", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=controls)

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        return self._template.render(messages=messages, tools=tools, add_generation_prompt=True)

    def encode(self, text: str) -> list[int]:
        return [
            token
            for piece in reference_pieces(text, 400_000, 25_000)
            for token in self._encoding.encode(piece, allowed_special="all")
        ]
