"""Translates Anthropic's tools and tool_choice to OpenAI's, which K2's prompt shows."""

from __future__ import annotations

from kimi_k2_serving.core.errors import Unsupported
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object, as_flag, as_list, as_object, as_string, closed, one_of, required
from kimi_k2_serving.frontend.origin import Origin

# Anthropic's maximum length of a tool's name.
NAME_CHARACTERS = 128
READ = ("name", "description", "input_schema", "strict", "type")
# Hints to Anthropic's own servers.
HINTS = ("cache_control", "defer_loading", "allowed_callers", "eager_input_streaming")


def read_tools(value: Json, origin: Origin) -> Json:
    """Reads tools that the client runs. Tools that run elsewhere are left out with a notice. A request with no other
    tools is refused, because it depends on them.
    """
    if value is None:
        return None
    tools: list[Json] = []
    elsewhere: list[str] = []
    for i, item in enumerate(as_list(value, "tools")):
        path = f"tools[{i}]"
        source = as_object(item, path)
        kind = source.get("type")
        if kind is not None and as_string(kind, f"{path}.type") != "custom":
            elsewhere.append(path)
            continue
        ours = f"tools[{len(tools)}].function"
        origin.place(ours, path)
        origin.place(f"{ours}.parameters", f"{path}.input_schema")
        tools.append(_tool(source, path, origin))
    if elsewhere and not tools:
        raise Unsupported("this server runs no tools itself; declare a custom tool", field=f"{elsewhere[0]}.type")
    for path in elsewhere:
        origin.leave_out(path)
    return tools


def _tool(source: Object, path: str, origin: Origin) -> Json:
    origin.ignore(source, path, (*READ, *HINTS))
    function: Object = {"name": required(source, "name", path)}
    if source.get("description") is not None:
        function["description"] = source["description"]
    # Gateways leave out the schema of a tool without arguments.
    function["parameters"] = source.get("input_schema")
    if source.get("strict") is not None:
        function["strict"] = source["strict"]
    return {"type": "function", "function": function}


def read_tool_choice(value: Json) -> tuple[Json, bool]:
    """Returns (OpenAI's tool_choice, whether several calls are allowed)."""
    if value is None:
        return None, True
    source = as_object(value, "tool_choice")
    kind = one_of(required(source, "type", "tool_choice"), ("auto", "any", "tool", "none"), "tool_choice.type")
    closed(source, "tool_choice", ("type", "name", "disable_parallel_tool_use"))
    path = "tool_choice.disable_parallel_tool_use"
    parallel = not as_flag(source.get("disable_parallel_tool_use"), path, default=False)
    if kind == "tool":
        name = as_string(required(source, "name", "tool_choice"), "tool_choice.name")
        return {"type": "function", "name": name}, parallel
    return "required" if kind == "any" else kind, parallel
