"""`kimi-k2 tokenize`: text on standard input, ids on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kimi_k2_serving.core.tokens import Vocabulary
from tests.support.command import kimi_k2, modules_after


@pytest.mark.parametrize("text", ["", "the é🏃 <|im_end|>\n", "\r\n\x00"])
def test_control_tokens_are_plain_text(text: str, small_checkpoint: Path, small_vocabulary: Vocabulary) -> None:
    done = kimi_k2("tokenize", "--checkpoint", str(small_checkpoint), stdin=text.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == small_vocabulary.encode(text)


def test_published_ids(reference: Path) -> None:
    assert (
        kimi_k2("tokenize", "--checkpoint", str(reference), stdin=b"<|im_end|>").stdout
        == b"[27, 91, 348, 11129, 91, 29]\n"
    )


def test_bytes_that_are_no_text_are_refused(small_checkpoint: Path) -> None:
    done = kimi_k2("tokenize", "--checkpoint", str(small_checkpoint), stdin=b"\xff")
    assert (done.returncode, done.stderr) == (
        2,
        b"kimi-k2 tokenize: invalid_value: stdin: not UTF-8; send the text as UTF-8\n",
    )


def test_no_engine_is_imported(small_checkpoint: Path) -> None:
    imported = modules_after("tokenize", "--checkpoint", str(small_checkpoint), stdin=b"the")
    assert imported.isdisjoint({"torch", "transformers", "sglang", "numpy", "tokenizers"})
