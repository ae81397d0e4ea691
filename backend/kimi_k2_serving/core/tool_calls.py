"""Parses an answer's token ids into events: content, tool calls, the end.

Promises: the same events for every split of the ids, up to merging adjacent deltas; only control ids of the vocabulary
are markers, so text spelled like a marker is text; no control id reaches content, a name or arguments; a character that
is split over tokens is held back until it is complete. Linear; one dictionary look-up for a token seen before. Rules A1
to A5 of docs/kimi_k2_format.md. Knows nothing of schemas, dialects or engines.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from typing import Protocol

from kimi_k2_serving.core.call_machine import CallMachine, Marker
from kimi_k2_serving.core.events import Event, FinishReason

__all__ = ["ToolCallParser"]


class TokenTable(Protocol):
    """The part of a vocabulary that the parser needs."""

    def control(self, name: str) -> int: ...

    def token_bytes(self, token: int) -> bytes: ...


class _Tokens(dict[int, str | bytes | Marker]):
    """Id -> a marker, text, or bytes that are not whole characters; filled when an id first occurs.

    A control id that is not a marker has no bytes, so its text is empty.
    """

    __slots__ = ("_token_bytes",)

    def __init__(self, vocabulary: TokenTable) -> None:
        super().__init__({vocabulary.control(marker.value): marker for marker in Marker})
        self._token_bytes = vocabulary.token_bytes

    def __missing__(self, token: int) -> str | bytes:
        data = self._token_bytes(token)
        try:
            value: str | bytes = data.decode()
        except UnicodeDecodeError:
            value = data
        self[token] = value
        return value


class ToolCallParser:
    """The parser of one answer. `tools` are the declared names; if empty, every call is undeclared.

    first_index is the number of earlier calls in the conversation; parallel=False allows only one call; stops are the
    stop strings, matched in content only. Raises InvalidValue if the vocabulary lacks a marker.
    """

    __slots__ = ("_machine", "_pending", "_tokens")

    def __init__(
        self,
        vocabulary: TokenTable,
        *,
        tools: Collection[str],
        first_index: int = 0,
        parallel: bool = True,
        stops: Sequence[str] = (),
    ) -> None:
        self._tokens = _Tokens(vocabulary)
        self._machine = CallMachine(tools=tools, first_index=first_index, parallel=parallel, stops=stops)
        # The bytes of a character that is still incomplete: at most three.
        self._pending = b""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has matched or the answer is finished. Then the caller aborts the engine; more ids
        yield no events.
        """
        return self._machine.stopped

    def feed(self, ids: Sequence[int]) -> list[Event]:
        """The events that these ids complete. Raises InvalidValue for an id outside the vocabulary."""
        events: list[Event] = []
        run: list[str] = []
        tokens, machine = self._tokens, self._machine
        for token in ids:
            value = tokens[token]
            if isinstance(value, str) and not self._pending:
                run.append(value)
            elif isinstance(value, Marker):
                run.append(self._unfinished())
                if text := "".join(run):
                    events += machine.text(text)
                run.clear()
                events += machine.marker(value)
            else:
                run.append(self._decoded(value))
        if text := "".join(run):
            events += machine.text(text)
        return events

    def finish(self, reason: FinishReason) -> list[Event]:
        """The last events; Finish is the very last. `reason` says why the engine ended: STOP or LENGTH."""
        rest = self._unfinished()
        events = list(self._machine.text(rest)) if rest else []
        return [*events, *self._machine.finish(reason)]

    def _decoded(self, value: str | bytes) -> str:
        data = self._pending + (value.encode() if isinstance(value, str) else value)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text

    def _unfinished(self) -> str:
        """U+FFFD for a character that a marker or the end cut short."""
        text = self._pending.decode("utf-8", "replace")
        self._pending = b""
        return text
