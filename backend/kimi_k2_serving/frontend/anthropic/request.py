"""Anthropic's messages request -> Conversation and sampling.

Content blocks become K2's messages: text is joined, `tool_use` is a call, each `tool_result` is a message of its own,
in order. What has no place in the prompt is dropped by name: thinking, cache_control, the billing header that coding
agents put first (it differs per request and would spoil the prefix cache). Everything else is refused by its path.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, Unsupported
from kimi_k2_serving.core.messages import Conversation, Json, Role
from kimi_k2_serving.core.shapes import Object, as_flag, as_list, as_object, as_string, one_of, required
from kimi_k2_serving.frontend import fields
from kimi_k2_serving.frontend.anthropic.tools import read_tool_choice, read_tools
from kimi_k2_serving.frontend.service import Service

SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "stop_sequences")
KNOWN = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "stream", "output_config", "output_format", *SAMPLING}
)
IGNORED = frozenset(
    {
        "metadata",
        "thinking",
        "service_tier",
        "context_management",
        "cache_control",
        "betas",
        "speed",
        "inference_geo",
        "diagnostics",
    }
)
REFUSED = {
    "container": "this server runs no code",
    "mcp_servers": "this server calls no other; declare their tools",
    "fallbacks": "this server has one model",
}
BILLING_HEADER = "x-anthropic-billing-header"
# Roles that harnesses use inside a conversation beside the two official ones.
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "ctx": "system", "msg": "system"}
DROPPED = ("thinking", "redacted_thinking")
NO_IMAGE = "[an image was here; this model reads text only]"


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    model: str
    conversation: Conversation
    sampling: dict[str, Any]
    stream: bool


def read(service: Service, body: Json, *, counting: bool = False) -> MessagesRequest:
    """`counting`: max_tokens is not needed. Raises InvalidRequest's leaves, each naming the path."""
    source = as_object(body, "body")
    fields.check(source, known=KNOWN, ignored=IGNORED, refused=REFUSED)
    model = service.served(required(source, "model", ""))
    if not counting:
        required(source, "max_tokens", "")
    tools = read_tools(source.get("tools"))
    tool_choice, parallel = read_tool_choice(source.get("tool_choice"))
    conversation = read_conversation(
        messages=[*read_system(source.get("system")), *read_messages(required(source, "messages", ""))],
        tools=tools,
        tool_choice=tool_choice,
        response_format=read_format(source),
        parallel_tool_calls=parallel,
    )
    if conversation.messages[-1].role is Role.ASSISTANT:
        raise Unsupported("continuing a given answer is not supported; end with a user message", field="messages")
    return MessagesRequest(
        model=model,
        conversation=conversation,
        sampling=read_sampling(source, service.policy.anthropic_temperature),
        stream=as_flag(source.get("stream"), "stream", default=False),
    )


def read_sampling(source: Object, scale: float) -> dict[str, Any]:
    """Temperatures are Anthropic's, 0 to 1; K2 wants them smaller."""
    given = {("stop" if name == "stop_sequences" else name): source[name] for name in SAMPLING if name in source}
    stops = given.get("stop")
    if stops is not None and not isinstance(stops, list):
        raise InvalidType("must be an array of strings", field="stop_sequences")
    sampling = fields.read_sampling(given)
    if "temperature" in sampling:
        if sampling["temperature"] > 1:
            raise InvalidValue("must be at least 0 and at most 1", field="temperature")
        sampling["temperature"] *= scale
    return sampling


def read_format(source: Object) -> Json:
    """`output_config.format`, or `output_format` as it was called before, as OpenAI's response_format."""
    value, path = source.get("output_format"), "output_format"
    if source.get("output_config") is not None:
        config = as_object(source["output_config"], "output_config")
        fields.check(config, known=("format",), ignored=("effort", "task_budget"), refused={})
        if config.get("format") is not None:
            value, path = config["format"], "output_config.format"
    if value is None:
        return None
    given = as_object(value, path)
    one_of(required(given, "type", path), ("json_schema",), f"{path}.type")
    return {"type": "json_schema", "json_schema": {"schema": required(given, "schema", path)}}


def read_system(value: Json) -> list[Json]:
    if value is None:
        return []
    if isinstance(value, str):
        return [{"role": "system", "content": value}] if value else []
    texts = []
    for i, block in enumerate(as_list(value, "system")):
        path = f"system[{i}]"
        source = as_object(block, path)
        one_of(required(source, "type", path), ("text",), f"{path}.type")
        text = as_string(required(source, "text", path), f"{path}.text")
        if not text.startswith(BILLING_HEADER):
            texts.append(text)
    return [{"role": "system", "content": "\n\n".join(texts)}] if texts else []


def read_messages(value: Json) -> list[Json]:
    items = as_list(value, "messages")
    if not items:
        raise InvalidValue("must have at least one message", field="messages")
    result: list[Json] = []
    for i, item in enumerate(items):
        path = f"messages[{i}]"
        source = as_object(item, path)
        role = ROLES[one_of(required(source, "role", path), ROLES, f"{path}.role")]
        content = required(source, "content", path)
        if isinstance(content, str):
            result.append({"role": role, "content": content})
        elif role == "assistant":
            result.append(assistant(as_list(content, f"{path}.content"), f"{path}.content"))
        else:
            result += others(role, as_list(content, f"{path}.content"), f"{path}.content")
    return result


def assistant(blocks: list[Json], path: str) -> Json:
    """One message: its texts joined, its calls in order."""
    texts: list[str] = []
    calls: list[Json] = []
    for i, block in enumerate(blocks):
        where = f"{path}[{i}]"
        source = as_object(block, where)
        kind = as_string(required(source, "type", where), f"{where}.type")
        if kind == "tool_use":
            given = as_object(required(source, "input", where), f"{where}.input")
            function: Json = {
                "name": as_string(required(source, "name", where), f"{where}.name"),
                "arguments": json.dumps(given, ensure_ascii=False),
            }
            id_ = as_string(required(source, "id", where), f"{where}.id")
            calls.append({"id": id_, "type": "function", "function": function})
        elif kind not in DROPPED:
            texts.append(text_of(source, kind, where))
    return {"role": "assistant", "content": "".join(texts), "tool_calls": calls or None}


def others(role: str, blocks: list[Json], path: str) -> list[Json]:
    """Results and texts in their order; neighbouring texts are one message."""
    result: list[Json] = []
    texts: list[str] = []
    for i, block in enumerate(blocks):
        where = f"{path}[{i}]"
        source = as_object(block, where)
        kind = as_string(required(source, "type", where), f"{where}.type")
        if kind in DROPPED:
            continue
        if kind != "tool_result" or role != "user":
            texts.append(text_of(source, kind, where))
            continue
        if texts:
            result.append({"role": role, "content": "\n\n".join(texts)})
            texts = []
        id_ = as_string(required(source, "tool_use_id", where), f"{where}.tool_use_id")
        as_flag(source.get("is_error"), f"{where}.is_error", default=False)
        content = result_text(source.get("content"), f"{where}.content")
        result.append({"role": "tool", "tool_call_id": id_, "content": content})
    if texts or not result:
        result.append({"role": role, "content": "\n\n".join(texts)})
    return result


def result_text(value: Json, path: str) -> str:
    """A tool's result as text. An image in it is named, not refused: the agent has no way to take it back."""
    if value is None or isinstance(value, str):
        return value or ""
    texts = []
    for i, block in enumerate(as_list(value, path)):
        where = f"{path}[{i}]"
        source = as_object(block, where)
        kind = as_string(required(source, "type", where), f"{where}.type")
        if kind == "image":
            texts.append(NO_IMAGE)
        elif kind == "tool_reference":
            texts.append(as_string(required(source, "tool_name", where), f"{where}.tool_name"))
        else:
            texts.append(text_of(source, kind, where))
    return "\n".join(texts)


def text_of(source: Object, kind: str, path: str) -> str:
    if kind == "text":
        return as_string(required(source, "text", path), f"{path}.text")
    if kind in ("image", "document"):
        raise Unsupported("this model reads text only", field=f"{path}.type")
    raise Unsupported("a block of this type has no meaning to this model", field=f"{path}.type")
