"""Anthropic's tools and tool_choice in OpenAI's shapes, which K2's prompt shows."""

from __future__ import annotations

from kimi_k2_serving.core.errors import Unsupported
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.shapes import Object, as_flag, as_list, as_object, as_string, one_of, required


def read_tools(value: Json) -> Json:
    """Client tools only; cache_control, defer_loading and the like have no place in a prompt."""
    if value is None:
        return None
    return [_tool(item, f"tools[{i}]") for i, item in enumerate(as_list(value, "tools"))]


def _tool(value: Json, path: str) -> Json:
    source = as_object(value, path)
    kind = source.get("type")
    if kind is not None and as_string(kind, f"{path}.type") != "custom":
        raise Unsupported("this server runs no tools of its own; declare a custom tool", field=f"{path}.type")
    function: Object = {"name": required(source, "name", path)}
    if source.get("description") is not None:
        function["description"] = source["description"]
    function["parameters"] = required(source, "input_schema", path)
    if source.get("strict") is not None:
        function["strict"] = source["strict"]
    return {"type": "function", "function": function}


def read_tool_choice(value: Json) -> tuple[Json, bool]:
    """(OpenAI's tool_choice, whether several calls are allowed)."""
    if value is None:
        return None, True
    source = as_object(value, "tool_choice")
    kind = one_of(required(source, "type", "tool_choice"), ("auto", "any", "tool", "none"), "tool_choice.type")
    path = "tool_choice.disable_parallel_tool_use"
    parallel = not as_flag(source.get("disable_parallel_tool_use"), path, default=False)
    if kind == "tool":
        name = as_string(required(source, "name", "tool_choice"), "tool_choice.name")
        return {"type": "function", "name": name}, parallel
    return "required" if kind == "any" else kind, parallel
