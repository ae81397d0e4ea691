"""The line editor of `kimi-k2 chat`: history, several lines, and a pasted text as one message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output


class Keyboard:
    """Asks at a terminal. Enter sends; Alt-Enter or Ctrl-J begins a new line. Call it with the prompt.

    Raises EOFError for Ctrl-D and KeyboardInterrupt for Ctrl-C. Tests give `source` and `screen`.
    """

    def __init__(
        self,
        commands: Sequence[str],
        history: Path | None,
        *,
        source: Input | None = None,
        screen: Output | None = None,
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            multiline=True,
            key_bindings=_keys(),
            completer=command_completer(commands),
            complete_while_typing=False,
            prompt_continuation="… ",
            input=source,
            output=screen,
        )

    def __call__(self, prompt: str) -> str:
        return str(self._session.prompt(prompt))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def command_completer(commands: Sequence[str]) -> Completer:
    return WordCompleter(list(commands), sentence=True)


def _history(path: Path | None) -> History:
    """The history, in a file that only its owner can read. Without a path, or if the file can't be made, it is in
    memory.
    """
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
