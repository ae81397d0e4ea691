"""core/chat.py: OpenAI's shapes, and errors that name the path (rules P7, P10, P13 to P20)."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import (
    InvalidRequest,
    InvalidType,
    InvalidValue,
    LimitExceeded,
    MissingField,
    Unsupported,
)
from kimi_k2_serving.core.limits import MESSAGES, NAME_BYTES, TOOL_CALLS_PER_MESSAGE, TOOLS
from kimi_k2_serving.core.messages import (
    Conversation,
    FormatKind,
    Json,
    Message,
    ResponseFormat,
    Role,
    ToolCall,
)

USER: Json = {"role": "user", "content": "hi"}


def function(name: str, **rest: Json) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **rest}}


def message(value: Json) -> Message:
    return read_conversation(messages=[value]).messages[0]


def call(**rest: Json) -> dict[str, Json]:
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}, **rest}]}


def refusal(**request: Json) -> tuple[type[InvalidRequest], str]:
    """The class and the path of the error that refuses the request."""
    with pytest.raises(InvalidRequest) as caught:
        read_conversation(**{"messages": [USER], **request})  # type: ignore[arg-type]
    return type(caught.value), caught.value.field


def test_the_smallest_request() -> None:
    assert read_conversation(messages=[USER]) == Conversation((Message(Role.USER, "hi"),))


@pytest.mark.parametrize(
    ("role", "read"),
    [("system", Role.SYSTEM), ("developer", Role.SYSTEM), ("user", Role.USER), ("assistant", Role.ASSISTANT)],
)
def test_p13_roles(role: str, read: Role) -> None:
    assert message({"role": role, "content": "x"}) == Message(read, "x")


@pytest.mark.parametrize(
    ("messages", "error", "path"),
    [
        (None, MissingField, "messages"),
        ([], InvalidValue, "messages"),
        ({}, InvalidType, "messages"),
        ("hi", InvalidType, "messages"),
        ([USER, "hi"], InvalidType, "messages[1]"),
        ([{"content": "hi"}], MissingField, "messages[0].role"),
        ([{"role": None, "content": "hi"}], InvalidType, "messages[0].role"),
        ([{"role": "function", "content": "hi"}], InvalidValue, "messages[0].role"),
        ([{"role": "_input", "content": "hi"}], InvalidValue, "messages[0].role"),
        ([{"role": "user"}], MissingField, "messages[0].content"),
        ([{"role": "system"}], MissingField, "messages[0].content"),
        ([{"role": "user", "content": 5}], InvalidType, "messages[0].content"),
        ([{"role": "user", "content": {"type": "text"}}], InvalidType, "messages[0].content"),
        ([{"role": "user", "content": ["hi"]}], InvalidType, "messages[0].content[0]"),
        ([{"role": "user", "content": [{"text": "hi"}]}], MissingField, "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": 1}]}], InvalidType, "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], MissingField, "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], InvalidType, "messages[0].content[0].text"),
        ([{"role": "user", "content": "hi", "name": 5}], InvalidType, "messages[0].name"),
        ([{"role": "user", "content": "hi", "name": "é" * 129}], LimitExceeded, "messages[0].name"),
        ([{"role": "tool", "content": "hi", "tool_call_id": 5}], InvalidType, "messages[0].tool_call_id"),
        ([{"role": "user", "content": "hi", "tool_calls": [{}]}], InvalidValue, "messages[0].tool_calls"),
        ([USER, call(type="computer")], Unsupported, "messages[1].tool_calls[0].type"),
        ([USER, call(type=5)], InvalidType, "messages[1].tool_calls[0].type"),
        ([USER, call(id=5)], InvalidType, "messages[1].tool_calls[0].id"),
        ([call(function=None)], InvalidType, "messages[0].tool_calls[0].function"),
        ([call(function={})], MissingField, "messages[0].tool_calls[0].function.name"),
        ([call(function={"name": ""})], InvalidValue, "messages[0].tool_calls[0].function.name"),
        ([call(function={"name": "x" * 257})], LimitExceeded, "messages[0].tool_calls[0].function.name"),
        (
            [call(function={"name": "f", "arguments": [1]})],
            InvalidType,
            "messages[0].tool_calls[0].function.arguments",
        ),
        ([{"role": "assistant", "tool_calls": {}}], InvalidType, "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [None]}], InvalidType, "messages[0].tool_calls[0]"),
        ([{"role": "assistant", "tool_calls": [{"id": "c"}]}], MissingField, "messages[0].tool_calls[0].function"),
    ],
)
def test_an_error_names_the_path(messages: Json, error: type[InvalidRequest], path: str) -> None:
    assert refusal(messages=messages) == (error, path)


def test_p14_an_image_is_unsupported_and_its_path_is_named() -> None:
    parts: Json = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "http://x"}}]
    assert refusal(messages=[USER, USER, {"role": "user", "content": parts}]) == (
        Unsupported,
        "messages[2].content[1].type",
    )


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (None, ""),
        ("", ""),
        ([], ""),
        ("a", "a"),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": ""}, {"type": "text", "text": " b"}], "a  b"),
    ],
)
def test_p7_content_is_one_string(content: Json, read: str) -> None:
    assert message({"role": "user", "content": content}).content == read


def test_p13_an_assistant_message_may_leave_its_content_out() -> None:
    assert message({"role": "assistant"}) == Message(Role.ASSISTANT)


@pytest.mark.parametrize(
    ("key", "value"), [("reasoning_content", "hm"), ("refusal", None), ("cache_control", {}), ("annotations", [])]
)
def test_p15_keys_without_a_place_in_the_prompt_are_ignored(key: str, value: Json) -> None:
    assert message({"role": "assistant", "content": "x", key: value}) == Message(Role.ASSISTANT, "x")


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("function_call", {"name": "f"}, "send tool_calls"),
        ("audio", {"id": "a"}, "reads text only"),
    ],
)
def test_p15_keys_that_change_the_meaning_are_refused(key: str, value: Json, advice: str) -> None:
    with pytest.raises(Unsupported) as caught:
        read_conversation(messages=[USER, {"role": "assistant", "content": "x", key: value}])
    assert caught.value.field == f"messages[1].{key}"
    assert caught.value.detail.endswith(advice)
    assert message({"role": "assistant", "content": "x", key: None}) == Message(Role.ASSISTANT, "x")


@pytest.mark.parametrize(("name", "read"), [(None, None), ("", None), ("x" * NAME_BYTES.value, "x" * NAME_BYTES.value)])
def test_p6_an_empty_name_counts_as_none(name: Json, read: str | None) -> None:
    assert message({"role": "user", "content": "x", "name": name}).name == read


def test_a_name_with_half_a_surrogate_pair_is_measured_and_kept() -> None:
    assert message({"role": "user", "content": "x", "name": "\ud800"}).name == "\ud800"


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"a":1 }', '{"a":1 }'),
        ("", ""),
        ("not json", "not json"),
        ({"b": "é<", "a": [1, 2.0]}, '{"b": "é<", "a": [1, 2.0]}'),
        ({}, "{}"),
        (None, "{}"),
    ],
)
def test_p10_arguments_stay_unchanged_or_are_serialised_like_the_template(arguments: Json, read: str) -> None:
    value = call(function={"name": "f", "arguments": arguments})
    assert message(value).tool_calls == (ToolCall("c", "f", read),)


@pytest.mark.parametrize("kind", [None, "function", "builtin_function"])
def test_p16_kinds_of_calls(kind: Json) -> None:
    assert message(call(type=kind)).tool_calls == (ToolCall("c", "f", "{}"),)


def test_p16_a_custom_call_is_a_function_of_one_string() -> None:
    custom: Json = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "ü"}}
    assert message({"role": "assistant", "tool_calls": [custom]}).tool_calls == (ToolCall("c", "f", '{"input": "ü"}'),)


@pytest.mark.parametrize("custom", [None, {"input": "a"}, {"name": "", "input": "a"}])
def test_p16_a_custom_call_has_a_name(custom: Json) -> None:
    call: Json = {"id": "c", "type": "custom", "custom": custom}
    _, path = refusal(messages=[USER, {"role": "assistant", "tool_calls": [call]}])
    assert path.startswith("messages[1].tool_calls[0].custom")


@pytest.mark.parametrize("identity", [None, ""])
def test_h2_a_call_without_an_id_is_read(identity: Json) -> None:
    assert message(call(id=identity)).tool_calls[0].id == ""


@pytest.mark.parametrize("calls", [None, []])
def test_no_calls(calls: Json) -> None:
    assert message({"role": "assistant", "content": "x", "tool_calls": calls}).tool_calls == ()
    assert message({"role": "user", "content": "x", "tool_calls": calls}).tool_calls == ()


@pytest.mark.parametrize(("identity", "read"), [("c", "c"), ("x" * 5000, "x" * 5000), (None, None), ("", None)])
def test_h4_a_result_may_lack_its_id(identity: Json, read: str | None) -> None:
    value: Json = {"role": "tool", "name": "f", "content": "sunny", "tool_call_id": identity}
    assert message(value) == Message(Role.TOOL, "sunny", "f", tool_call_id=read)


def test_an_id_on_another_role_is_ignored() -> None:
    assert message({"role": "user", "content": "x", "tool_call_id": "c"}).tool_call_id is None


def test_the_number_of_messages_calls_and_tools_is_bounded() -> None:
    assert refusal(messages=[USER] * (MESSAGES.value + 1)) == (LimitExceeded, "messages")
    calls: list[Json] = [{"function": {"name": "f"}}] * (TOOL_CALLS_PER_MESSAGE.value + 1)
    assert refusal(messages=[{"role": "assistant", "tool_calls": calls}]) == (LimitExceeded, "messages[0].tool_calls")
    tools: list[Json] = [function(f"f{i}") for i in range(TOOLS.value + 1)]
    assert refusal(tools=tools) == (LimitExceeded, "tools")
    assert len(read_conversation(messages=[USER], tools=tools[1:]).tools) == TOOLS.value


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, ResponseFormat()),
        ({"type": "text"}, ResponseFormat(FormatKind.TEXT)),
        ({"type": "json_object"}, ResponseFormat(FormatKind.JSON_OBJECT)),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            ResponseFormat(FormatKind.JSON_SCHEMA, {"type": "object"}),
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": True, "strict": False}},
            ResponseFormat(FormatKind.JSON_SCHEMA, True, strict=False),
        ),
    ],
)
def test_p20_response_format(value: Json, read: ResponseFormat) -> None:
    assert read_conversation(messages=[USER], response_format=value).response_format == read


@pytest.mark.parametrize(
    ("value", "error", "path"),
    [
        ("json", InvalidType, "response_format"),
        ({}, MissingField, "response_format.type"),
        ({"type": "xml"}, InvalidValue, "response_format.type"),
        ({"type": "json_schema"}, MissingField, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": []}, InvalidType, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {}}, MissingField, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": []}}, InvalidType, "response_format.json_schema.schema"),
        (
            {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}},
            InvalidType,
            "response_format.json_schema.strict",
        ),
    ],
)
def test_p20_errors_of_response_format(value: Json, error: type[InvalidRequest], path: str) -> None:
    assert refusal(response_format=value) == (error, path)


def test_parallel_tool_calls_is_kept() -> None:
    assert not read_conversation(messages=[USER], parallel_tool_calls=False).parallel_tool_calls


def test_no_error_message_repeats_the_clients_text() -> None:
    secret = "sesame"
    requests: list[dict[str, Json]] = [
        {"messages": [{"role": secret, "content": ""}]},
        {"messages": [{"role": "user", "content": [{"type": secret}]}]},
        {"messages": [USER], "tools": [function(secret), function(secret)]},
        {"messages": [USER], "tools": [function(f"{secret} {secret}")]},
        {"messages": [USER], "tools": [function("f")], "tool_choice": function(secret)},
        {"messages": [USER], "tool_choice": secret},
        {"messages": [USER], "response_format": {"type": secret}},
    ]
    for request in requests:
        with pytest.raises(InvalidRequest) as caught:
            read_conversation(**request)  # type: ignore[arg-type]
        assert secret not in str(caught.value)
