"""xgrammar's view of the vocabulary.

A control id must match as a token and never as characters: its bytes begin with 0xFF, which no UTF-8 text contains.
(Without any bytes xgrammar would treat it as a special token and refuse it everywhere.) Imports xgrammar and torch.
"""

from __future__ import annotations

import xgrammar

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar import yielding

CONTROL_BYTE = b"\xff"


def token_info(vocabulary: Vocabulary) -> xgrammar.TokenizerInfo:
    """The vocabulary; `engine_vocabulary` gives the engine the same one."""
    controls = {number: name for name, number in vocabulary.controls.items()}
    pieces = [
        CONTROL_BYTE + controls[number].encode() if number in controls else vocabulary.token_bytes(number)
        for number in range(vocabulary.size)
    ]
    return xgrammar.TokenizerInfo(
        pieces, xgrammar.VocabType.RAW, vocab_size=vocabulary.size, stop_token_ids=list(vocabulary.stop_ids)
    )


def compiler(info: xgrammar.TokenizerInfo) -> xgrammar.GrammarCompiler:
    """A compiler without xgrammar's cache, which takes rules that differ only in token ids for equal (0.2.7)."""
    return xgrammar.GrammarCompiler(info, max_threads=yielding.threads(), cache_enabled=False)
