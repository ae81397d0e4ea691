"""The events of a streamed answer, and the whole answer that they add up to.

Every whole answer is built by `collect` or `collect_tokens`, so it can't differ from the streamed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from kimi_k2_client.errors import UnexpectedAnswer, lost
from kimi_k2_serving.core.events import FinishReason
from kimi_k2_serving.core.messages import ToolCall


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `cached_tokens` counts the prompt tokens that were in the engine's prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """The next piece of the content, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of call `index`. The first piece has `id` and `name`. Each may add to `arguments` (JSON text)."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TokensDelta:
    """A piece of the engine's answer: new ids, and the text that they complete. Either may be empty."""

    text: str
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Always the last event, exactly once. `usage` is None if the server sent none.

    `enforcement` reports what the grammar did not enforce, and is None if it enforced everything: `relaxed` lists
    `path: keyword`, `invalid` has `{"index", "problems"}` of calls, `invalid_content` the problems of content.
    `notices` has a line `path: what` for each part of the request that had no effect.
    """

    finish_reason: FinishReason
    usage: Usage | None = None
    enforcement: Mapping[str, Any] | None = None
    notices: tuple[str, ...] = ()


ChatEvent = ContentDelta | ToolCallDelta | Finished
TokensEvent = TokensDelta | Finished


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """`enforcement` and `notices` as in `Finished`."""

    content: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage | None
    enforcement: Mapping[str, Any] | None = None
    notices: tuple[str, ...] = ()

    def message(self) -> dict[str, Any]:
        """The answer as the assistant message to append to the conversation, in OpenAI's shape."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return message


@dataclass(frozen=True, slots=True)
class TokensAnswer:
    """The engine's answer, without the prompt."""

    text: str
    output_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage | None


@dataclass(slots=True)
class _CallInProgress:
    id: str
    name: str
    fragments: list[str] = field(default_factory=list)


def collect(events: Iterable[ChatEvent]) -> ChatAnswer:
    """The whole answer. Raises ConnectionLost if the events end without Finished."""
    content: list[str] = []
    calls: dict[int, _CallInProgress] = {}
    for event in events:
        match event:
            case ContentDelta(text):
                content.append(text)
            case ToolCallDelta():
                _add(calls, event)
            case Finished(reason, usage, enforcement, notices):
                whole = tuple(ToolCall(call.id, call.name, "".join(call.fragments)) for call in calls.values())
                return ChatAnswer("".join(content), whole, reason, usage, enforcement, notices)
            case _:
                assert_never(event)
    raise lost()


def collect_tokens(events: Iterable[TokensEvent]) -> TokensAnswer:
    """The whole answer. Raises ConnectionLost if the events end without Finished."""
    text: list[str] = []
    ids: list[int] = []
    for event in events:
        match event:
            case TokensDelta():
                text.append(event.text)
                ids.extend(event.ids)
            case Finished(reason, usage):
                return TokensAnswer("".join(text), tuple(ids), reason, usage)
            case _:
                assert_never(event)
    raise lost()


def _add(calls: dict[int, _CallInProgress], delta: ToolCallDelta) -> None:
    call = calls.get(delta.index)
    if call is None:
        if delta.id is None or delta.name is None:
            raise UnexpectedAnswer(f"tool call {delta.index} does not begin with its id and name")
        call = calls[delta.index] = _CallInProgress(delta.id, delta.name)
    call.fragments.append(delta.arguments)
