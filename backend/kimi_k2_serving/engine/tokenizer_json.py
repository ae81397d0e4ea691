"""Converts `tiktoken.model` and `tokenizer_config.json` to `tokenizer.json`, which transformers loads without remote
code.

The result gives the same ids as the checkpoint's vocabulary for text (`compare` checks a sample) and for every control
token, with the flags of the configuration. Linear in the vocabulary's bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kimi_k2_serving.core.errors import Internal
from kimi_k2_serving.core.tokens import PATTERN, Vocabulary
from kimi_k2_serving.core.vocabulary_files import VocabularyFiles

# Text that both tokenizers must encode alike: each branch of PATTERN, several scripts, and names of control tokens.
SAMPLE: tuple[str, ...] = (
    "",
    "The quick brown fox didn't jump; it SLEPT, and they'll say WE'RE late.",
    "    return {key: value for key, value in items.items() if value is not None}\n\n\n",
    '{"city": "Zürich", "days": [1, 22, 333, 4444, 55555], "exact": -1.5e-07, "ok": true}',
    "你好,世界!2025年9月5日的天气怎么样?我想去北京故宫博物院。",
    "こんにちは世界。カタカナとひらがな、漢字。",
    "Übergrößenträger kostet 1.234,56 € – schön, nicht wahr?",
    "L'été dernier, j'ai mangé des crêpes à l'orée du bois.",
    "Привет, мир! Сколько это стоит? Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया।",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇭 👍🏽 e\u0301 ﬁ ǅ Ⅷ ² ½ ٣",
    "<|im_end|><|im_middle|>[BOS]<|reserved_token_163589|>",
    "\t \u00a0\u2003 \r\n \r \n\x00\x7f\u200b\ufeff  trailing   ",
    "https://example.org/a_b-c?d=%20#e C:\\temp\\x.txt user+tag@example.org 192.168.0.1",
)


def convert_ranks(files: VocabularyFiles, config: Mapping[str, Any]) -> bytes:
    """The content of tokenizer.json for a vocabulary and its tokenizer_config.json."""
    letters = _byte_letters()
    spelled = {token: "".join([letters[byte] for byte in token]) for token in files.tokens}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(files.controls, config),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # As in tiktoken, a piece that is a token becomes that token even if no merges lead to it.
            "ignore_merges": True,
            "vocab": {spelled[token]: rank for rank, token in enumerate(files.tokens)},
            "merges": [[spelled[left], spelled[right]] for left, right in _merges(files.tokens)],
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _added_tokens(controls: Mapping[str, int], config: Mapping[str, Any]) -> list[dict[str, object]]:
    """All control tokens in id order. A token that the configuration does not name gets the flag `special`, so that
    decoders hide it.
    """
    declared = {entry["content"]: entry for entry in config.get("added_tokens_decoder", {}).values()}
    return [
        {
            "id": token_id,
            "content": name,
            **{
                flag: declared.get(name, {}).get(flag, False)
                for flag in ("single_word", "lstrip", "rstrip", "normalized")
            },
            "special": declared.get(name, {}).get("special", True),
        }
        for name, token_id in controls.items()
    ]


def _merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """All pairs of tokens that make a token, ordered by its rank: tiktoken chooses merges by the rank of the result."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for token in tokens:
        ways = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        ways = [(left, right) for left, right in ways if left in ranks and right in ranks]
        merges += sorted(ways, key=lambda way: (ranks[way[0]], ranks[way[1]]))
    return merges


def _byte_letters() -> list[str]:
    """The byte-level alphabet: each printable Latin-1 byte stands for itself, the others are letters from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


def compare(document: bytes, vocabulary: Vocabulary, sample: Sequence[str] = SAMPLE) -> int:
    """Compare a tokenizer.json with the vocabulary that it was made from; return the number of lines in `sample`.

    Raises Internal at the first line or control token that differs. Names of `special` control tokens are encoded as
    plain text. `tokenizers` always encodes the other control tokens as such, so a sample must not contain their names.
    """
    from tokenizers import Tokenizer

    try:
        converted = Tokenizer.from_buffer(document)
    except Exception as error:  # the library raises nothing more specific
        raise Internal("tokenizer.json cannot be loaded; copy or build it again") from error
    if any(converted.token_to_id(name) != token_id for name, token_id in vocabulary.controls.items()):
        raise Internal("tokenizer.json and tokenizer_config.json give a control token different ids; copy both again")
    converted.encode_special_tokens = True
    for number, line in enumerate(sample):
        if converted.encode(line, add_special_tokens=False).ids != vocabulary.encode(line):
            raise Internal(f"tokenizer.json and tiktoken.model encode sample line {number} differently")
    return len(sample)
