"""`kimi-k2 parse`, as a person or a script runs it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_cli.main import main
from kimi_k2_serving.core.limits import STOP_BYTES, STOP_STRINGS
from kimi_k2_serving.core.tokens import Vocabulary

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PARTS = ("<|tool_call_begin|>", "functions.f:0", "<|tool_call_argument_begin|>")
CALL = "".join(PARTS)


class Run:
    """One run: exit code, lines of output, lines of errors."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.lines: list[Any] = [json.loads(line) for line in out.splitlines()]
        self.err = err.splitlines()


@pytest.fixture
def parse(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    def run(request: Any) -> Run:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(request).encode())))
        code = main(["parse", "--checkpoint", str(small_checkpoint)])
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Run(code, out.decode(), err.decode())

    return run


def ids(vocabulary: Vocabulary, *parts: str) -> list[int]:
    return [
        token
        for part in parts
        for token in ([vocabulary.control(part)] if part in vocabulary.controls else vocabulary.encode(part))
    ]


def test_ids_become_openai_deltas_and_then_the_message(parse: Any, small_vocabulary: Vocabulary) -> None:
    output = ids(
        small_vocabulary, "Hi", CALL.split("functions")[0], "functions.f:0", "<|tool_call_argument_begin|>", "{}"
    )
    result = parse({"output_ids": output, "tools": [TOOL], "first_index": 2})
    call = {"id": "functions.f:2", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert result.lines == [
        {"content": "Hi"},
        {"tool_calls": [{"index": 0, **call, "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {"message": {"role": "assistant", "content": "Hi", "tool_calls": [call]}, "finish_reason": "tool_calls"},
    ]
    assert (result.code, result.err) == (0, [])


@pytest.mark.parametrize("chunk", [0, 1, 2, 5, 1000])
def test_the_last_line_does_not_depend_on_the_chunks(parse: Any, small_vocabulary: Vocabulary, chunk: int) -> None:
    text = CALL + '{"q": "漢🏃"}<|tool_call_end|>'
    output = ids(
        small_vocabulary, "<|tool_call_begin|>", "functions.f:0", "<|tool_call_argument_begin|>", '{"q": "漢🏃"}'
    )
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": '{"q": "漢🏃"}'}}
        ],
    }
    for request in ({"text": text}, {"output_ids": output}):
        result = parse({**request, "tools": ["f"], "chunk": chunk})
        assert result.lines[-1] == {"message": message, "finish_reason": "tool_calls"}
        assert (len(result.lines) > 3) == (0 < chunk < 1000)


def test_what_was_rejected_or_incomplete_is_said_on_standard_error(parse: Any) -> None:
    text = CALL.replace(".f:", ".g:") + "{}<|tool_call_end|>" + CALL + "{"
    result = parse({"text": text, "tools": ["f"], "finish_reason": "length"})
    assert result.err == [
        "kimi-k2 parse: rejected call: undeclared_name",
        "kimi-k2 parse: incomplete call: functions.f:0",
    ]
    assert result.lines[-1]["finish_reason"] == "length"


@pytest.mark.parametrize("stop", ["STOP", ["", "STOP"]])
def test_stop_strings_end_the_content(parse: Any, stop: Any) -> None:
    result = parse({"text": "a STOP b", "stop": stop, "chunk": 1})
    assert result.lines[-1] == {"message": {"role": "assistant", "content": "a "}, "finish_reason": "stop"}


def test_one_call_at_most_without_parallel_tool_calls(parse: Any) -> None:
    result = parse({"text": (CALL + "{}<|tool_call_end|>") * 2, "tools": ["f"], "parallel_tool_calls": False})
    assert len(result.lines[-1]["message"]["tool_calls"]) == 1
    assert result.err == ["kimi-k2 parse: rejected call: too_many_calls"]


def test_an_empty_answer_is_an_answer(parse: Any) -> None:
    end = {"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    assert parse({"output_ids": []}).lines == [end]
    assert parse({"text": "", "chunk": 3}).lines == [end]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ([], "invalid_type: stdin"),
        ({}, "invalid_value: stdin: send output_ids or text"),
        ({"text": "", "output_ids": []}, "invalid_value: stdin"),
        ({"text": "", "secret": 1}, "unknown_field: stdin"),
        ({"text": 1}, "invalid_type: text"),
        ({"output_ids": "1"}, "invalid_type: output_ids"),
        ({"output_ids": [1, True]}, "invalid_type: output_ids[1]"),
        ({"output_ids": [1.0]}, "invalid_type: output_ids[0]"),
        ({"output_ids": [-1]}, "invalid_value: output_ids[0]"),
        ({"output_ids": [10**6]}, "invalid_value: "),
        ({"text": "", "chunk": -1}, "invalid_value: chunk"),
        ({"text": "", "chunk": "1"}, "invalid_type: chunk"),
        ({"text": "", "first_index": None}, "invalid_type: first_index"),
        ({"text": "", "finish_reason": "tool_calls"}, "invalid_value: finish_reason"),
        ({"text": "", "parallel_tool_calls": 1}, "invalid_type: parallel_tool_calls"),
        ({"text": "", "tools": [1]}, "invalid_type: tools[0]"),
        ({"text": "", "tools": "f"}, "invalid_type: tools"),
        ({"text": "", "stop": 1}, "invalid_type: stop"),
        ({"text": "", "stop": [1]}, "invalid_type: stop[0]"),
        ({"text": "", "stop": ["a"] * (STOP_STRINGS.value + 1)}, "limit_exceeded: stop"),
        ({"text": "", "stop": ["a" * (STOP_BYTES.value + 1)]}, "limit_exceeded: stop[0]"),
    ],
)
def test_a_wrong_request_is_named_and_exits_2(parse: Any, request_: Any, said: str) -> None:
    result = parse(request_)
    assert (result.code, result.lines, len(result.err)) == (2, [], 1)
    assert result.err[0].startswith(f"kimi-k2 parse: {said}")
    assert "secret" not in result.err[0]


def test_the_command_imports_no_engine(small_checkpoint: Path) -> None:
    """In an interpreter of its own: no torch, no SGLang, nothing of the network."""
    program = (
        "import io, sys\n"
        "sys.stdin = io.TextIOWrapper(io.BytesIO(b'{\"output_ids\": [104, 105]}'))\n"
        "from kimi_k2_cli.main import main\n"
        f"code = main(['parse', '--checkpoint', {str(small_checkpoint)!r}])\n"
        "heavy = {'torch', 'sglang', 'transformers', 'xgrammar', 'httpx', 'grpc', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["message"]["content"] == "hi"
