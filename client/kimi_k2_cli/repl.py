"""The conversation in a terminal: turns, commands, and the results of tool calls.

A turn that is cancelled or fails is removed from the conversation and kept for `/retry`. The user types or pastes the
result of a call; `!COMMAND` runs a command of the user on this machine, with the call's arguments as JSON on its
standard input.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kimi_k2_cli.given_file import read_json
from kimi_k2_cli.screen import WARNING
from kimi_k2_cli.session import ChatSession
from kimi_k2_cli.tools_file import read_tools
from kimi_k2_client import KimiError, ToolCall
from kimi_k2_serving.core.errors import InvalidValue

Ask = Callable[[str], str]
HELP = {
    "/system TEXT": "set the system message; without TEXT show it",
    "/tools FILE": "declare the tools of a JSON file; without FILE declare none",
    "/retry": "ask for the last turn's answer again",
    "/clear": "forget the conversation, except the system message",
    "/save FILE": "write the conversation as JSON",
    "/load FILE": "go on with a saved conversation",
    "/help": "this list; Enter sends, Alt-Enter begins a new line, Ctrl-C stops an answer, Ctrl-D leaves",
    "/exit": "leave, as Ctrl-D does",
}
WORDS = tuple(line.split()[0] for line in HELP)
LEAVING = ("exit", "quit", "/exit", "/quit")
COMMAND_SECONDS = 120


@dataclass(slots=True)
class Repl:
    """`ask` shows a prompt and returns the text; it raises EOFError and KeyboardInterrupt."""

    session: ChatSession
    ask: Ask
    last_turn: list[dict[str, Any]] = field(default_factory=list)

    def run(self, banner: str = "") -> int:
        if banner:
            self.say(banner)
        while True:
            try:
                text = self.ask("> ")
            except EOFError:
                return 0
            except KeyboardInterrupt:
                self.say("[Ctrl-D or /exit leaves]")
                continue
            if text.strip() in LEAVING:
                return 0
            if text.startswith("/") and text.split()[0] in WORDS:
                self.command(text)
            elif text.startswith("/") and "\n" not in text and "/" not in text.split()[0][1:]:
                self.say(f"there is no command {text.split()[0]}; /help lists them", is_wrong=True)
            elif text.strip():
                self.turn([{"role": "user", "content": text}])

    def say(self, text: str, *, is_wrong: bool = False) -> None:
        if is_wrong:
            self.session.screen.say(text, colour=WARNING)
        else:
            self.session.screen.say(text)

    def turn(self, added: list[dict[str, Any]]) -> None:
        """Append the messages, and get answers until one calls no tool."""
        messages = self.session.messages
        start = len(messages)
        self.last_turn = added
        messages.extend(added)
        try:
            while calls := self.session.answer().tool_calls:
                for call in calls:
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": self.result(call)})
        except KimiError as error:
            self.take_back(start, f"kimi-k2 chat: {error}")
        except (KeyboardInterrupt, EOFError):
            self.take_back(start, "stopped")

    def take_back(self, start: int, why: str) -> None:
        del self.session.messages[start:]
        self.say(f"{why}; this turn is not in the conversation, /retry sends it again", is_wrong=True)

    def result(self, call: ToolCall) -> str:
        """The result of the call, as the user typed or pasted it or a command printed it."""
        while True:
            text = self.ask(f"{call.name} returned (paste it, or !COMMAND)> ")
            if not text.startswith("!"):
                return text
            if (output := self.run_command(text[1:], call)) is not None:
                return output

    def run_command(self, command: str, call: ToolCall) -> str | None:
        """The command's output, None if it failed."""
        try:
            done = subprocess.run(
                command, shell=True, input=call.arguments, capture_output=True, text=True, timeout=COMMAND_SECONDS
            )
        except subprocess.TimeoutExpired:
            self.say(f"the command took longer than {COMMAND_SECONDS} s and was ended", is_wrong=True)
            return None
        if done.returncode:
            self.say(f"the command ended with {done.returncode}: {done.stderr.strip()[-500:]}", is_wrong=True)
            return None
        self.say(done.stdout.rstrip("\n"))
        return done.stdout

    def command(self, text: str) -> None:
        name, _, argument = text.strip().partition(" ")
        argument = argument.strip()
        actions: dict[str, Callable[[str], None]] = {
            "/system": self.system,
            "/tools": self.tools,
            "/retry": self.retry,
            "/clear": self.clear,
            "/save": self.save,
            "/load": self.load,
            "/help": self.help,
        }
        try:
            actions[name](argument)
        except InvalidValue as error:
            self.say(f"{name}: {error.detail}", is_wrong=True)

    def system(self, text: str) -> None:
        if text:
            self.session.set_system(text)
        self.say(f"system message: {self.session.system or 'none'}")

    def tools(self, file: str) -> None:
        tools = read_tools(Path(file).expanduser()) if file else None
        self.session.options = {**self.session.options, "tools": tools}
        names = [str(tool.get("function", {}).get("name")) for tool in tools or [] if isinstance(tool, dict)]
        self.say(f"tools: {', '.join(names) or 'none'}")

    def retry(self, _: str) -> None:
        if not self.last_turn:
            raise InvalidValue("there was no turn yet", field="/retry")
        messages = self.session.messages
        if (at := self._place_of(self.last_turn[0])) is not None:
            del messages[at:]
        self.turn(self.last_turn)

    def _place_of(self, message: dict[str, Any]) -> int | None:
        return next((at for at, each in enumerate(self.session.messages) if each is message), None)

    def clear(self, _: str) -> None:
        self.session.clear()
        self.last_turn = []
        self.say("a new conversation")

    def save(self, file: str) -> None:
        path = _path(file, "/save")
        try:
            path.write_text(json.dumps(self.session.messages, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidValue(f"the file can't be written: {error.strerror}", field="/save") from None
        self.say(f"{len(self.session.messages)} messages in {path}")

    def load(self, file: str) -> None:
        path = _path(file, "/load")
        messages = read_json(path, "/load")
        if not isinstance(messages, list) or not all(isinstance(each, dict) and "role" in each for each in messages):
            raise InvalidValue("the file must contain a list of messages", field="/load")
        self.session.messages[:] = cast(list[dict[str, Any]], messages)
        self.last_turn = []
        self.say(f"{len(messages)} messages from {path}")

    def help(self, _: str) -> None:
        width = max(map(len, HELP))
        self.say("\n".join(f"{name:<{width}}  {said}" for name, said in HELP.items()))


def _path(file: str, command: str) -> Path:
    if not file:
        raise InvalidValue("name a file", field=command)
    return Path(file).expanduser()
