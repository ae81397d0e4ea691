"""OpenAI's Responses request -> Conversation and sampling. Nothing is stored, so nothing earlier can be referred to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField, Unsupported
from kimi_k2_serving.core.messages import Conversation, Json
from kimi_k2_serving.core.shapes import Object, as_flag, as_list, as_object, as_string, one_of, required
from kimi_k2_serving.frontend import fields
from kimi_k2_serving.frontend.service import Service

KNOWN = frozenset(
    {
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "stream",
        "max_output_tokens",
        "temperature",
        "top_p",
        "truncation",
    }
)
IGNORED = frozenset(
    {
        "store",
        "metadata",
        "user",
        "safety_identifier",
        "reasoning",
        "include",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "stream_options",
        "max_tool_calls",
        "context_management",
    }
)
REFUSED = {
    "previous_response_id": "this server stores nothing; send the whole conversation as input",
    "conversation": "this server stores nothing; send the whole conversation as input",
    "background": "this server stores nothing; stream the answer",
    "prompt": "this server has no stored prompts",
    "top_logprobs": "log-probabilities are part of /v1/chat/completions",
}
ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("input_text", "output_text", "text")


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """`source` is the request as it came: a response repeats much of it."""

    model: str
    source: Object
    conversation: Conversation
    sampling: dict[str, Any]
    stream: bool


def read(service: Service, body: Json) -> ResponsesRequest:
    """Raises InvalidRequest's leaves, each naming the path."""
    source = as_object(body, "body")
    fields.check(source, known=KNOWN, ignored=IGNORED, refused=REFUSED)
    model = service.served(required(source, "model", ""))
    if source.get("truncation") not in (None, "disabled"):
        raise Unsupported("must be disabled: this server never cuts a conversation", field="truncation")
    instructions = source.get("instructions")
    system: list[Json] = []
    if instructions is not None:
        system = [{"role": "system", "content": as_string(instructions, "instructions")}]
    given: dict[str, Json] = {name: source.get(name) for name in ("temperature", "top_p")}
    given["max_tokens"] = fields.integer(source.get("max_output_tokens"), "max_output_tokens", minimum=1)
    return ResponsesRequest(
        model=model,
        source=source,
        conversation=read_conversation(
            messages=system + read_input(source.get("input")),
            tools=read_tools(source.get("tools")),
            tool_choice=source.get("tool_choice"),
            response_format=read_format(source.get("text")),
            parallel_tool_calls=as_flag(source.get("parallel_tool_calls"), "parallel_tool_calls", default=True),
        ),
        sampling=fields.read_sampling(given),
        stream=as_flag(source.get("stream"), "stream", default=False),
    )


def read_tools(value: Json) -> Json:
    """Functions stand flat here; chat, which the prompt shows, nests them."""
    if value is None:
        return None
    tools: list[Json] = []
    for i, item in enumerate(as_list(value, "tools")):
        path = f"tools[{i}]"
        source = as_object(item, path)
        if as_string(required(source, "type", path), f"{path}.type") != "function":
            raise Unsupported("this server runs no tools of its own; declare a function", field=f"{path}.type")
        function = {
            name: source[name] for name in ("name", "description", "parameters") if source.get(name) is not None
        }
        if source.get("strict") is not None:
            function["strict"] = source["strict"]
        tools.append({"type": "function", "function": function})
    return tools


def read_format(value: Json) -> Json:
    """`text.format` as chat's response_format."""
    if value is None:
        return None
    text = as_object(value, "text")
    fields.check(text, known=("format",), ignored=("verbosity",), refused={})
    if text.get("format") is None:
        return None
    source = as_object(text["format"], "text.format")
    kinds = ("text", "json_object", "json_schema")
    kind = one_of(required(source, "type", "text.format"), kinds, "text.format.type")
    if kind != "json_schema":
        return {"type": kind}
    schema: Object = {"schema": required(source, "schema", "text.format"), "strict": source.get("strict")}
    return {"type": kind, "json_schema": schema}


def read_input(value: Json) -> list[Json]:
    if value is None:
        raise MissingField("is required", field="input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    items = as_list(value, "input")
    if not items:
        raise InvalidValue("must have at least one item", field="input")
    messages: list[Json] = []
    for i, item in enumerate(items):
        source = as_object(item, f"input[{i}]")
        _add(messages, source, f"input[{i}]")
    return messages


def _add(messages: list[Json], source: Object, path: str) -> None:
    """Calls stand behind the text they came with, as items of their own; K2 has them in one message."""
    kind = source.get("type", "message")
    match kind:
        case "message" | None:
            role = one_of(required(source, "role", path), ROLES, f"{path}.role")
            content = _content(required(source, "content", path), f"{path}.content")
            messages.append({"role": role, "content": content})
        case "function_call":
            call: Json = {
                "id": required(source, "call_id", path),
                "type": "function",
                "function": {
                    "name": required(source, "name", path),
                    "arguments": as_string(required(source, "arguments", path), f"{path}.arguments"),
                },
            }
            last = messages[-1] if messages else None
            if not isinstance(last, dict) or last["role"] != "assistant":
                last = {"role": "assistant", "content": None}
                messages.append(last)
            calls = last.setdefault("tool_calls", [])
            assert isinstance(calls, list)
            calls.append(call)
        case "function_call_output":
            output = _content(required(source, "output", path), f"{path}.output")
            messages.append({"role": "tool", "tool_call_id": required(source, "call_id", path), "content": output})
        case "reasoning":
            pass
        case str():
            raise Unsupported("an item of this type has no meaning to this model", field=f"{path}.type")
        case _:
            raise InvalidType("must be a string", field=f"{path}.type")


def _content(value: Json, path: str) -> str:
    if isinstance(value, str):
        return value
    texts = []
    for i, part in enumerate(as_list(value, path)):
        where = f"{path}[{i}]"
        source = as_object(part, where)
        if as_string(required(source, "type", where), f"{where}.type") not in TEXT_PARTS:
            raise Unsupported("this model reads text only", field=f"{where}.type")
        texts.append(as_string(required(source, "text", where), f"{where}.text"))
    return "".join(texts)
