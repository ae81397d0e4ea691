"""The demo vocabulary: 4,096 ranks trained on `corpus.txt`, then 256 reserved ids in the same order as K2's.

A reserved id is the number of ranks plus an offset. K2 has 163,584 ranks, so its `<|im_end|>` is 163,586; ours is
4,098. Names, offsets and flags equal K2's published tokenizer_config.json: the five tool markers are not `special`.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources

from kimi_k2_serving.core.tokens import PATTERN
from kimi_k2_serving.demo import bpe

RANKS = 4_096
RESERVED = 256
SIZE = RANKS + RESERVED

# Offsets of the ids that the configuration names.
BOS, EOS, STOP = 0, 1, 2

# offset -> (name, special)
NAMED: dict[int, tuple[str, bool]] = {
    BOS: ("[BOS]", True),
    EOS: ("[EOS]", True),
    STOP: ("<|im_end|>", True),
    3: ("<|im_user|>", True),
    4: ("<|im_assistant|>", True),
    6: ("<|start_header_id|>", True),
    7: ("<|end_header_id|>", True),
    9: ("[EOT]", True),
    10: ("<|im_system|>", True),
    11: ("<|tool_calls_section_begin|>", False),
    12: ("<|tool_calls_section_end|>", False),
    13: ("<|tool_call_begin|>", False),
    14: ("<|tool_call_argument_begin|>", False),
    15: ("<|tool_call_end|>", False),
    17: ("<|im_middle|>", True),
    254: ("[UNK]", True),
    255: ("[PAD]", True),
}

# The control tokens that have an attribute of their own in tokenizer_config.json.
_ATTRIBUTES = {"bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]", "pad_token": "[PAD]"}


def corpus() -> str:
    """The training text, written for this project."""
    return resources.files(__package__).joinpath("corpus.txt").read_text(encoding="utf-8")


def train_vocabulary(text: str, ranks: int = RANKS) -> list[bytes]:
    """Token bytes in rank order. Raises InvalidValue if `text` is too short for that many ranks."""
    return bpe.train_merges(Counter(pieces(text)), ranks)


def pieces(text: str) -> Iterator[bytes]:
    """The pieces into which K2's pattern splits a text; no token spans two of them."""
    # Imported here: whoever only reads this vocabulary's constants does not need the package.
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    for piece, _ in split.pre_tokenize_str(text):
        yield piece.encode("utf-8")


def tiktoken_model(tokens: Sequence[bytes]) -> bytes:
    """The tiktoken format: per token one line with its bytes in base64, a space, and its rank."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def tokenizer_config(context: int) -> dict[str, object]:
    """The content of tokenizer_config.json. It names a class of transformers itself, so no remote code is needed."""
    return {
        "added_tokens_decoder": {
            str(RANKS + offset): {
                "content": name,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": special,
            }
            for offset, (name, special) in NAMED.items()
        },
        "additional_special_tokens": [
            name for name, special in NAMED.values() if special and name not in _ATTRIBUTES.values()
        ],
        **_ATTRIBUTES,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {},
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
