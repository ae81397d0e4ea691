"""Converts text to ids for clients that send text to the engine model, and ids to text for their logprobs.

For a K2 checkpoint it uses core's vocabulary, for any other its tokenizer.json. Control tokens in text stay plain text
unless `parse_special` is set: the added tokens are removed from tokenizer.json before it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine.checkpoint import Checkpoint, tokenizer_directory


class TextEncoder(Protocol):
    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class VocabularyEncoder:
    """Encodes with core's vocabulary, for any text; control tokens in text stay plain text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.vocab_size = vocabulary.size

    def encode(self, text: str) -> list[int]:
        return self._vocabulary.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self._vocabulary.token_bytes, ids)).decode("utf-8", "replace")


class TokenizerEncoder:
    """Encodes with a tokenizer.json, including the tokens that its post-processor adds, such as a BOS."""

    def __init__(self, document: dict[str, Any], vocab_size: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(json.dumps(document))
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def load_encoder(checkpoint: Checkpoint, cache: Path, *, parse_special: bool) -> TextEncoder:
    if checkpoint.is_k2 and not parse_special:
        return VocabularyEncoder(Vocabulary.load(checkpoint.path))
    path = tokenizer_directory(checkpoint, cache) / "tokenizer.json"
    document = json.loads(path.read_text("utf-8"))
    if not parse_special:
        document["added_tokens"] = []
    return TokenizerEncoder(document, checkpoint.vocab_size)
