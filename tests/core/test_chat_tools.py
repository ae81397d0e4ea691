"""core/chat_tools.py: declared tools and the choice among them (rules P17 to P19)."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidRequest, InvalidType, InvalidValue, MissingField, Unsupported
from kimi_k2_serving.core.messages import Json, Tool, ToolChoice, ToolMode
from tests.core.test_chat import USER, function, refusal


@pytest.mark.parametrize("parameters", [{"type": "object", "properties": {}}, True, False, None])
@pytest.mark.parametrize(("strict", "read"), [(None, True), (True, True), (False, False)])
def test_p17_a_declaration_is_kept_as_sent(parameters: Any, strict: Json, read: bool) -> None:
    sent = function("search-docs", strict=strict, parameters=parameters, description="d", extra=1)
    (tool,) = read_conversation(messages=[USER], tools=[sent]).tools
    assert tool == Tool("search-docs", sent, parameters, read)
    assert list(tool.declaration["function"]) == list(sent["function"])  # type: ignore[arg-type]


def test_p17_a_builtin_function_may_begin_with_a_dollar_sign() -> None:
    sent: Json = {"type": "builtin_function", "function": {"name": "$web_search"}}
    (tool,) = read_conversation(messages=[USER], tools=[sent]).tools
    assert (tool.name, tool.declaration, tool.parameters) == ("$web_search", sent, None)


@pytest.mark.parametrize("name", ["a", "x" * 64, "mcp__portal__search-documents", "A.b_C-9"])
def test_p17_names(name: str) -> None:
    assert read_conversation(messages=[USER], tools=[function(name)]).tools[0].name == name


@pytest.mark.parametrize(
    "name", ["", "x" * 65, "a b", "é", "$web_search", "a:0", "a?", "a/b", "a$", "<|im_end|>", "a\n"]
)
def test_p17_other_names_are_refused(name: str) -> None:
    assert refusal(tools=[function(name)]) == (InvalidValue, "tools[0].function.name")


@pytest.mark.parametrize("name", ["$", "$$a", "$" + "x" * 65])
def test_p17_a_builtin_function_has_one_dollar_sign_and_a_name(name: str) -> None:
    sent: Json = [{"type": "builtin_function", "function": {"name": name}}]
    assert refusal(tools=sent) == (InvalidValue, "tools[0].function.name")


@pytest.mark.parametrize(
    ("tools", "error", "path"),
    [
        ({}, InvalidType, "tools"),
        (["f"], InvalidType, "tools[0]"),
        ([{}], MissingField, "tools[0].type"),
        ([{"type": 1}], InvalidType, "tools[0].type"),
        ([{"type": "function"}], MissingField, "tools[0].function"),
        ([{"type": "function", "function": {"name": 1}}], InvalidType, "tools[0].function.name"),
        ([{"type": "function", "function": "f"}], InvalidType, "tools[0].function"),
        ([{"type": "function", "function": {}}], MissingField, "tools[0].function.name"),
        ([{"type": "custom", "custom": {}}], Unsupported, "tools[0].type"),
        ([function("f", description=1)], InvalidType, "tools[0].function.description"),
        ([function("f", parameters=[], strict=True)], InvalidType, "tools[0].function.parameters"),
        ([function("f", strict="yes")], InvalidType, "tools[0].function.strict"),
        ([function("f"), function("g"), function("f")], InvalidValue, "tools[2].function.name"),
    ],
)
def test_p17_errors_of_tools(tools: Json, error: type[InvalidRequest], path: str) -> None:
    assert refusal(tools=tools) == (error, path)


@pytest.mark.parametrize("tools", [None, []])
def test_no_tools(tools: Json) -> None:
    assert read_conversation(messages=[USER], tools=tools).tools == ()


@pytest.mark.parametrize(
    ("choice", "read"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice(ToolMode.AUTO)),
        ("none", ToolChoice(ToolMode.NONE)),
        ("required", ToolChoice(ToolMode.REQUIRED)),
        ({"type": "auto"}, ToolChoice(ToolMode.AUTO)),
        ({"type": "none"}, ToolChoice(ToolMode.NONE)),
        ({"type": "required"}, ToolChoice(ToolMode.REQUIRED)),
        (function("g"), ToolChoice(ToolMode.NAMED, "g")),
        ({"type": "function", "name": "g"}, ToolChoice(ToolMode.NAMED, "g")),
        ({"type": "builtin_function", "function": {"name": "g"}}, ToolChoice(ToolMode.NAMED, "g")),
    ],
)
def test_p18_tool_choice(choice: Json, read: ToolChoice) -> None:
    tools: Json = [function("f"), function("g")]
    assert read_conversation(messages=[USER], tools=tools, tool_choice=choice).tool_choice == read


@pytest.mark.parametrize(
    ("choice", "error", "path"),
    [
        (True, InvalidType, "tool_choice"),
        ("any", InvalidValue, "tool_choice"),
        ("named", InvalidValue, "tool_choice"),
        ({}, MissingField, "tool_choice.type"),
        ({"type": 1}, InvalidType, "tool_choice.type"),
        ({"type": "allowed_tools"}, MissingField, "tool_choice.mode"),
        ({"type": "allowed_tools", "mode": "none", "tools": []}, InvalidValue, "tool_choice.mode"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, InvalidValue, "tool_choice.tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function("other")]}},
            InvalidValue,
            "tool_choice.allowed_tools.tools[0].function.name",
        ),
        ({"type": "function"}, MissingField, "tool_choice.function"),
        ({"type": "function", "function": "f"}, InvalidType, "tool_choice.function"),
        ({"type": "function", "function": {}}, MissingField, "tool_choice.function.name"),
        ({"type": "function", "name": 1}, InvalidType, "tool_choice.name"),
        (function("other"), InvalidValue, "tool_choice.function.name"),
        ({"type": "function", "name": "other"}, InvalidValue, "tool_choice.name"),
    ],
)
def test_p18_errors_of_tool_choice(choice: Json, error: type[InvalidRequest], path: str) -> None:
    assert refusal(tools=[function("f")], tool_choice=choice) == (error, path)


def test_p18_the_error_for_a_choice_of_another_type_lists_the_choices() -> None:
    for choice in (True, 1, ["auto"]):
        with pytest.raises(InvalidType, match="auto, none, required, or an object that names a function"):
            read_conversation(messages=[USER], tools=[function("f")], tool_choice=choice)  # type: ignore[arg-type]


def test_p18_of_two_function_names_the_nested_one_counts() -> None:
    choice: Json = {"type": "function", "name": "f", "function": {"name": "g"}}
    tools: Json = [function("f"), function("g")]
    read = read_conversation(messages=[USER], tools=tools, tool_choice=choice)
    assert read.tool_choice == ToolChoice(ToolMode.NAMED, "g")


@pytest.mark.parametrize("choice", [None, "auto", "none", {"type": "auto"}, {"type": "none"}])
def test_p19_a_choice_that_asks_for_no_call_needs_no_tools(choice: Json) -> None:
    assert read_conversation(messages=[USER], tool_choice=choice).tools == ()


@pytest.mark.parametrize("choice", ["required", {"type": "required"}, function("f"), {"type": "function", "name": "f"}])
def test_p19_a_choice_that_asks_for_a_call_needs_tools(choice: Json) -> None:
    assert refusal(tool_choice=choice) == (MissingField, "tools")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("mode", [ToolMode.AUTO, ToolMode.REQUIRED])
def test_p18_allowed_tools(nested: bool, mode: ToolMode) -> None:
    named: list[Json] = [function("g"), {"type": "function", "name": "f"}, function("g")]
    holder: dict[str, Json] = {"mode": mode.value, "tools": named}
    choice: Json = {"type": "allowed_tools", **({"allowed_tools": holder} if nested else holder)}
    tools: Json = [function("f"), function("g"), function("h")]
    found = read_conversation(messages=[USER], tools=tools, tool_choice=choice).tool_choice
    assert found == ToolChoice(mode, allowed=("g", "f"))
    assert [found.allows(name) for name in "fgh"] == [True, True, False]
    only = ToolChoice(ToolMode.NAMED, "f")
    assert [only.allows(name) for name in "fg"] == [True, False]


def test_p17_parameters_that_are_not_a_schema_stay_in_the_prompt_and_are_unreadable() -> None:
    sent = function("f", parameters="object")
    (tool,) = read_conversation(messages=[USER], tools=[sent]).tools
    assert tool.declaration == sent
    assert tool.parameters == {"type": "unreadable"}
    assert not tool.insists
    assert read_conversation(messages=[USER], tools=[function("f", strict=True)]).tools[0].insists


def test_p17_a_dialect_may_allow_longer_names() -> None:
    sent: list[Json] = [function("x" * 128)]
    assert read_conversation(messages=[USER], tools=sent, name_characters=128).tools[0].name == "x" * 128
