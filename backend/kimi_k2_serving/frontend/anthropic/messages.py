"""`POST /v1/messages` and `/v1/messages/count_tokens`, and `GET /v1/models` in Anthropic's form.

A stream consists of `message_start`; for each content block its start, deltas and stop; `message_delta` with the stop
reason and the final usage; and `message_stop`. Blocks never overlap, and their indices have no gaps. `ping` is sent
during longer silences.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    CallRejected,
    Event,
    Finish,
    FinishReason,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object
from kimi_k2_serving.engine.port import TokenUsage
from kimi_k2_serving.frontend import sse
from kimi_k2_serving.frontend.answer import Question, Step, gather_answer
from kimi_k2_serving.frontend.anthropic.envelope import usage
from kimi_k2_serving.frontend.anthropic.request import read_messages_request
from kimi_k2_serving.frontend.exchange import EventStream, JsonDocument, LargeDocument, Reply
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.reading import Read, Reader
from kimi_k2_serving.frontend.reports import remarks
from kimi_k2_serving.frontend.service import Call, Service

ID_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
EMPTY: Object = {"type": "text", "text": ""}


@dataclass(frozen=True, slots=True)
class MessagesOptions:
    model: str
    stream: bool


def reading(service: Reader, body: Json) -> Read:
    origin = Origin()
    with origin.errors():
        request = read_messages_request(service, body, origin)
        prompt, job = service.model.prompt(request.conversation, request.sampling), service.model.enforcer.job
        return Read(MessagesOptions(request.model, request.stream), (prompt,), job(request.conversation), origin=origin)


def counting(service: Reader, body: Json) -> Read:
    origin = Origin()
    with origin.errors():
        tokens = service.model.count(read_messages_request(service, body, origin, counting=True).conversation)
    return Read(echo={"input_tokens": sse.encode_json(tokens)}, origin=origin)


async def create(service: Service, call: Call) -> Reply:
    found = await service.read(reading, call)
    request, origin, prompt = found.request(MessagesOptions), found.origin, await service.prompt(found)
    question = Question((prompt,), stream=request.stream)
    steps = service.steps(question, call)
    head: Object = {"id": f"msg_{service.new_uid()}", "type": "message", "role": "assistant", "model": request.model}
    if request.stream:
        return EventStream(frames(steps, head, origin))
    answers = await gather_answer(steps, question)
    answer = answers.answers[0]
    content = blocks(answers.events[0])
    reason, stop = stop_reason(answer.finish_reason, answer.stop)
    if reason == "tool_use" and all(block["type"] == "text" for block in content):
        reason = "end_turn"
    return LargeDocument(
        {
            **head,
            "content": list(content),
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage(answers.usage),
            **remarks(answers.reports, origin),
        }
    )


async def count(service: Service, call: Call) -> Reply:
    """The sum of the input tokens that the same request to `create` would report."""
    found = await service.read(counting, call)
    return JsonDocument({"input_tokens": found.said("input_tokens")})


def model_card(service: Service, name: str) -> Json:
    """The description of a model. Clients require a date, but the server knows none, so `created_at` is a constant."""
    return {"type": "model", "id": name, "display_name": service.model.names[0], "created_at": "1970-01-01T00:00:00Z"}


async def list_models(service: Service, call: Call) -> Reply:
    names = [(each, name) for each in service.together for name in each.model.names]
    found: list[Json] = [model_card(each, name) for each, name in names]
    return JsonDocument({"data": found, "has_more": False, "first_id": names[0][1], "last_id": names[-1][1]})


async def show_model(service: Service, call: Call) -> Reply:
    chosen = service.of_model(call.parameters["id"])
    return JsonDocument(model_card(chosen, chosen.served(call.parameters["id"])))


def stop_reason(reason: FinishReason, stop: str | None) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence)."""
    match reason:
        case FinishReason.LENGTH:
            return "max_tokens", None
        case FinishReason.TOOL_CALLS:
            return "tool_use", None
        case FinishReason.STOP:
            return ("end_turn", None) if stop is None else ("stop_sequence", stop)
    assert_never(reason)


def blocks(events: Iterable[Event]) -> list[Object]:
    """The content blocks that a stream of these events would build, in the same order.

    If a call's arguments are incomplete (the length ran out), it has no valid input. Then they become a text block.
    """
    writer = BlockWriter()
    result: list[Object] = []
    pieces: list[str] = []
    for event in events:
        is_whole = isinstance(event, ToolCallEnd) and event.complete
        for frame in writer.feed(event):
            match frame:
                case {"content_block": dict(block)}:
                    pieces = []
                    result.append(block)
                case {"delta": {"text": str(piece)} | {"partial_json": str(piece)}}:
                    pieces.append(piece)
                case {"type": "content_block_stop"}:
                    result[-1] = finished(result[-1], "".join(pieces), is_whole=is_whole)
    return [block for block in result if block != EMPTY]


def finished(block: Object, text: str, *, is_whole: bool) -> Object:
    """The block with its content. Complete arguments are not decoded: core's scanner (`json_scan`) has checked them."""
    if block["type"] == "tool_use" and is_whole:
        return {**block, "input": sse.verbatim(text)}
    return {"type": "text", "text": text}


async def frames(steps: AsyncIterator[Step], head: Object, origin: Origin) -> AsyncIterator[bytes]:
    writer = BlockWriter()
    started = False
    async with aclosing(steps):  # type: ignore[type-var]
        async for step in steps:
            if not started:
                started = True
                yield sse.event("message_start", {"type": "message_start", "message": opening(head, step.usage)})
            for event in step.events:
                for frame in writer.feed(event):
                    yield sse.event(str(frame["type"]), frame)
            if step.last:
                yield sse.event("message_delta", closing(step, origin))
    yield sse.event("message_stop", {"type": "message_stop"})


def opening(head: Object, counts: TokenUsage) -> Object:
    """The message of `message_start`. The final count of cached tokens comes with `message_delta`."""
    empty: Object = {"content": [], "stop_reason": None, "stop_sequence": None}
    return {**head, **empty, "usage": usage(TokenUsage(counts.prompt, 0, counts.cached))}


def closing(step: Step, origin: Origin) -> Object:
    finish = next(event for event in step.events if isinstance(event, Finish))
    reason, stop = stop_reason(finish.reason, finish.stop)
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": stop},
        "usage": usage(step.usage),
        **remarks((step.report,), origin),
    }


def block_id(id_: str) -> str:
    """A call's id, reduced to the characters that Anthropic's clients accept. Its number makes it unique in a
    conversation. It is read back like an id that a client made (rules H1 to H8).
    """
    return "".join(letter if letter in ID_LETTERS else "_" for letter in id_)


class BlockWriter:
    """Translates core events to block events. One block is open at a time. Blocks are numbered in order."""

    def __init__(self) -> None:
        self._index = -1
        self._open: str | None = None

    def feed(self, event: Event) -> list[Object]:
        match event:
            case TextDelta(text):
                opened = [] if self._open == "text" else self._start("text", {"type": "text", "text": ""})
                return [*opened, self._delta({"type": "text_delta", "text": text})]
            case ToolCallStart(_, id_, name):
                block: Object = {"type": "tool_use", "id": block_id(id_), "name": name, "input": {}}
                return self._start("tool_use", block)
            case ArgumentsDelta(_, fragment):
                return [self._delta({"type": "input_json_delta", "partial_json": fragment})]
            case ToolCallEnd() | Finish():
                return self._stop()
            case CallRejected():
                return []
        assert_never(event)

    def _start(self, kind: str, block: Object) -> list[Object]:
        stopped = self._stop()
        self._index += 1
        self._open = kind
        return [*stopped, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _delta(self, delta: Object) -> Object:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _stop(self) -> list[Object]:
        if self._open is None:
            return []
        self._open = None
        return [{"type": "content_block_stop", "index": self._index}]
