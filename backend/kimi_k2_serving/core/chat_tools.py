"""Reads the tools of an OpenAI chat request and its tool_choice.

A declaration is kept whole, in the client's key order, because the prompt shows it. Only the parts that the server
itself uses are checked here (names, types, flags); the grammar checks the schemas. Linear. Rules P17 to P19 of
docs/kimi_k2_format.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField, Unsupported
from kimi_k2_serving.core.limits import TOOLS
from kimi_k2_serving.core.messages import Json, Tool, ToolChoice, ToolMode
from kimi_k2_serving.core.typed_json import Object, as_flag, as_list, as_object, as_string, one_of, required

# OpenAI's bound on a function's name, and its alphabet with the dot that MCP servers use.
NAME_CHARACTERS = 64
_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_MODES: Mapping[str, ToolMode] = {mode.value: mode for mode in ToolMode if mode is not ToolMode.NAMED}


def read_tools(value: Json, *, name_characters: int = NAME_CHARACTERS) -> tuple[Tool, ...]:
    """The declared tools; null and [] mean no tools. Names are unique."""
    if value is None:
        return ()
    items = as_list(value, "tools")
    TOOLS.check(len(items), field="tools")
    tools = []
    names: set[str] = set()
    for i, item in enumerate(items):
        tool = _tool(item, f"tools[{i}]", name_characters)
        if tool.name in names:
            raise InvalidValue("another tool has this name", field=f"tools[{i}].function.name")
        names.add(tool.name)
        tools.append(tool)
    return tuple(tools)


def read_tool_choice(value: Json, tools: tuple[Tool, ...]) -> ToolChoice:
    """Read `"auto"`, `"none"`, `"required"`, one of these as `{"type": ...}`, or the object that names a function.

    Raises MissingField for `tools` if a call is required and no tool is declared, InvalidValue for an undeclared name.
    """
    if value is None:
        return ToolChoice()
    if isinstance(value, dict) and value.get("type") in ("function", "builtin_function"):
        return _named(value, tools)
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        return _allowed(value, tools)
    if isinstance(value, dict):
        kind, path = required(value, "type", "tool_choice"), "tool_choice.type"
    else:
        kind, path = value, "tool_choice"
    if not isinstance(kind, str):
        raise InvalidType("must be auto, none, required, or an object that names a function", field=path)
    mode = _MODES[one_of(kind, _MODES, path)]
    if mode is ToolMode.REQUIRED:
        _need(tools)
    return ToolChoice(mode)


def _named(choice: Object, tools: tuple[Tool, ...]) -> ToolChoice:
    """The choice of one function. Chat nests the name under `function`; the Responses API puts it next to `type`."""
    _need(tools)
    path = "tool_choice" if "function" not in choice and "name" in choice else "tool_choice.function"
    holder = choice if path == "tool_choice" else as_object(required(choice, "function", "tool_choice"), path)
    name = as_string(required(holder, "name", path), f"{path}.name")
    if all(tool.name != name for tool in tools):
        raise InvalidValue("names a function that tools does not declare", field=f"{path}.name")
    return ToolChoice(ToolMode.NAMED, name)


def _allowed(choice: Object, tools: tuple[Tool, ...]) -> ToolChoice:
    """The choice of allowed tools. Chat nests mode and tools under `allowed_tools`; the Responses API puts them next to
    `type`.
    """
    _need(tools)
    path = "tool_choice.allowed_tools" if "allowed_tools" in choice else "tool_choice"
    holder = as_object(choice["allowed_tools"], path) if "allowed_tools" in choice else choice
    mode = one_of(required(holder, "mode", path), ("auto", "required"), f"{path}.mode")
    declared = {tool.name for tool in tools}
    names: list[str] = []
    for i, item in enumerate(as_list(required(holder, "tools", path), f"{path}.tools")):
        where = f"{path}.tools[{i}]"
        source = as_object(item, where)
        if "function" in source:
            where = f"{where}.function"
            source = as_object(source["function"], where)
        name = as_string(required(source, "name", where), f"{where}.name")
        if name not in declared:
            raise InvalidValue("names a function that tools does not declare", field=f"{where}.name")
        names.append(name)
    if not names:
        raise InvalidValue("must name at least one function", field=f"{path}.tools")
    return ToolChoice(_MODES[mode], allowed=tuple(dict.fromkeys(names)))


def _need(tools: tuple[Tool, ...]) -> None:
    if not tools:
        raise MissingField("is required, because tool_choice requires a call", field="tools")


def _tool(value: Json, path: str, name_characters: int) -> Tool:
    declaration = as_object(value, path)
    kind = as_string(required(declaration, "type", path), f"{path}.type")
    if kind not in ("function", "builtin_function"):
        raise Unsupported("this model can only call functions; declare a function", field=f"{path}.type")
    path = f"{path}.function"
    function = as_object(required(declaration, "function", path.rpartition(".")[0]), path)
    name = as_string(required(function, "name", path), f"{path}.name")
    # Moonshot's built-in functions begin with a dollar sign: $web_search.
    plain = name.removeprefix("$") if kind == "builtin_function" else name
    if not 1 <= len(plain) <= name_characters or not _ALPHABET.issuperset(plain):
        raise InvalidValue(f"must be 1 to {name_characters} characters of A-Z a-z 0-9 _ . -", field=f"{path}.name")
    description = function.get("description")
    if description is not None:
        as_string(description, f"{path}.description")
    parameters = function.get("parameters")
    strict = as_flag(function.get("strict"), f"{path}.strict", default=True)
    insists = function.get("strict") is True
    if parameters is not None and not isinstance(parameters, dict | bool):
        if insists:
            raise InvalidType("must be a JSON Schema: an object, true or false", field=f"{path}.parameters")
        # The grammar can't read this type either and reports that (see grammar/constraint).
        parameters = {"type": "unreadable"}
    return Tool(name=name, declaration=declaration, parameters=parameters, strict=strict, insists=insists)
