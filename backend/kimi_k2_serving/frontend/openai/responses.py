"""`POST /v1/responses`: create a response, whole or streamed, with function calls. Nothing is stored or can be fetched.

A stream begins with `response.created` and `response.in_progress`. Each item has the events added, deltas and done. The
last event is `response.completed`, or `response.incomplete` if the length ran out. The sequence numbers have no gaps.
An `error` event ends a stream that fails; its number is 0.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, assert_never

from kimi_k2_serving.chat.prompt import PreparedPrompt
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
from kimi_k2_serving.enforcer.inspection import Report
from kimi_k2_serving.engine.port import TokenUsage
from kimi_k2_serving.frontend import sse
from kimi_k2_serving.frontend.answer import Question, Step
from kimi_k2_serving.frontend.exchange import EventStream, LargeDocument, Reply
from kimi_k2_serving.frontend.openai.freeform import CALL, FreeformInput
from kimi_k2_serving.frontend.openai.responses_request import ResponsesRequest, read_responses_request
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.reading import Read, Reader
from kimi_k2_serving.frontend.reports import remarks
from kimi_k2_serving.frontend.service import Call, Service


@dataclass(frozen=True, slots=True)
class ResponsesOptions:
    """`functions`: a function's name in the prompt -> the keys that name it in calls of the answer."""

    model: str
    stream: bool
    functions: dict[str, dict[str, Any]]


def reading(service: Reader, body: Json) -> Read:
    origin = Origin()
    with origin.errors():
        request = read_responses_request(service, body, origin)
        prompt, job = service.model.prompt(request.conversation, request.sampling), service.model.enforcer.job
        echo = {name: sse.encode_json(value) for name, value in repeated(request).items()}
        asked = ResponsesOptions(request.model, request.stream, request.functions)
        return Read(asked, (prompt,), job(request.conversation), echo, origin=origin)


def repeated(request: ResponsesRequest) -> Object:
    """The fields of the request that a response repeats."""
    source = request.source
    return {
        "instructions": source.get("instructions"),
        "max_output_tokens": source.get("max_output_tokens"),
        "metadata": source.get("metadata") or {},
        "parallel_tool_calls": request.conversation.parallel_tool_calls,
        "text": source.get("text") or {"format": {"type": "text"}},
        "tool_choice": source.get("tool_choice") or "auto",
        "tools": source.get("tools") or [],
    }


async def create(service: Service, call: Call) -> Reply:
    found = await service.read(reading, call)
    request, prompt = found.request(ResponsesOptions), await service.prompt(found)
    steps = service.steps(Question((prompt,), stream=request.stream), call)
    writer = ResponsesWriter(service, request, prompt, {name: found.said(name) for name in found.echo}, found.origin)
    if request.stream:
        return EventStream(writer.frames(steps))
    async with aclosing(steps):  # type: ignore[type-var]
        async for step in steps:
            for event in step.events:
                writer.items.feed(event)
            last = step
    return LargeDocument(writer.response(last.usage, last.report))


class ResponsesWriter:
    """Writes the answer to one request as a response object, or as events that end with it."""

    def __init__(
        self, service: Service, request: ResponsesOptions, prompt: PreparedPrompt, repeated: Object, origin: Origin
    ) -> None:
        self._origin = origin
        self.items = ItemWriter(service.new_uid(), request.functions)
        self._head: Object = {
            "id": f"resp_{service.new_uid()}",
            "object": "response",
            "created_at": int(service.now()),
            "model": request.model,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": prompt.sampling.get("temperature", 1.0),
            "top_p": prompt.sampling.get("top_p", 1.0),
            "truncation": "disabled",
            **repeated,
        }
        self._sequence = 0

    def response(self, counts: TokenUsage | None, report: Report | None = None) -> Object:
        """The response object. `counts` is None while the answer is generated."""
        details: Json = None
        if counts is None:
            status = "in_progress"
        elif self.items.finish is FinishReason.LENGTH:
            status, details = "incomplete", {"reason": "max_output_tokens"}
        else:
            status = "completed"
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": details,
            "output": list(self.items.done),
            "usage": None if counts is None else usage(counts),
            **remarks((report,), self._origin),
        }

    async def frames(self, steps: AsyncIterator[Step]) -> AsyncIterator[bytes]:
        began = False
        async with aclosing(steps):  # type: ignore[type-var]
            async for step in steps:
                if not began:
                    began = True
                    yield self._frame({"type": "response.created", "response": self.response(None)})
                    yield self._frame({"type": "response.in_progress", "response": self.response(None)})
                for event in step.events:
                    for each in self.items.feed(event):
                        if str(each["type"]).endswith(".done"):
                            async for piece in self._large_frame(each):
                                yield piece
                        else:
                            yield self._frame(each)
                if step.last:
                    response = self.response(step.usage, step.report)
                    last: Object = {"type": f"response.{response['status']}", "response": response}
                    async for piece in self._large_frame(last):
                        yield piece

    def _frame(self, value: Object) -> bytes:
        return sse.event(str(value["type"]), self._numbered(value))

    def _large_frame(self, value: Object) -> AsyncIterator[bytes]:
        """`_frame` in pieces, for an event that repeats a whole item."""
        return sse.large_event(str(value["type"]), self._numbered(value))

    def _numbered(self, value: Object) -> Object:
        numbered: Object = {**value, "sequence_number": self._sequence}
        self._sequence += 1
        return numbered


def usage(counts: TokenUsage) -> Object:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached},
        "output_tokens": counts.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.prompt + counts.completion,
    }


class ItemWriter:
    """Translates core events to output items. One item is open at a time. `done` has the finished ones."""

    def __init__(self, uid: str, functions: Mapping[str, Object]) -> None:
        """`functions` as in ResponsesOptions. A function that it lacks is named as in the prompt."""
        self._functions = functions
        self.done: list[Json] = []
        self.finish: FinishReason | None = None
        self._uid = uid
        self._item: Object | None = None
        self._pieces: list[str] = []
        # Set while a call of a custom tool is open.
        self._freeform: FreeformInput | None = None

    def feed(self, event: Event) -> list[Object]:
        match event:
            case TextDelta(text):
                opened = [] if self._kind() == "message" else self._start_message()
                self._pieces.append(text)
                place = {**self._place(), "content_index": 0}
                return [*opened, {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []}]
            case ToolCallStart(_, id_, name):
                return [*self._stop("completed"), *self._start_call(id_, self._functions.get(name, {"name": name}))]
            case ArgumentsDelta(_, fragment):
                return self._continue_call(fragment)
            case ToolCallEnd(_, complete):
                return self._stop("completed" if complete else "incomplete")
            case Finish(reason):
                self.finish = reason
                return self._stop("incomplete" if reason is FinishReason.LENGTH else "completed")
            case CallRejected():
                return []
        assert_never(event)

    def _kind(self) -> Json:
        return self._item["type"] if self._item is not None else None

    def _place(self) -> Object:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self.done)}

    def _start(self, id_: str, item: Object) -> list[Object]:
        self._item = {"id": id_, "status": "in_progress", **item}
        self._pieces = []
        return [{"type": "response.output_item.added", "output_index": len(self.done), "item": dict(self._item)}]

    def _start_call(self, id_: str, named: Object) -> list[Object]:
        if named.get("type") == CALL:
            self._freeform = FreeformInput()
            return self._start(f"ctc_{self._uid}_{len(self.done)}", {**named, "call_id": id_, "input": ""})
        call: Object = {"type": "function_call", "call_id": id_, **named, "arguments": ""}
        return self._start(f"fc_{self._uid}_{len(self.done)}", call)

    def _continue_call(self, fragment: str) -> list[Object]:
        kind = "response.function_call_arguments.delta"
        if self._freeform is not None:
            kind, fragment = "response.custom_tool_call_input.delta", self._freeform.feed(fragment)
        self._pieces.append(fragment)
        return [{"type": kind, **self._place(), "delta": fragment}] if fragment else []

    def _start_message(self) -> list[Object]:
        message: Object = {"type": "message", "role": "assistant", "content": []}
        started = [*self._stop("completed"), *self._start(f"msg_{self._uid}_{len(self.done)}", message)]
        place = {**self._place(), "content_index": 0}
        return [*started, {"type": "response.content_part.added", **place, "part": _part("")}]

    def _stop(self, status: str) -> list[Object]:
        if self._item is None:
            return []
        item, text, place = self._item, "".join(self._pieces), self._place()
        if item["type"] == "message":
            item = {**item, "status": status, "content": [_part(text)]}
            at = {**place, "content_index": 0}
            ending: list[Object] = [
                {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
                {"type": "response.content_part.done", **at, "part": _part(text)},
            ]
        elif item["type"] == CALL:
            item = {**item, "status": status, "input": text}
            ending = [{"type": "response.custom_tool_call_input.done", **place, "input": text}]
        else:
            item = {**item, "status": status, "arguments": text}
            ending = [
                {"type": "response.function_call_arguments.done", **place, "name": item["name"], "arguments": text}
            ]
        ending.append({"type": "response.output_item.done", "output_index": len(self.done), "item": item})
        self.done.append(item)
        self._item = self._freeform = None
        return ending


def _part(text: str) -> Object:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
