"""Translates tools of the Responses API to chat's. A function is a flat object, alone or in a namespace; chat nests it.

A namespace becomes a prefix of its functions' names. A custom tool becomes a function with one string. Tools that run
elsewhere (web_search, mcp, ...) can't be called by this server, so they are left out and the answer has a notice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kimi_k2_serving.core.errors import InvalidValue, Unsupported
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object, as_list, as_object, as_string, required
from kimi_k2_serving.frontend.openai import freeform
from kimi_k2_serving.frontend.origin import Origin

# The maximum length of a joined name: a namespace's name and a function's, each at most 64 characters as in OpenAI's
# API, and the separator.
NAME_CHARACTERS = 64 + len("__") + 64
FUNCTION = ("type", "name", "description", "parameters", "strict")
# Hints of agents, such as when to load a tool. They have no effect: the prompt shows all tools at once.
HINTS = ("defer_loading", "output_schema", "cache_control")
NAMESPACE = ("type", "name", "description", "tools")


@dataclass(slots=True)
class Tools:
    """`declared`: chat's tools, None if the request has no `tools`. `functions`, for namespaces and custom tools:
    name in the prompt -> the keys of its calls, except id and arguments. `taken`: names that no joined name may have.
    """

    declared: list[Json] | None = None
    functions: dict[str, Object] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    _joined: dict[tuple[str, str], str] = field(default_factory=dict)

    def full_name(self, namespace: str, name: str) -> str:
        """The name in the prompt of a function in a namespace, declared or not."""
        return self._joined.get((namespace, name)) or full_name(namespace, name)

    def _join(self, namespace: str, name: str, path: str) -> str:
        """Like `full_name`, but unique, because other servers' tools may already have that name."""
        if (namespace, name) not in self._joined:
            joined = full_name(namespace, name)
            if len(joined) > NAME_CHARACTERS:
                detail = f"must be at most {NAME_CHARACTERS} characters together with the name of its namespace"
                raise InvalidValue(detail, field=f"{path}.name")
            unique, number = joined, 1
            while unique in self.taken:
                number += 1
                end = f"_{number}"
                unique = f"{joined[: NAME_CHARACTERS - len(end)]}{end}"
            self.taken.add(unique)
            self._joined[namespace, name] = unique
        return self._joined[namespace, name]

    def add(self, source: Object, path: str, origin: Origin, namespace: str | None = None) -> None:
        assert self.declared is not None
        ours = f"tools[{len(self.declared)}].function"
        origin.ignore(source, path, (*FUNCTION, *HINTS))
        origin.place(ours, path)
        function = {name: source[name] for name in FUNCTION[1:] if source.get(name) is not None}
        if namespace is not None:
            name = as_string(required(source, "name", path), f"{path}.name")
            function["name"] = self._join(namespace, name, path)
            self.functions[self.full_name(namespace, name)] = {"name": name, "namespace": namespace}
        self.declared.append({"type": "function", "function": function})

    def add_custom(self, source: Object, path: str, origin: Origin, namespace: str | None = None) -> None:
        origin.ignore(source, path, (*freeform.KNOWN, *HINTS))
        name = as_string(required(source, "name", path), f"{path}.name")
        shown: Object = {key: source[key] for key in ("name", "description") if source.get(key) is not None}
        shown["parameters"] = freeform.parameters(source.get("format"), path, origin)
        self.add(shown, path, origin, namespace)
        full = name if namespace is None else self.full_name(namespace, name)
        self.functions[full] = {"type": freeform.CALL, **self.functions.get(full, {"name": name})}


def full_name(namespace: str, name: str) -> str:
    return f"{namespace}{name}" if namespace.endswith("_") else f"{namespace}__{name}"


def read_tools(value: Json, origin: Origin) -> Tools:
    tools = Tools()
    if value is None:
        return tools
    tools.declared = []
    items = as_list(value, "tools")
    names = [item.get("name") for item in items if isinstance(item, dict) and item.get("type") != "namespace"]
    tools.taken = {name for name in names if isinstance(name, str)}
    for i, item in enumerate(items):
        path = f"tools[{i}]"
        source = as_object(item, path)
        match as_string(required(source, "type", path), f"{path}.type"):
            case "function":
                tools.add(source, path, origin)
            case "namespace":
                _flatten(source, path, tools, origin)
            case "custom":
                tools.add_custom(source, path, origin)
            case _:
                origin.leave_out(path)
    return tools


def _flatten(source: Object, path: str, tools: Tools, origin: Origin) -> None:
    origin.ignore(source, path, (*NAMESPACE, *HINTS))
    namespace = as_string(required(source, "name", path), f"{path}.name")
    for i, item in enumerate(as_list(required(source, "tools", path), f"{path}.tools")):
        where = f"{path}.tools[{i}]"
        inner = as_object(item, where)
        match as_string(required(inner, "type", where), f"{where}.type"):
            case "function":
                tools.add(inner, where, origin, namespace)
            case "custom":
                tools.add_custom(inner, where, origin, namespace)
            case _:
                origin.leave_out(where)


def read_tool_choice(value: Json, tools: Tools, origin: Origin) -> Json:
    """Chat's tool_choice. Functions in namespaces get their full names; tools that `read_tools` omits are omitted. If a
    choice allows only omitted tools, it allows no call.
    """
    if not isinstance(value, dict):
        return value
    if value.get("type") != "allowed_tools" or not isinstance(value.get("tools"), list):
        return _named(value, tools)
    kept: list[Json] = []
    for i, item in enumerate(as_list(value["tools"], "tool_choice.tools")):
        if isinstance(item, dict) and item.get("type") not in ("function", "custom", None):
            origin.leave_out(f"tool_choice.tools[{i}]")
            continue
        origin.place(f"tool_choice.tools[{len(kept)}]", f"tool_choice.tools[{i}]")
        kept.append(_named(item, tools) if isinstance(item, dict) else item)
    if value["tools"] and not kept and value.get("mode") == "auto":
        return "none"
    return {**value, "tools": kept}


def _named(choice: Object, tools: Tools) -> Object:
    """The choice of a function or custom tool in chat's form. Raises Unsupported for a tool that runs elsewhere."""
    namespace, name = choice.get("namespace"), choice.get("name")
    if choice.get("type") == "custom":
        choice = {**choice, "type": "function"}
    elif choice.get("type") not in ("function", "auto", "none", "required", "allowed_tools", None):
        detail = "this server runs no tools; name a function, or send auto, none or required"
        raise Unsupported(detail, field="tool_choice.type")
    if isinstance(namespace, str) and isinstance(name, str):
        return {**choice, "name": tools.full_name(namespace, name)}
    return choice
