"""`kimi-k2 chat`: one prompt, or a conversation in the terminal, with streamed answers.

Content goes to standard output, everything else to standard error, so that a pipe gets only the answer. With `--json`
standard output has one JSON object per event instead. On a terminal control characters in the model's text appear as
U+FFFD, so an answer can't move the cursor or set the title. Ctrl-C cancels only the generation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO, assert_never

from kimi_k2_client import (
    ChatAnswer,
    ChatEvent,
    Client,
    ContentDelta,
    Finished,
    InvalidRequest,
    KimiError,
    ToolCallDelta,
    collect,
)
from kimi_k2_serving import settings
from kimi_k2_serving.core.errors import InvalidValue

HTTP_URL = "http://127.0.0.1:8000"
GRPC_URL = "grpc://127.0.0.1:8001"
INTERRUPTED = 130  # the exit code that shells report after Ctrl-C
EXAMPLE = """\
  kimi-k2 chat "What is a sparse mixture of experts?"
  kimi-k2 chat --tools tools.json --json "What is the weather in Lisbon?" | jq .
  kimi-k2 chat                       a conversation; Ctrl-C stops an answer, Ctrl-D ends it
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("prompt", nargs="?", help="the user's message; without it standard input is read")
    parser.add_argument("--url", help=f"the server (default {HTTP_URL}, with --grpc {GRPC_URL})")
    parser.add_argument("--grpc", action="store_true", help="use gRPC")
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument("--tools", metavar="FILE", type=Path, help="a JSON file with a list of OpenAI tools")
    parser.add_argument(
        "--tool-choice", metavar="CHOICE", help="auto (default), none, required, or the name of one of the tools"
    )
    parser.add_argument(
        "--max-tokens", metavar="N", type=int, help="maximum tokens of an answer (default: the rest of the context)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per event on standard output")


def run(args: argparse.Namespace) -> int:
    url = server_url(args.url, grpc=args.grpc)
    options: dict[str, Any] = {
        "tools": read_tools(args.tools),
        "tool_choice": tool_choice(args.tool_choice),
        "max_tokens": args.max_tokens,
    }
    with Client(url) as client:
        return converse(client, args.prompt, system=args.system, as_json=args.json, options=options)


def converse(
    client: Client,
    prompt: str | None,
    *,
    system: str | None,
    as_json: bool,
    options: Mapping[str, Any],
    ask: Callable[[str], str] = input,
) -> int:
    """One answer, or, without a prompt on a terminal, answers until the input ends. Returns the exit code."""
    screen = JsonLines(sys.stdout) if as_json else Screen.on(sys.stdout, sys.stderr)
    conversation = ChatSession(client, screen, options)
    if system is not None:
        conversation.messages.append({"role": "system", "content": system})
    if prompt is None and sys.stdin.isatty():
        return talk(conversation, ask)
    conversation.messages.append({"role": "user", "content": sys.stdin.read() if prompt is None else prompt})
    try:
        conversation.answer()
    except KimiError as error:
        return failed(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def talk(conversation: ChatSession, ask: Callable[[str], str]) -> int:
    """The terminal conversation. A turn that fails or is cancelled is removed from it, so that another can follow."""
    while True:
        try:
            text = ask("> ")
        except EOFError:
            print(file=sys.stderr)
            return 0
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        if not text.strip():
            continue
        turn = len(conversation.messages)
        conversation.messages.append({"role": "user", "content": text})
        try:
            while calls := conversation.answer().tool_calls:
                for call in calls:
                    result = ask(f"{call.name} returned> ")
                    conversation.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        except KimiError as error:
            failed(error)
            del conversation.messages[turn:]
        except (KeyboardInterrupt, EOFError):
            print(file=sys.stderr)
            del conversation.messages[turn:]


@dataclass(slots=True)
class Screen:
    """Writes content to `out`, and tool calls and the closing lines to `notes`."""

    out: TextIO
    notes: TextIO
    is_terminal: bool
    has_colour: bool
    at_line_start: bool = True

    @classmethod
    def on(cls, out: TextIO, notes: TextIO) -> Screen:
        return cls(out, notes, out.isatty(), notes.isatty() and settings.wants_colour())

    def show(self, event: ChatEvent) -> None:
        match event:
            case ContentDelta(text):
                self.out.write(printable(text) if self.is_terminal else text)
                self.out.flush()
                self.at_line_start = text.endswith("\n")
            case ToolCallDelta() | Finished():
                pass  # shown by `close`
            case _:
                assert_never(event)

    def close(self, answer: ChatAnswer) -> None:
        self.end_line()
        for call in answer.tool_calls:
            self.note(f"{call.name}({call.arguments})", colour="36")
        if answer.usage is not None:
            used = f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens"
            self.note(f"[{answer.finish_reason.value}, {used}]", colour="2")
        if answer.enforcement is not None:
            self.note(f"[enforcement: {json.dumps(answer.enforcement, ensure_ascii=False)}]", colour="33")
        for line in answer.notices:
            self.note(f"[notice: {line}]", colour="33")

    def end_line(self) -> None:
        """After an answer, complete or not, move the cursor to the beginning of a line."""
        if not self.at_line_start:
            self.out.write("\n")
            self.out.flush()
            self.at_line_start = True

    def note(self, text: str, *, colour: str) -> None:
        text = printable(text)
        print(f"\x1b[{colour}m{text}\x1b[0m" if self.has_colour else text, file=self.notes)


@dataclass(slots=True)
class JsonLines:
    """Writes `{"type": "content" | "tool_call" | "finished", ...}`, one line per event, and flushes each."""

    out: TextIO

    def show(self, event: ChatEvent) -> None:
        match event:
            case ContentDelta(text):
                self._line({"type": "content", "text": text})
            case ToolCallDelta():
                self._line({"type": "tool_call", **asdict(event)})
            case Finished(reason, usage, enforcement, notices):
                counts = asdict(usage) if usage is not None else None
                report: dict[str, Any] = {} if enforcement is None else {"enforcement": enforcement}
                if notices:
                    report["notices"] = list(notices)
                self._line({"type": "finished", "finish_reason": reason.value, "usage": counts, **report})
            case _:
                assert_never(event)

    def _line(self, value: Mapping[str, Any]) -> None:
        print(json.dumps(value, ensure_ascii=False), file=self.out, flush=True)

    def close(self, answer: ChatAnswer) -> None:
        pass

    def end_line(self) -> None:
        pass


@dataclass(slots=True)
class ChatSession:
    client: Client
    screen: Screen | JsonLines
    options: Mapping[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)

    def answer(self) -> ChatAnswer:
        """Stream the next answer to the screen and append it. An exception cancels it on the server."""
        events: list[ChatEvent] = []
        try:
            with self.client.chat_stream(self.messages, **self.options) as stream:
                for event in stream:
                    events.append(event)
                    self.screen.show(event)
        finally:
            self.screen.end_line()
        answer = collect(events)
        self.screen.close(answer)
        self.messages.append(answer.message())
        return answer


def server_url(url: str | None, *, grpc: bool) -> str:
    """The URL with its scheme. Raises InvalidValue if no transport supports it, or for `--grpc` with an HTTP URL."""
    if url is None:
        return GRPC_URL if grpc else HTTP_URL
    if "://" not in url:
        url = f"{'grpc' if grpc else 'http'}://{url}"
    scheme, _, address = url.partition("://")
    schemes = ("grpc", "grpcs") if grpc else ("http", "https", "grpc", "grpcs")
    if scheme not in schemes or not address:
        raise InvalidValue(f"must be {' or '.join(f'{known}://HOST:PORT' for known in schemes)}", field="--url")
    return url


def tool_choice(given: str | None) -> Any:
    """OpenAI's form of the choice: a word, or the tool to call."""
    if given in (None, "auto", "none", "required"):
        return given
    return {"type": "function", "function": {"name": given}}


def read_tools(path: Path | None) -> Any:
    """The file's JSON list, or InvalidValue. The server checks the tools in it."""
    if path is None:
        return None
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InvalidValue("the file can't be read", field="--tools") from None
    except ValueError:
        raise InvalidValue("the file is not JSON", field="--tools") from None
    if not isinstance(tools, list):
        raise InvalidValue("the file must contain a JSON list of tools", field="--tools")
    return tools


def printable(text: str) -> str:
    """The text with U+FFFD for all C0 and C1 control characters but line feed and tab."""
    return "".join(character if _is_harmless(character) else "\ufffd" for character in text)


def _is_harmless(character: str) -> bool:
    return character in "\n\t" or not (character < " " or "\x7f" <= character <= "\x9f")


def failed(error: KimiError) -> int:
    print(f"kimi-k2 chat: {printable(str(error))}", file=sys.stderr)
    return 2 if isinstance(error, InvalidRequest) else 1
