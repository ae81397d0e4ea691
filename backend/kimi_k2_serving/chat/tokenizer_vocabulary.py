"""The vocabulary of any model, from its tokenizer.json, for completions without a chat.

The bytes of a token are those of its spelling: of byte-level BPE (a letter stands for each byte), or of SentencePiece
(`▁` is a space, `<0xE6>` a byte). Added tokens that are special are control tokens, which have no text. Other kinds of
tokenizers are refused. No control token has a meaning here, so this vocabulary renders no chat.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.vocabulary_files import VocabularyFiles
from kimi_k2_serving.engine.text import TokenizerEncoder

FILE = "tokenizer.json"


class TokenizerVocabulary(Vocabulary):
    """`size` is the model's, which may be larger than the tokenizer's; ids above have no bytes."""

    def __init__(self, document: dict[str, Any], size: int) -> None:
        spellings, controls = spellings_of(document)
        size = max(size, *(number + 1 for number in spellings), *(number + 1 for number in controls.values()))
        decode = byte_level if is_byte_level(document) else sentence_piece
        tokens = tuple(decode(spellings[number]) if number in spellings else b"" for number in range(size))
        self._adopt(VocabularyFiles((), controls, sort_tool_keys=False), tokens)
        # SGLang knows the model's own.
        self.stop_ids = ()
        self._encoder = TokenizerEncoder({**document, "added_tokens": []}, size)

    @classmethod
    def read(cls, checkpoint: Path, size: int) -> TokenizerVocabulary:
        """Raises NotFound or InvalidValue for a checkpoint whose tokenizer.json is missing or of another kind."""
        try:
            document = json.loads((checkpoint / FILE).read_text("utf-8"))
        except OSError:
            raise NotFound("cannot be read; the frontend needs it for this model", field=FILE) from None
        except ValueError:
            raise InvalidValue("is not JSON", field=FILE) from None
        if not isinstance(document, dict) or document.get("model", {}).get("type") != "BPE":
            raise InvalidValue("is no BPE tokenizer, the only kind that the frontend reads", field=FILE)
        return cls(document, size)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with what the tokenizer puts before it; a control token's name in it is text, too. Lone
        surrogates become U+FFFD.
        """
        return self._encoder.encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def spellings_of(document: dict[str, Any]) -> tuple[dict[int, str], dict[str, int]]:
    """(ordinary tokens by id, special ones by name)."""
    added = document.get("added_tokens") or ()
    controls = {str(each["content"]): int(each["id"]) for each in added if each.get("special")}
    spellings = {int(number): str(text) for text, number in document["model"]["vocab"].items()}
    for number in controls.values():
        spellings.pop(number, None)
    return spellings, controls


def is_byte_level(document: dict[str, Any]) -> bool:
    decoder = document.get("decoder") or {}
    return "ByteLevel" in (decoder.get("type"), *(each.get("type") for each in decoder.get("decoders", ())))


def byte_level(spelling: str) -> bytes:
    """A letter that stands for no byte, as in an added token, is itself."""
    return b"".join(bytes((BYTES[letter],)) if letter in BYTES else letter.encode() for letter in spelling)


def sentence_piece(spelling: str) -> bytes:
    if len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">"):
        return bytes.fromhex(spelling[3:5])
    return spelling.replace("\u2581", " ").encode()


def _byte_letters() -> dict[str, int]:
    """The letter of each byte in byte-level BPE: itself if it is printable Latin-1, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTES = _byte_letters()
