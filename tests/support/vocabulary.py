"""Vocabularies for tests: the published K2 one where it is at hand, and a small one that is always there.

The published files are looked for in `$KIMI_K2_REFERENCE`, `shared/kimi_k2` of the repository and of its parent
directory; without them the tests that need them are skipped, and say so.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from kimi_k2_serving.core.tokens import Vocabulary

_ROOT = Path(__file__).resolve().parents[2]
_PLACES = (os.environ.get("KIMI_K2_REFERENCE"), _ROOT / "shared" / "kimi_k2", _ROOT.parent / "shared" / "kimi_k2")

# The names that K2's tokenizer_config.json has, by their distance from the first control id.
NAMES = {
    0: "[BOS]",
    1: "[EOS]",
    2: "<|im_end|>",
    3: "<|im_user|>",
    4: "<|im_assistant|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "[EOT]",
    10: "<|im_system|>",
    11: "<|tool_calls_section_begin|>",
    12: "<|tool_calls_section_end|>",
    13: "<|tool_call_begin|>",
    14: "<|tool_call_argument_begin|>",
    15: "<|tool_call_end|>",
    17: "<|im_middle|>",
    20: "[UNK]",
    21: "[PAD]",
}
# Enough merges for tokens of several letters and for characters split over tokens.
MERGES = (
    "th",
    "he",
    "the",
    " t",
    " the",
    "in",
    "er",
    "<|",
    "|>",
    "im",
    '{"',
    '":',
    ' "',
    '"}',
    "\n\n",
    "  ",
    "漢",
    "🏃",
)


def reference_directory() -> Path | None:
    for place in _PLACES:
        if place and (Path(place) / "tiktoken.model").is_file():
            return Path(place)
    return None


def write_small_checkpoint(directory: Path) -> Path:
    """A checkpoint with all 256 bytes, MERGES and NAMES."""
    tokens = [bytes([byte]) for byte in range(256)] + [merge.encode() for merge in MERGES]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    (directory / "tiktoken.model").write_text("".join(lines))
    names = {str(len(tokens) + distance): {"content": name} for distance, name in NAMES.items()}
    (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": names}))
    return directory


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def small_vocabulary(small_checkpoint: Path) -> Vocabulary:
    return Vocabulary.load(small_checkpoint)


@pytest.fixture(scope="session")
def reference() -> Path:
    directory = reference_directory()
    if directory is None:
        pytest.skip("needs the published K2 vocabulary; set KIMI_K2_REFERENCE to its directory")
    return directory


@pytest.fixture(scope="session")
def vocabulary(reference: Path) -> Vocabulary:
    """The published K2 vocabulary."""
    return Vocabulary.load(reference)
