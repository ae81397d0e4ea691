"""Rewrites the id of every tool call in a conversation to the id that the model itself would have written.

K2 sees the name of a past call only inside its id, so clients' ids (such as `call_abc123`, missing or reused ones)
become `functions.{name}:{n}`, where n counts all calls from 0. One pass without look-ahead: a rewritten message depends
only on itself and earlier ones, so the prompt of a turn is a prefix of the next turn's. Linear. Rules H1 to H8 of
docs/kimi_k2_format.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.messages import Message, Role, ToolCall


@dataclass(frozen=True, slots=True)
class History:
    """`next_index` is the number n in the id of the answer's first call."""

    messages: tuple[Message, ...]
    next_index: int


def call_id(name: str, index: int) -> str:
    """The id of the conversation's `index`-th call, as K2 was trained to write it."""
    return f"functions.{name}:{index}"


def normalise(messages: Iterable[Message]) -> History:
    """Rewrite all ids.

    Raises InvalidValue for `messages[i].tool_call_id` if no call has that id, or if the call already has a result.
    """
    calls = _Calls()
    rewritten = tuple(_rewrite(message, position, calls) for position, message in enumerate(messages))
    return History(rewritten, calls.count)


def _rewrite(message: Message, position: int, calls: _Calls) -> Message:
    if message.role is Role.TOOL:
        ours = calls.answer(message)
        if ours is None:
            raise InvalidValue(
                "no call is waiting for this result; send each result once, after the message with its call",
                field=f"messages[{position}].tool_call_id",
            )
        return Message(message.role, message.content, message.name, tool_call_id=ours)
    if message.tool_calls:
        return Message(message.role, message.content, message.name, calls.issue(message.tool_calls))
    return message


class _Calls:
    """The calls made so far, and those of them that have no result yet."""

    def __init__(self) -> None:
        self.count = 0
        # The client's id -> our ids, in order, of the calls in the last message that used it. That message hides
        # earlier calls.
        self._by_id: dict[str, Iterator[str]] = {}
        # Our id -> name, in order, of the calls without a result in the last message with calls.
        self._open: dict[str, str] = {}
        self._answered: set[str] = set()

    def issue(self, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        issued = []
        fresh: dict[str, list[str]] = {}
        self._open = {}
        for call in calls:
            ours = call_id(call.name, self.count)
            self.count += 1
            issued.append(ToolCall(ours, call.name, call.arguments))
            self._open[ours] = call.name
            if call.id:
                fresh.setdefault(call.id, []).append(ours)
        for theirs, waiting in fresh.items():
            self._by_id[theirs] = iter(waiting)
        return tuple(issued)

    def answer(self, result: Message) -> str | None:
        """Mark the call that `result` belongs to as answered and return our id of it; None if there is no such call."""
        ours = self._by_its_id(result.tool_call_id) if result.tool_call_id else self._by_order(result.name)
        if ours is not None:
            self._answered.add(ours)
            self._open.pop(ours, None)
        return ours

    def _by_its_id(self, theirs: str) -> str | None:
        """The first unanswered call with this id. The iterator drops the calls that it skips, because they stay
        answered.
        """
        return next((ours for ours in self._by_id.get(theirs, ()) if ours not in self._answered), None)

    def _by_order(self, name: str | None) -> str | None:
        """The first open call with this name, else the first open call."""
        named = (ours for ours, called in self._open.items() if called == name)
        return next(named, None) or next(iter(self._open), None)
