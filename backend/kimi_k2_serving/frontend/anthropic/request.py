"""Reads Anthropic's messages request: a Conversation and sampling parameters.

Content blocks become K2's messages, in order: texts are joined, a `tool_use` is a call, and each `tool_result` is a
message. Known fields without a place in the prompt are dropped: thinking, cache_control, and the billing header that
coding agents put first. That header differs per request and would defeat the prefix cache. Content from a tool, inside
its result or next to it, is read or replaced by a sentence. Everything else is refused with its path.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.chat import below
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, Unsupported
from kimi_k2_serving.core.messages import Conversation, Json
from kimi_k2_serving.core.parts import content_text, joined, part_text, result_text
from kimi_k2_serving.core.typed_json import Object, as_flag, as_list, as_object, as_string, closed, one_of, required
from kimi_k2_serving.frontend import fields
from kimi_k2_serving.frontend.anthropic.tools import NAME_CHARACTERS, read_tool_choice, read_tools
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.reading import Reader

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
    "mcp_servers": "this server connects to no MCP server; declare the tools instead",
    "fallbacks": "this server has only one model",
}
BILLING_HEADER = "x-anthropic-billing-header"
# Inside a conversation, agents use other roles besides the two official ones.
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "ctx": "system", "msg": "system"}
DROPPED = ("thinking", "redacted_thinking")
# Precedes the content of a `tool_result` whose `is_error` is true.
FAILED = "[this tool call failed]\n"
# Keys that are read, or that have no place in the prompt.
MESSAGE = frozenset({"role", "content", "id", "cache_control"})
TEXT = frozenset({"type", "text", "cache_control", "citations"})
TOOL_USE = frozenset({"type", "id", "name", "input", "cache_control", "caller"})
TOOL_RESULT = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})
Add = Callable[[Json, str], str]


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    model: str
    conversation: Conversation
    sampling: dict[str, Any]
    stream: bool


def read_messages_request(service: Reader, body: Json, origin: Origin, *, counting: bool = False) -> MessagesRequest:
    """`counting`: the request only counts tokens, so max_tokens is optional. Raises leaves of InvalidRequest that name
    the client's path or that of the chat request; `origin.translated` says which.
    """
    source = as_object(body, "body")
    fields.check_fields(source, known=KNOWN, ignored=IGNORED, refused=REFUSED)
    model = service.served(required(source, "model", ""))
    if not counting:
        required(source, "max_tokens", "")
    tool_choice, parallel = read_tool_choice(source.get("tool_choice"))
    system = read_system(source.get("system"), origin)
    parts: dict[str, Any] = {
        "messages": [*system, *read_messages(required(source, "messages", ""), origin, len(system))],
        "tools": read_tools(source.get("tools"), origin),
        "tool_choice": tool_choice,
        "response_format": read_format(source, origin),
    }
    sampling = read_sampling(source, service.policy.anthropic_temperature)
    stream = as_flag(source.get("stream"), "stream", default=False)
    origin.translated = True
    conversation = read_conversation(
        **parts,
        parallel_tool_calls=parallel,
        # A last message from the assistant is the beginning of the answer.
        continue_final_message=parts["messages"][-1]["role"] == "assistant",
        name_characters=NAME_CHARACTERS,
    )
    return MessagesRequest(model=model, conversation=conversation, sampling=sampling, stream=stream)


def read_sampling(source: Object, scale: float) -> dict[str, Any]:
    """Sampling parameters. Anthropic's temperatures are 0 to 1. They are multiplied by `scale`, because K2 needs lower
    ones.
    """
    given = {("stop" if name == "stop_sequences" else name): source[name] for name in SAMPLING if name in source}
    stops = given.get("stop")
    if stops is not None and not isinstance(stops, list):
        raise InvalidType("must be an array of strings", field="stop_sequences")
    heat = given.get("temperature")
    if isinstance(heat, int | float) and not isinstance(heat, bool) and not 0 <= heat <= 1:
        raise InvalidValue("must be between 0 and 1", field="temperature")
    sampling = fields.read_sampling(given)
    if "temperature" in sampling:
        sampling["temperature"] *= scale
    return sampling


def read_format(source: Object, origin: Origin) -> Json:
    """`output_config.format`, or its older form `output_format`, as OpenAI's response_format."""
    value, path = source.get("output_format"), "output_format"
    if source.get("output_config") is not None:
        config = as_object(source["output_config"], "output_config")
        fields.check_fields(config, known=("format",), ignored=("effort", "task_budget"), refused={})
        if config.get("format") is not None:
            value, path = config["format"], "output_config.format"
    if value is None:
        return None
    given = as_object(value, path)
    one_of(required(given, "type", path), ("json_schema",), f"{path}.type")
    closed(given, path, ("type", "schema", "name", "strict"))
    origin.place("response_format.json_schema", path)
    return {"type": "json_schema", "json_schema": {"schema": required(given, "schema", path)}}


def read_system(value: Json, origin: Origin) -> list[Json]:
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
        origin.ignore(source, path, TEXT)
        if not text.startswith(BILLING_HEADER):
            texts.append(text)
    return [{"role": "system", "content": "\n\n".join(texts)}] if texts else []


def read_messages(value: Json, origin: Origin, first: int) -> list[Json]:
    """Read the messages as chat messages. `first`: the number of messages before these."""
    items = as_list(value, "messages")
    if not items:
        raise InvalidValue("must have at least one message", field="messages")
    result: list[Json] = []

    def add(message: Json, path: str) -> str:
        ours = f"messages[{first + len(result)}]"
        origin.place(ours, path)
        result.append(message)
        return ours

    # Agents put a tool's output beside its result, or into the user messages that follow.
    from_tools = False
    for i, item in enumerate(items):
        path = f"messages[{i}]"
        source = as_object(item, path)
        role = ROLES[one_of(required(source, "role", path), ROLES, f"{path}.role")]
        content = source.get("content") if role == "assistant" else required(source, "content", path)
        content = "" if content is None else content
        origin.ignore(source, path, MESSAGE)
        from_tools = role != "assistant" and (from_tools or (role == "user" and _has_result(content)))
        if not isinstance(content, list) and (role == "assistant" or (from_tools and role == "user")):
            content = content_text(content)
        if isinstance(content, str):
            add({"role": role, "content": content}, path)
        elif role == "assistant":
            assistant(as_list(content, f"{path}.content"), path, add, origin)
        else:
            read_user_blocks(role, as_list(content, f"{path}.content"), path, add, origin, from_tools=from_tools)
    return result


def _has_result(content: Json) -> bool:
    return isinstance(content, list) and any(
        isinstance(block, dict) and block.get("type") == "tool_result" for block in content
    )


def assistant(blocks: list[Json], path: str, add: Add, origin: Origin) -> None:
    """Read the assistant's blocks as one message: texts are joined, calls stay in order. Blocks of other servers' tools
    are read or become a sentence.
    """
    texts: list[tuple[str, bool]] = []
    calls: list[Json] = []
    message: Object = {"role": "assistant", "content": "", "tool_calls": None}
    ours = add(message, path)
    for i, block in enumerate(blocks):
        where = f"{path}.content[{i}]"
        source = block if isinstance(block, dict) else {}
        kind = source.get("type")
        if kind == "tool_use":
            given = source.get("input")
            if not isinstance(given, str):
                # For a call without arguments some gateways omit `input` or send null.
                given = json.dumps(as_object(given if given is not None else {}, f"{where}.input"), ensure_ascii=False)
            function: Json = {
                "name": as_string(required(source, "name", where), f"{where}.name"),
                "arguments": given,
            }
            id_ = as_string(required(source, "id", where), f"{where}.id")
            origin.ignore(source, where, TOOL_USE)
            origin.place(f"{ours}.tool_calls[{len(calls)}]", where)
            origin.place(f"{ours}.tool_calls[{len(calls)}].function", where)
            calls.append({"id": id_, "type": "function", "function": function})
        elif kind not in DROPPED:
            texts.append(part_text(block))
    below.check_part_fields(blocks, f"{path}.content", origin)
    message |= {"content": joined(iter(texts)), "tool_calls": calls or None}


def read_user_blocks(role: str, blocks: list[Json], path: str, add: Add, origin: Origin, *, from_tools: bool) -> None:
    """Read a user's blocks: results and texts stay in order. Adjacent texts become one message."""
    texts: list[str] = []
    added = False
    for i, block in enumerate(blocks):
        where = f"{path}.content[{i}]"
        if from_tools and role == "user" and not is_block(block):
            texts.append(part_text(block)[0])
            continue
        source = as_object(block, where)
        kind = as_string(required(source, "type", where), f"{where}.type")
        if kind in DROPPED:
            continue
        if kind != "tool_result" or role != "user":
            readable = from_tools and role == "user"
            texts.append(part_text(source)[0] if readable else source_text(source, kind, where))
            if kind == "text":
                origin.ignore(source, where, TEXT)
            continue
        if texts:
            add({"role": role, "content": "\n\n".join(texts)}, path)
            texts = []
        id_ = as_string(required(source, "tool_use_id", where), f"{where}.tool_use_id")
        origin.ignore(source, where, TOOL_RESULT)
        failed = as_flag(source.get("is_error"), f"{where}.is_error", default=False)
        below.check_part_fields(source.get("content"), f"{where}.content", origin)
        content = (FAILED if failed else "") + result_text(source.get("content"))
        added = True
        ours = add({"role": "tool", "tool_call_id": id_, "content": content}, where)
        origin.place(f"{ours}.tool_call_id", f"{where}.tool_use_id")
    if texts or not added:
        add({"role": role, "content": "\n\n".join(texts)}, path)


def is_block(value: Json) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def source_text(source: Object, kind: str, path: str) -> str:
    if kind == "text":
        return as_string(required(source, "text", path), f"{path}.text")
    if kind in ("image", "document"):
        raise Unsupported("this model reads text only", field=f"{path}.type")
    raise Unsupported("blocks of this type are not supported; remove it", field=f"{path}.type")
