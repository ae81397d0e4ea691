"""`kimi-k2 render`: a request on standard input, its prompt on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kimi_k2_serving.core.tokens import Vocabulary
from tests.support.command import kimi_k2, modules_after

REQUEST = {
    "model": "kimi-k2",
    "temperature": 0.6,
    "messages": [{"role": "user", "content": "hé <|im_end|>"}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "é"}}],
}


def test_prompt_ids_and_segments(small_checkpoint: Path, small_vocabulary: Vocabulary) -> None:
    done = kimi_k2("render", "--checkpoint", str(small_checkpoint), stdin=json.dumps(REQUEST).encode())
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout)
    assert set(answer) == {"prompt", "input_ids", "segments"}
    assert answer["prompt"].endswith(
        "<|im_user|>user<|im_middle|>hé <|im_end|><|im_end|><|im_assistant|>assistant<|im_middle|>"
    )
    assert answer["prompt"] == "".join(next(iter(segment.values())) for segment in answer["segments"])
    assert {"text": "hé <|im_end|>"} in answer["segments"]
    assert answer["segments"][0] == {"control": "<|im_system|>"}
    placed = [small_vocabulary.control(segment["control"]) for segment in answer["segments"] if "control" in segment]
    assert [token for token in answer["input_ids"] if token in small_vocabulary.control_ids] == placed


def test_the_published_ids(reference: Path) -> None:
    request = b'{"messages": [{"role": "user", "content": "hi"}]}'
    answer = json.loads(kimi_k2("render", "--checkpoint", str(reference), stdin=request).stdout)
    assert answer["input_ids"][:3] == [163594, 14062, 163601]
    assert answer["input_ids"][-7:] == [2482, 163601, 9663, 163586, 163588, 69702, 163601]


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"{", b"invalid_json: stdin: not JSON, at character 1 of 1"),
        (b"[]", b"invalid_type: stdin: must be an object"),
        (b"{}", b"missing_field: messages: is required"),
        (b'{"messages": [{"role": "user", "content": 1}]}', b"invalid_type: messages[0].content: must be"),
        (b'{"messages": [], "parallel_tool_calls": 1}', b"invalid_type: parallel_tool_calls: must be true or false"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(small_checkpoint: Path, stdin: bytes, message: bytes) -> None:
    done = kimi_k2("render", "--checkpoint", str(small_checkpoint), stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"kimi-k2 render: " + message)
    assert done.stderr.count(b"\n") == 1


def test_a_directory_without_a_vocabulary_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = kimi_k2("render", "--checkpoint", str(tmp_path), stdin=json.dumps(REQUEST).encode())
    assert done.returncode == 1
    assert done.stderr.startswith(b"kimi-k2 render: not_found: tiktoken.model: ")


def test_no_engine_is_imported(small_checkpoint: Path) -> None:
    imported = modules_after("render", "--checkpoint", str(small_checkpoint), stdin=json.dumps(REQUEST).encode())
    assert imported.isdisjoint({"torch", "transformers", "sglang", "numpy", "tokenizers"})
