"""The conversation in a terminal: its commands, its tool calls, its line editor."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_triton import Refusal, Script, script
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from test_chat_command import CALL, CALLING, HELLO, USAGE, Terminal, client, conversation, typed

from kimi_k2_cli.keyboard import Keyboard, command_completer
from kimi_k2_cli.repl import HELP, WORDS, Repl
from kimi_k2_cli.screen import AnswerPace, Screen
from kimi_k2_cli.session import ChatSession
from kimi_k2_client import ChatEvent


def talk(wanted: Script, *lines: Any, options: dict[str, Any] | None = None) -> str:
    """What is shown beside the answers while these lines are typed."""
    notes = io.StringIO()
    with client(wanted) as talking:
        screen = Screen.on(io.StringIO(), notes)
        assert Repl(ChatSession(talking, screen, options or {}), typed(*lines)).run("hello there") == 0
    return notes.getvalue()


def test_a_banner_comes_first() -> None:
    assert talk(script(HELLO)).startswith("hello there\n")


@pytest.mark.parametrize("word", ["exit", "quit", "/exit", "/quit", " exit "])
def test_words_that_leave_are_not_sent(word: str) -> None:
    wanted = script(HELLO)
    talk(wanted, word, "never read")
    assert wanted.asked == []


def test_help_names_every_command() -> None:
    shown = talk(script(HELLO), "/help")
    assert all(name in shown for name in HELP)


def test_a_mistyped_command_is_not_sent_but_a_path_is() -> None:
    wanted = script(HELLO)
    assert "there is no command /sistem; /help lists them" in talk(wanted, "/sistem x", "/etc/hosts is what?")
    assert conversation(wanted) == [{"role": "user", "content": "/etc/hosts is what?"}]


def test_the_system_message_is_set_and_replaced_and_shown() -> None:
    wanted = script(HELLO)
    shown = talk(wanted, "/system one", "/system be brief", "hi", "/system")
    assert conversation(wanted)[0] == {"role": "system", "content": "be brief"}
    assert shown.count("system message: be brief") == 2


def test_tools_are_declared_from_a_file_and_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text('[{"type": "function", "function": {"name": "f"}}]')
    wanted = script(HELLO)
    shown = talk(wanted, f"/tools {path}", "one", "/tools", "two", "/tools nowhere")
    assert "tools: f" in shown
    assert "tools" in wanted.asked[0]
    assert "tools" not in wanted.asked[1]
    assert "/tools: nowhere can't be read: No such file or directory" in shown


def test_clear_forgets_all_but_the_system_message() -> None:
    wanted = script(HELLO)
    talk(wanted, "/system s", "one", "/clear", "two")
    assert [message["content"] for message in conversation(wanted)] == ["s", "two"]


def test_retry_asks_for_the_last_turn_again() -> None:
    wanted = script(HELLO)
    talk(wanted, "one", "two", "/retry")
    assert conversation(wanted, 2) == conversation(wanted, 1)
    assert "there was no turn yet" in talk(script(HELLO), "/retry")


def test_a_turn_that_failed_is_taken_back_said_so_and_retried() -> None:
    wanted = script([Refusal("overloaded: later", 503)], HELLO)
    shown = talk(wanted, "one", "/retry")
    assert "overloaded: later; this turn is not in the conversation, /retry sends it again" in shown
    assert conversation(wanted, 1) == [{"role": "user", "content": "one"}]


def test_a_conversation_is_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    talk(script(HELLO), "one", f"/save {path}")
    wanted = script(HELLO)
    talk(wanted, f"/load {path}", "two")
    assert [message["content"] for message in conversation(wanted)] == ["one", "hello", "two"]


@pytest.mark.parametrize(
    ("content", "says"), [("", "saved.json: not JSON"), ("{}", "a list of messages"), ("[1]", "a list of messages")]
)
def test_a_file_that_is_no_conversation_is_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "saved.json"
    path.write_text(content)
    assert says in talk(script(HELLO), f"/load {path}")
    assert "/save: name a file" in talk(script(HELLO), "/save")
    assert "/save: the file can't be written" in talk(script(HELLO), f"/save {tmp_path}")


def test_calls_are_shown_as_they_arrive() -> None:
    begin = json.dumps([{"index": 0, "id": "functions.f:0", "function": {"name": "f"}}])
    pieces = [json.dumps([{"index": 0, "function": {"arguments": text}}]) for text in ('{"a"', ": 1}")]
    notes = io.StringIO()
    seen = []

    class Watched(Screen):
        def show(self, event: ChatEvent) -> None:
            super().show(event)
            seen.append(notes.getvalue())

    with client(script([*({"tool_calls": text} for text in (begin, *pieces)), CALLING[-1]])) as talking:
        screen = Watched(io.StringIO(), notes, is_terminal=False, has_colour=False)
        ChatSession(talking, screen, {}, [{"role": "user", "content": "hi"}]).answer()
    assert seen[:3] == ["f(", 'f({"a"', 'f({"a": 1}']
    assert notes.getvalue() == 'f({"a": 1})\n[tool_calls, 3 + 5 tokens]\n'


def test_a_result_is_pasted_or_printed_by_a_command_that_gets_the_arguments() -> None:
    wanted = script(CALLING, HELLO)
    shown = talk(wanted, "one", "!exit 3", "!cat")
    assert "the command ended with 3" in shown
    assert conversation(wanted, 1)[-1]["content"] == '{"a": 1}'
    wanted = script(CALLING, HELLO)
    talk(wanted, "one", "two\nlines")
    assert conversation(wanted, 1)[-1]["content"] == "two\nlines"


def test_the_pace_is_told_at_a_terminal() -> None:
    now = iter([10.0, 10.5, 12.5])
    pace = AnswerPace(clock=lambda: next(now))
    pace.begin()
    pace.event()
    assert pace.told(5) == "first token 0.50 s, 2 tokens/s"
    assert AnswerPace().told(5) == ""


@contextmanager
def keyboard(history: Path | None = None) -> Iterator[tuple[Keyboard, PipeInput]]:
    with create_pipe_input() as keys:
        yield Keyboard(WORDS, history, source=keys, screen=DummyOutput()), keys


PASTE = "\x1b[200~{}\x1b[201~"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello\r", "hello"),
        ("helo\x1b[Dl\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("one\ntwo\r", "one\ntwo"),
        (PASTE.format("one\r\ntwo\rthree\n") + "\r", "one\ntwo\nthree\n"),
    ],
    ids=["plain", "editing", "alt-enter", "ctrl-j", "paste"],
)
def test_the_line_editor(keys: str, text: str) -> None:
    with keyboard() as (ask, pressed):
        pressed.send_text(keys)
        assert ask("> ") == text


def test_tab_completes_commands_at_the_beginning() -> None:
    found = [
        [each.text for each in command_completer(WORDS).get_completions(Document(text), CompleteEvent())]
        for text in ("/sys", "what is /sys", "/")
    ]
    assert found == [["/system"], [], list(WORDS)]


@pytest.mark.parametrize(("key", "error"), [("\x03", KeyboardInterrupt), ("\x04", EOFError)])
def test_ctrl_c_and_ctrl_d_end_the_line(key: str, error: type[BaseException]) -> None:
    with keyboard() as (ask, pressed):
        pressed.send_text(key)
        with pytest.raises(error):
            ask("> ")


def test_the_history_is_kept_in_a_file_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history"
    with keyboard(path) as (ask, pressed):
        pressed.send_text("remember me\r")
        ask("> ")
    assert path.stat().st_mode & 0o777 == 0o600
    with keyboard(path) as (ask, pressed):
        pressed.send_text("\x1b[A\r")
        assert ask("> ") == "remember me"


def test_an_impossible_history_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with keyboard(tmp_path / "file" / "history") as (ask, pressed):
        pressed.send_text("hi\r")
        assert ask("> ") == "hi"


def test_a_terminal_is_told_what_a_call_was() -> None:
    notes = Terminal()
    with client(script([{"tool_calls": CALL}, {"finish_reason": "tool_calls", "usage": USAGE}])) as talking:
        session = ChatSession(talking, Screen.on(Terminal(), notes), {}, [{"role": "user", "content": "hi"}])
        session.answer()
    assert "first token" in notes.getvalue()
