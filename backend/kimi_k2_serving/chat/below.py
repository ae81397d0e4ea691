"""Checks the keys below the top level of a chat request. An unknown key is refused in the fields that steer the answer.
In the history it is only reported as ignored, because a client cannot change it there. Tools are shown as they are.
"""

from __future__ import annotations

from kimi_k2_serving.chat.notices import Notices
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.parts import TEXTS, known_parts
from kimi_k2_serving.core.typed_json import Object, closed

# Keys of a message that core/chat reads, that it refuses if they have an effect, or that have no place in the prompt.
MESSAGE = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning_content", "reasoning", "prefix"}
    | {"reasoning_details", "cache_control", "audio", "function_call", "partial", "id", "provider_specific_fields"}
    | {"annotations"}
)
CALL = frozenset(
    {"id", "type", "function", "custom", "index", "cache_control", "extra_content", "provider_specific_fields"}
)
PART = frozenset(
    {"type", "text", "refusal", "tool_name", "cache_control", "annotations", "citations", "logprobs"}
    | {"prompt_cache_breakpoint", "providerOptions", "provider_specific_fields"}
)
SCHEMA = ("name", "description", "schema", "strict")
FUNCTION = frozenset({"name", "arguments", "index"})


def check_nested_fields(body: Object, notices: Notices) -> None:
    """`body` was read before, so only its keys are checked. Raises UnknownField."""
    _steering(body.get("response_format"), "response_format", ("type", "json_schema"))
    _steering(_of(body.get("response_format"), "json_schema"), "response_format.json_schema", SCHEMA)
    choice = body.get("tool_choice")
    if _of(choice, "type") == "allowed_tools":
        _steering(choice, "tool_choice", ("type", "allowed_tools", "mode", "tools"))
        _steering(_of(choice, "allowed_tools"), "tool_choice.allowed_tools", ("mode", "tools"))
    else:
        _steering(choice, "tool_choice", ("type", "function", "name"))
        _steering(_of(choice, "function"), "tool_choice.function", ("name",))
    messages = body.get("messages")
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            _message(message, f"messages[{i}]", notices)


def _message(message: Object, path: str, notices: Notices) -> None:
    notices.ignore(message, path, MESSAGE)
    check_part_fields(message.get("content"), f"{path}.content", notices)
    calls = message.get("tool_calls")
    for j, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            notices.ignore(call, f"{path}.tool_calls[{j}]", CALL)
            if isinstance(function := call.get("function"), dict):
                notices.ignore(function, f"{path}.tool_calls[{j}].function", FUNCTION)


def check_part_fields(content: Json, path: str, notices: Notices) -> None:
    """Report unknown keys of text parts. Of any other part much is lost anyway, and the prompt says so."""
    if inner := known_parts(content):
        content, path = inner, f"{path}.content"
    if isinstance(content, dict):
        _part(content, path, notices)
    for i, part in enumerate(content if isinstance(content, list) else ()):
        _part(part, f"{path}[{i}]", notices)


def _part(part: Json, path: str, notices: Notices) -> None:
    if isinstance(part, dict) and isinstance(kind := part.get("type"), str) and kind in TEXTS:
        notices.ignore(part, path, PART)


def _steering(value: Json, path: str, known: tuple[str, ...]) -> None:
    if isinstance(value, dict):
        closed(value, path, known)


def _of(value: Json, key: str) -> Json:
    return value.get(key) if isinstance(value, dict) else None
