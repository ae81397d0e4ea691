"""Reads OpenAI's chat request into a Conversation.

Promises: the result is complete and checked; an error names the path with the fault, such as
`messages[2].content[0].type`, and never repeats the client's text. Keys of a message that have no place in K2's prompt
(`reasoning_content`, `refusal`, `cache_control`) are ignored; keys that would change its meaning are refused. It knows
no token ids and does not rewrite ids of calls. Linear. Rules P13 to P20 of docs/kimi_k2_format.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from kimi_k2_serving.core.chat_tools import NAME_CHARACTERS, read_tool_choice, read_tools
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField, Unsupported
from kimi_k2_serving.core.limits import MESSAGES, NAME_BYTES, TOOL_CALLS_PER_MESSAGE
from kimi_k2_serving.core.messages import (
    Conversation,
    FormatKind,
    Json,
    Message,
    ResponseFormat,
    Role,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from kimi_k2_serving.core.parts import TEXTS, content_text, joined, part_text, result_text
from kimi_k2_serving.core.typed_json import Object, as_flag, as_list, as_object, as_string, one_of, required

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}
# Keys of a message that request something that K2-0905 or this server can't do. They are refused unless null, false or
# empty.
_REFUSED_KEYS = {
    "function_call": "is OpenAI's deprecated form; send tool_calls",
    "audio": "is not text; this model reads text only",
}
# With these keys a last message says that it is the beginning of the answer. The first is Moonshot's, the second
# DeepSeek's.
CONTINUES = ("partial", "prefix")


def read_conversation(
    *,
    messages: Json,
    tools: Json = None,
    tool_choice: Json = None,
    response_format: Json = None,
    parallel_tool_calls: bool = True,
    continue_final_message: bool = False,
    name_characters: int = NAME_CHARACTERS,
) -> Conversation:
    """Check and read the parts of one request; null means absent. `name_characters` bounds the name of a tool.
    `continue_final_message`: the last message is the beginning of the answer, as if it had the key `partial`.

    Raises MissingField, InvalidType, InvalidValue, Unsupported, LimitExceeded.
    """
    if messages is None:
        raise MissingField("is required", field="messages")
    items = as_list(messages, "messages")
    if not items:
        raise InvalidValue("must have at least one message", field="messages")
    MESSAGES.check(len(items), field="messages")
    declared = read_tools(tools, name_characters=name_characters)
    read = tuple(_messages(items))
    choice = read_tool_choice(tool_choice, declared)
    continues = _marked(items) or continue_final_message
    if continues:
        _check_continued(read[-1], choice, f"messages[{len(read) - 1}]")
    return Conversation(
        messages=read,
        tools=declared,
        tool_choice=choice,
        parallel_tool_calls=parallel_tool_calls,
        response_format=_response_format(response_format),
        continues=continues,
    )


def _marked(items: list[Json]) -> bool:
    """Whether the last message says that it is the beginning of the answer. No other message may say so."""
    found = False
    for i, item in enumerate(items):
        for key in CONTINUES:
            if isinstance(item, dict) and as_flag(item.get(key), f"messages[{i}].{key}", default=False):
                found = True
                if i + 1 < len(items):
                    raise InvalidValue("only the last message can be continued", field=f"messages[{i}].{key}")
    return found


def _check_continued(last: Message, choice: ToolChoice, path: str) -> None:
    if last.role is not Role.ASSISTANT:
        raise InvalidValue("only a message of role assistant can be continued", field=path)
    if last.tool_calls:
        raise InvalidValue("a message with tool calls can't be continued; send the results of the calls", field=path)
    if choice.mode in (ToolMode.REQUIRED, ToolMode.NAMED):
        raise InvalidValue("an answer that has begun with text can't begin with a call; use auto", field="tool_choice")


def _messages(items: list[Json]) -> Iterator[Message]:
    """Read all messages. Clients put a tool's result into the tool message or into the user messages right after it."""
    from_tools = False
    for i, item in enumerate(items):
        message = _message(item, f"messages[{i}]", from_tools=from_tools)
        from_tools = message.role is Role.TOOL or (from_tools and message.role is not Role.ASSISTANT)
        yield message


def _message(value: Json, path: str, *, from_tools: bool) -> Message:
    source = as_object(value, path)
    role = _ROLES[one_of(required(source, "role", path), _ROLES, f"{path}.role")]
    for key, reason in _REFUSED_KEYS.items():
        if source.get(key):
            raise Unsupported(reason, field=f"{path}.{key}")
    if role is not Role.ASSISTANT:
        if role is not Role.TOOL:
            required(source, "content", path)
        if source.get("tool_calls"):
            raise InvalidValue("only an assistant message may have tool calls", field=f"{path}.tool_calls")
    return Message(
        role=role,
        content=_content(source.get("content"), f"{path}.content", role, from_tools=from_tools),
        name=_name(source.get("name"), f"{path}.name"),
        tool_calls=_tool_calls(source.get("tool_calls"), f"{path}.tool_calls"),
        tool_call_id=_id(source.get("tool_call_id"), f"{path}.tool_call_id") if role is Role.TOOL else None,
    )


def _name(value: Json, path: str) -> str | None:
    """The name of a message. Null and "" mean no name."""
    name = _id(value, path)
    if name is not None:
        NAME_BYTES.check(len(name.encode("utf-8", "replace")), field=path)
    return name


def _id(value: Json, path: str) -> str | None:
    """The id of a call. Null and "" mean no id. Its length is not bounded, because ids are only looked up and never
    shown.
    """
    return (as_string(value, path) or None) if value is not None else None


def _content(value: Json, path: str, role: Role, *, from_tools: bool) -> str:
    """The content of a message as text. Assistant messages and tool results are history, so no kind of content is
    refused there.
    """
    if role is Role.TOOL:
        return result_text(value)
    if role is Role.ASSISTANT or (from_tools and role is Role.USER):
        return content_text(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidType("must be a string, an array of text parts, or null", field=path)
    return joined(_part(part, f"{path}[{i}]") for i, part in enumerate(value))


def _part(value: Json, path: str) -> tuple[str, bool]:
    source = as_object(value, path)
    kind = as_string(required(source, "type", path), f"{path}.type")
    if kind not in TEXTS:
        raise Unsupported("this model reads text only; send parts of type text", field=f"{path}.type")
    as_string(required(source, TEXTS[kind], path), f"{path}.{TEXTS[kind]}")
    return part_text(source)


def _tool_calls(value: Json, path: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    calls = as_list(value, path)
    TOOL_CALLS_PER_MESSAGE.check(len(calls), field=path)
    return tuple(_tool_call(call, f"{path}[{i}]") for i, call in enumerate(calls))


def _tool_call(value: Json, path: str) -> ToolCall:
    source = as_object(value, path)
    kind = source.get("type")
    if kind == "custom":
        return _custom_call(source, path)
    if kind is not None and as_string(kind, f"{path}.type") not in ("function", "builtin_function"):
        raise Unsupported("this model can only call functions; send type function", field=f"{path}.type")
    function = as_object(required(source, "function", path), f"{path}.function")
    name = _name(required(function, "name", f"{path}.function"), f"{path}.function.name")
    if name is None:
        raise InvalidValue("must not be empty", field=f"{path}.function.name")
    return ToolCall(
        id=_id(source.get("id"), f"{path}.id") or "",
        name=name,
        arguments=_arguments(function, f"{path}.function.arguments"),
    )


def _custom_call(source: Object, path: str) -> ToolCall:
    """Read a custom tool's call, whose input is plain text. It becomes a call of a function with one string."""
    custom = as_object(required(source, "custom", path), f"{path}.custom")
    name = _name(required(custom, "name", f"{path}.custom"), f"{path}.custom.name")
    if name is None:
        raise InvalidValue("must not be empty", field=f"{path}.custom.name")
    arguments = json.dumps({"input": custom.get("input")}, ensure_ascii=False)
    return ToolCall(id=_id(source.get("id"), f"{path}.id") or "", name=name, arguments=arguments)


def _arguments(function: Object, path: str) -> str:
    """The arguments of a call. A string is the model's own JSON text and stays unchanged. An object is serialised as
    the template would do it.
    """
    match function.get("arguments"):
        case None:
            return "{}"
        case str(text):
            return text
        case dict(value):
            return json.dumps(value, ensure_ascii=False)
        case _:
            raise InvalidType("must be a string of JSON, or an object", field=path)


def _response_format(value: Json) -> ResponseFormat:
    if value is None:
        return ResponseFormat()
    source = as_object(value, "response_format")
    kinds = {kind.value: kind for kind in FormatKind}
    kind = kinds[one_of(required(source, "type", "response_format"), kinds, "response_format.type")]
    if kind is not FormatKind.JSON_SCHEMA:
        return ResponseFormat(kind)
    path = "response_format.json_schema"
    inner = as_object(required(source, "json_schema", "response_format"), path)
    schema = required(inner, "schema", path)
    if not isinstance(schema, dict | bool):
        raise InvalidType("must be a JSON Schema: an object, true or false", field=f"{path}.schema")
    strict = as_flag(inner.get("strict"), f"{path}.strict", default=True)
    return ResponseFormat(kind, schema, strict, insists=inner.get("strict") is True)
