"""`kimi-k2 chat`: what goes to which stream, what a terminal is shown, what Ctrl-C ends."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_triton import HttpTriton, Refusal, Script, Step, script
from peers import URL

from kimi_k2_cli import chat
from kimi_k2_cli.main import main
from kimi_k2_cli.repl import Repl
from kimi_k2_cli.screen import Screen
from kimi_k2_cli.server import server_url
from kimi_k2_cli.session import ChatSession
from kimi_k2_cli.tools_file import read_tools, tool_choice
from kimi_k2_client import Client, ContentDelta, Finished, FinishReason, Retry
from kimi_k2_client.http_transport import HttpTransport
from kimi_k2_serving.core.errors import InvalidValue

USAGE = '{"prompt_tokens": 3, "completion_tokens": 5}'
CALL = json.dumps([{"index": 0, "id": "functions.f:0", "function": {"name": "f", "arguments": '{"a": 1}'}}])
HELLO: list[Step] = [{"text_output": "hel"}, {"text_output": "lo"}, {"finish_reason": "stop", "usage": USAGE}]
CALLING: list[Step] = [{"tool_calls": CALL}, {"finish_reason": "tool_calls", "usage": USAGE}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def piped(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data))


def client(wanted: Script) -> Client:
    http = httpx.Client(transport=httpx.MockTransport(HttpTriton(wanted)))
    return Client(transport=HttpTransport(URL, timeout=5, http=http), retry=Retry(retries=0))


def converse(wanted: Script, prompt: str | None = None, **options: Any) -> int:
    given: dict[str, Any] = {"system": None, "as_json": False, "options": {}, **options}
    with client(wanted) as talking:
        return chat.converse(talking, prompt, **given)


def typed(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """Somebody at the keyboard; the end of the lines is Ctrl-D."""
    waiting: Iterator[str | type[BaseException]] = iter(lines)

    def ask(prompt: str) -> str:
        line = next(waiting, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return ask


def conversation(wanted: Script, at: int = -1) -> list[dict[str, Any]]:
    messages = json.loads(wanted.asked[at]["messages"])
    assert isinstance(messages, list)
    return messages


def test_the_answer_alone_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert converse(script(HELLO), "hi") == 0
    out, notes = capsys.readouterr()
    assert out == "hello\n"
    assert notes == "[stop, 3 + 5 tokens]\n"


def test_tool_calls_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert converse(script(CALLING), "hi") == 0
    assert capsys.readouterr() == ("", 'f({"a": 1})\n[tool_calls, 3 + 5 tokens]\n')


def test_json_is_one_event_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert converse(script([CALLING[0], *HELLO]), "hi", as_json=True) == 0
    out, notes = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"type": "tool_call", "index": 0, "id": "functions.f:0", "name": "f", "arguments": '{"a": 1}'},
        {"type": "content", "text": "hel"},
        {"type": "content", "text": "lo"},
        {
            "type": "finished",
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "cached_tokens": 0},
        },
    ]
    assert notes == ""


def test_the_system_message_and_options_are_sent() -> None:
    wanted = script(HELLO)
    converse(wanted, "hi", system="be brief", options={"max_tokens": 5, "tools": None})
    assert conversation(wanted) == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert wanted.asked[0]["max_tokens"] == 5
    assert "tools" not in wanted.asked[0]


def test_without_a_prompt_a_pipe_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", piped(b"from\na pipe"))
    wanted = script(HELLO)
    assert converse(wanted) == 0
    assert conversation(wanted) == [{"role": "user", "content": "from\na pipe"}]


@pytest.mark.parametrize("command", ["chat", "complete"])
@pytest.mark.parametrize(
    ("argument", "data", "said"),
    [
        ("", b"", "missing_field: prompt: give it as an argument, or on standard input"),
        (" \n", b"", "missing_field: prompt: give it as an argument, or on standard input"),
        (None, b"", "missing_field: prompt: give it as an argument, or on standard input"),
        (None, b"\n \n", "missing_field: prompt: give it as an argument, or on standard input"),
        (None, b"caf\xe9", "invalid_value: prompt: standard input is not UTF-8 text"),
    ],
)
def test_a_prompt_that_is_blank_or_no_text_is_refused_before_any_server_is_asked(
    command: str,
    argument: str | None,
    data: bytes,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", piped(data))
    words = [command, "--url", "http://127.0.0.1:1"] + ([] if argument is None else [argument])
    assert main(words) == 2
    assert capsys.readouterr() == ("", f"kimi-k2 {command}: {said}\n")


def test_a_server_that_is_not_there_is_named_with_the_way_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--url", "http://127.0.0.1:1", "hi"]) == 1
    said = capsys.readouterr().err
    assert "no connection to http://127.0.0.1:1" in said
    assert "`kimi-k2 serve` starts one" in said


def test_a_refusal_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert converse(script([Refusal("invalid_value: max_tokens: must be at least 1")]), "hi") == 2
    assert capsys.readouterr() == ("", "kimi-k2 chat: invalid_value: max_tokens: must be at least 1\n")


def test_an_answer_that_breaks_off_is_exit_code_1_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert converse(script(HELLO[:1]), "hi") == 1
    out, notes = capsys.readouterr()
    assert out == "hel\n"
    assert notes.startswith("kimi-k2 chat: connection_lost: ")


def test_a_terminal_keeps_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    wanted = script(HELLO)
    assert converse(wanted, ask=typed("one", "  ", "two")) == 0
    assert conversation(wanted) == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "two"},
    ]


def test_a_terminal_asks_for_the_results_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    wanted = script(CALLING, HELLO)
    assert converse(wanted, ask=typed("one", "42")) == 0
    assert conversation(wanted)[-1] == {"role": "tool", "tool_call_id": "functions.f:0", "content": "42"}


def test_a_turn_that_fails_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    wanted = script([Refusal("overloaded: later", 503)], HELLO)
    assert converse(wanted, ask=typed("one", "two")) == 0
    assert conversation(wanted) == [{"role": "user", "content": "two"}]


def test_ctrl_c_at_the_prompt_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    wanted = script(HELLO)
    assert converse(wanted, ask=typed(KeyboardInterrupt, "two")) == 0
    assert len(wanted.asked) == 1


class Interrupted:
    """A screen at which somebody presses Ctrl-C at the first piece of the first answer."""

    def __init__(self) -> None:
        self.pressed = False
        self.said: list[str] = []

    def begin(self) -> None:
        pass

    def say(self, text: str, *, colour: str = "") -> None:
        self.said.append(text)

    def show(self, event: object) -> None:
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt

    def close(self, answer: object) -> None:
        pass

    def end_line(self) -> None:
        pass


def test_ctrl_c_cancels_the_generation_and_not_the_conversation() -> None:
    wanted = script(HELLO)
    screen = Interrupted()
    with client(wanted) as talking:
        assert Repl(ChatSession(talking, screen, {}), typed("one", "two")).run() == 0  # type: ignore[arg-type]
    assert wanted.abandoned.is_set()
    assert conversation(wanted) == [{"role": "user", "content": "two"}]
    assert screen.said == ["stopped; this turn is not in the conversation, /retry sends it again"]


def test_ctrl_c_of_a_single_prompt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Screen, "on", lambda out, notes: Interrupted())
    wanted = script(HELLO)
    assert converse(wanted, "hi") == 130
    assert wanted.abandoned.is_set()


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notes = Terminal()
    Screen.on(Terminal(), notes).say("f()", colour="36")
    assert notes.getvalue() == ("\x1b[36mf()\x1b[0m\n" if coloured else "f()\n")


def test_a_pipe_is_never_coloured() -> None:
    notes = io.StringIO()
    Screen.on(Terminal(), notes).say("f()", colour="36")
    assert notes.getvalue() == "f()\n"


@pytest.mark.parametrize(("out", "shown"), [(Terminal(), "a\ufffd[2Jb\n\tc"), (io.StringIO(), "a\x1b[2Jb\n\tc")])
def test_an_answer_can_not_command_the_terminal(out: io.StringIO, shown: str) -> None:
    screen = Screen.on(out, io.StringIO())
    screen.show(ContentDelta("a\x1b[2Jb\n\tc"))
    screen.show(Finished(FinishReason.STOP))
    assert out.getvalue() == shown


@pytest.mark.parametrize(
    ("given", "grpc", "url"),
    [
        (None, False, "http://127.0.0.1:8000"),
        (None, True, "grpc://127.0.0.1:8001"),
        ("triton:9", False, "http://triton:9"),
        ("triton:9", True, "grpc://triton:9"),
        ("grpcs://triton:9", False, "grpcs://triton:9"),
        ("https://triton", False, "https://triton"),
    ],
)
def test_the_url_and_its_transport(given: str | None, grpc: bool, url: str) -> None:
    assert server_url(given, grpc=grpc) == url


@pytest.mark.parametrize(("given", "grpc"), [("http://triton:9", True), ("ftp://triton", False), ("http://", False)])
def test_a_url_that_can_not_be_meant_is_refused(given: str, grpc: bool) -> None:
    with pytest.raises(InvalidValue, match="HOST:PORT"):
        server_url(given, grpc=grpc)


def test_tools_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text('[{"type": "function", "function": {"name": "é"}}]', encoding="utf-8")
    assert read_tools(path) == [{"type": "function", "function": {"name": "é"}}]
    assert read_tools(None) is None


@pytest.mark.parametrize("content", [b"{}", b"[", b"\xff"])
def test_a_file_without_a_list_of_tools_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tools.json"
    path.write_bytes(content)
    with pytest.raises(InvalidValue):
        read_tools(path)


def test_a_missing_tools_file_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.json"
    assert main(["chat", "--tools", str(path), "hi"]) == 2
    expected = f"kimi-k2 chat: invalid_value: --tools: {path} can't be read: No such file or directory\n"
    assert capsys.readouterr().err == expected


def test_no_server_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--url", "http://127.0.0.1:1", "hi"]) == 1
    assert capsys.readouterr().err.startswith("kimi-k2 chat: unreachable: no connection to http://127.0.0.1:1")


def test_every_option_is_understood() -> None:
    parser = argparse.ArgumentParser()
    chat.configure(parser)
    line = [
        "--url",
        "u",
        "--grpc",
        "--system",
        "s",
        "--tools",
        "t",
        "--tool-choice",
        "none",
        "--max-tokens",
        "3",
        *("--temperature", "0.5", "--top-p", "0.9", "--seed", "4", "--stop", "a", "--stop", "b"),
        "--json",
        "p",
    ]
    assert vars(parser.parse_args(line)) == {
        "url": "u",
        "grpc": True,
        "system": "s",
        "tools": Path("t"),
        "tool_choice": "none",
        "max_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 4,
        "stop": ["a", "b"],
        "json": True,
        "prompt": "p",
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, None),
        ("required", "required"),
        ("get_weather", {"type": "function", "function": {"name": "get_weather"}}),
    ],
)
def test_a_tool_choice_is_a_word_or_the_name_of_a_tool(given: str | None, sent: object) -> None:
    assert tool_choice(given) == sent
