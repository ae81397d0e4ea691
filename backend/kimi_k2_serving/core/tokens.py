"""The checkpoint's vocabulary: text to ids, ids to bytes, control tokens by name.

Reads `tiktoken.model` and `tokenizer_config.json`; no id is hard-coded here. Text never becomes a control id, because
the encoder does not know these ids. Only the new texts of a prompt are encoded: the ids of earlier ones are in a
least-recently-used cache, keyed by the text, bounded in bytes. Thread-safe. Rules T1 to T9 of docs/kimi_k2_format.md.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn, TypeVar

from tiktoken import Encoding

from kimi_k2_serving.core.decoder import TextDecoder
from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.pieces import RUN_CHARACTERS, pieces
from kimi_k2_serving.core.render import Segment, Text
from kimi_k2_serving.core.text_cache import TextCache, packed
from kimi_k2_serving.core.vocabulary_files import VocabularyFiles, read_vocabulary

__all__ = ["TextDecoder", "Vocabulary"]

# K2's published split of text into words: runs of Han, words by their case, without Han, numbers of up to three digits,
# punctuation, line ends, other whitespace. `&&` is the Rust regex crate's class intersection.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join(
    (
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

CACHE_BYTES = 256 * 2**20


_Value = TypeVar("_Value")


class _Controls(dict[str, _Value]):
    """Control token's name -> value. A name that the checkpoint lacks raises InvalidValue at every look-up."""

    def __missing__(self, name: str) -> NoReturn:
        raise InvalidValue(f"this checkpoint has no control token {name}", field="tokenizer_config.json")


class Vocabulary:
    """A loaded vocabulary, made by `load`. Immutable except for its cache.

    controls: every control token's id by name; control_ids: these ids, from the number of ranks up to `size` - 1;
    stop_ids: the ids that end an answer; size: the number of ids, at least config.json's vocab_size if it has one;
    sort_tool_keys: whether the prompt shows tool declarations with sorted keys.
    """

    def __init__(self, files: VocabularyFiles, *, cache_bytes: int = CACHE_BYTES) -> None:
        # A control id has no bytes, so it can't show up in an answer.
        self._adopt(files, (*files.tokens, *(b"" for _ in files.controls)))
        self.stop_ids: tuple[int, ...] = (self.control("<|im_end|>"), self.control("[EOS]"))
        ranks = {token: rank for rank, token in enumerate(files.tokens)}
        self._encoding = Encoding("kimi_k2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        self._packed_controls = _Controls({name: packed([control]) for name, control in files.controls.items()})
        self._cache = TextCache(self.encode, cache_bytes)

    def _adopt(self, files: VocabularyFiles, token_bytes: tuple[bytes, ...]) -> None:
        """Set everything except the encoder."""
        self._controls = _Controls(files.controls)
        self.controls: Mapping[str, int] = MappingProxyType(self._controls)
        self.control_ids = frozenset(files.controls.values())
        self.size = len(token_bytes)
        self.sort_tool_keys = files.sort_tool_keys
        self._bytes = token_bytes

    @classmethod
    def load(cls, checkpoint: Path, *, cache_bytes: int = CACHE_BYTES) -> Vocabulary:
        """Read a checkpoint directory; `cache_bytes` bounds the memory of the cache.

        Raises NotFound for a missing file, InvalidValue if the files are not a K2 vocabulary.
        """
        return cls(read_vocabulary(checkpoint), cache_bytes=cache_bytes)

    def control(self, name: str) -> int:
        """The id of a control token; raises InvalidValue if the checkpoint lacks it."""
        return self._controls[name]

    def encode(self, text: str) -> list[int]:
        """The ids of plain text. A control token's name is text, too. Lone surrogates become U+FFFD. Not cached."""
        if len(text) <= RUN_CHARACTERS:
            return self._encoding.encode_ordinary(text)
        ids: list[int] = []
        for piece in pieces(text):
            ids += self._encoding.encode_ordinary(piece)
        return ids

    def encode_prompt(self, segments: Iterable[Segment]) -> array[int]:
        """Ids of a rendered prompt, 32 bits each. Only texts that are not in the cache are encoded.

        Raises InvalidValue if the checkpoint lacks a control token of the prompt.
        """
        parts = tuple(segments)
        texts = self._cache.get_all([part.text for part in parts if isinstance(part, Text)])
        controls = self._packed_controls
        return array("i", b"".join([texts[p.text] if isinstance(p, Text) else controls[p.name] for p in parts]))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id, b"" for a control id; raises InvalidValue outside 0 <= token < size."""
        if not 0 <= token < self.size:
            raise InvalidValue(f"token ids of this checkpoint must be 0 to {self.size - 1}")
        return self._bytes[token]
