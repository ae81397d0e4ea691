"""`kimi-k2 detokenize`: ids on standard input, their text on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kimi_k2_serving.core.tokens import Vocabulary
from tests.support.command import kimi_k2, modules_after


def test_it_undoes_tokenize(small_checkpoint: Path) -> None:
    text = "the é🏃漢 <|im_end|>\r\n\x00".encode()
    ids = kimi_k2("tokenize", "--checkpoint", str(small_checkpoint), stdin=text).stdout
    done = kimi_k2("detokenize", "--checkpoint", str(small_checkpoint), stdin=ids)
    assert (done.returncode, done.stdout, done.stderr) == (0, text, b"")


@pytest.mark.parametrize(
    ("options", "text"), [((), b"AB\xef\xbf\xbd"), (("--controls",), b"A<|im_end|>B[EOS]\xef\xbf\xbd")]
)
def test_control_tokens_are_shown_on_request(
    options: tuple[str, ...], text: bytes, small_checkpoint: Path, small_vocabulary: Vocabulary
) -> None:
    ids = [65, small_vocabulary.control("<|im_end|>"), 66, small_vocabulary.control("[EOS]"), 0xC3]
    done = kimi_k2("detokenize", *options, "--checkpoint", str(small_checkpoint), stdin=json.dumps(ids).encode())
    assert done.stdout == text


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"", b"invalid_json: stdin: "),
        (b"{}", b"invalid_type: stdin: must be an array"),
        (b"[65, 1.5]", b"invalid_type: stdin[1]: must be an integer"),
        (b"[true]", b"invalid_type: stdin[0]: must be an integer"),
        (b"[-1]", b"invalid_value: token ids of this checkpoint must be 0 to "),
        (b"[100000]", b"invalid_value: token ids of this checkpoint must be 0 to "),
    ],
)
def test_a_wrong_list_is_one_line_and_exit_code_2(small_checkpoint: Path, stdin: bytes, message: bytes) -> None:
    done = kimi_k2("detokenize", "--checkpoint", str(small_checkpoint), stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"kimi-k2 detokenize: " + message)


def test_no_engine_is_imported(small_checkpoint: Path) -> None:
    imported = modules_after("detokenize", "--checkpoint", str(small_checkpoint), stdin=b"[65]")
    assert imported.isdisjoint({"torch", "transformers", "sglang", "numpy", "tokenizers"})
