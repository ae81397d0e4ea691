"""Makes Python functions the model's tools: schemas from their signatures and docstrings, and calls of the functions.

A parameter's type is its annotation: str, int, float, bool, None, Any, Literal, Enum, list, tuple, set, dict with str
keys, unions, TypedDict, and pydantic models. The model may leave out a parameter that has a default. The docstring's
first paragraph describes the tool; lines `name: text` under `Args:` (or `:param name: text`) describe its parameters.
"""

from __future__ import annotations

import enum
import inspect
import json
import types
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from kimi_k2_serving.core.messages import ToolCall

Function = Callable[..., Any]
PLAIN: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
    inspect.Parameter.empty: {},
}


class ToolError(Exception):
    """Raise this in a tool: the model gets its text as the result. Any other exception ends `run_tools`."""


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function and its declaration in OpenAI's form."""

    function: Function
    declaration: dict[str, Any]
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name by which the model calls the function."""
        return str(self.declaration["function"]["name"])

    @classmethod
    def of(cls, function: Function) -> FunctionTool:
        """Declare a function. Raises TypeError that names the parameter for a signature or an annotation without a
        schema.
        """
        name = getattr(function, "__name__", type(function).__name__)
        summary, described = read_docstring(inspect.getdoc(function) or "")
        hints = typing.get_type_hints(function)
        properties: dict[str, Any] = {}
        definitions: dict[str, Any] = {}
        required = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"{name}: parameter {parameter.name} must have a name of its own to be given by")
            try:
                schema = schema_of(hints.get(parameter.name, parameter.annotation))
            except TypeError as error:
                raise TypeError(f"{name}: parameter {parameter.name}: {error}") from None
            if text := described.get(parameter.name):
                schema = {**schema, "description": text}
            properties[parameter.name] = _hoisted(schema, definitions)
            if parameter.default is parameter.empty:
                required.append(parameter.name)
        parameters = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
            **({"$defs": definitions} if definitions else {}),
        }
        function_part = {"name": name, "description": summary, "parameters": parameters}
        return cls(function, {"type": "function", "function": function_part}, hints)

    def arguments(self, text: str) -> dict[str, Any]:
        """The arguments of a call as this function takes them. Raises ToolError if they do not fit."""
        try:
            given = json.loads(text or "{}")
        except ValueError:
            raise ToolError("the arguments are not JSON") from None
        if not isinstance(given, dict):
            raise ToolError("the arguments are not a JSON object")
        try:
            inspect.signature(self.function).bind(**given)
            return {name: _converted(self.parameters.get(name), value) for name, value in given.items()}
        except (TypeError, ValueError) as error:
            raise ToolError(f"the arguments do not fit: {error}") from None


def tools_of(functions: Sequence[Function], *, asynchronous: bool) -> dict[str, FunctionTool]:
    """The tools by name. Raises TypeError for equal names and for an `async` function in a blocking client."""
    tools: dict[str, FunctionTool] = {}
    for function in functions:
        tool = FunctionTool.of(function)
        if tool.name in tools:
            raise TypeError(f"two tools are called {tool.name}")
        if inspect.iscoroutinefunction(function) and not asynchronous:
            raise TypeError(f"{tool.name} is an async function: use AsyncClient")
        tools[tool.name] = tool
    return tools


def begin_call(tools: Mapping[str, FunctionTool], call: ToolCall) -> Any:
    """The function's return value, which may be awaitable. Raises ToolError, and whatever the function raises."""
    if call.name not in tools:
        raise ToolError(f"there is no tool {call.name}; there are: {', '.join(tools)}")
    tool = tools[call.name]
    return tool.function(**tool.arguments(call.arguments))


def call_tool(tools: Mapping[str, FunctionTool], call: ToolCall) -> dict[str, Any]:
    """The tool message with the function's result."""
    try:
        return _message(call, begin_call(tools, call))
    except ToolError as error:
        return _message(call, {"error": str(error)})


async def acall_tool(tools: Mapping[str, FunctionTool], call: ToolCall) -> dict[str, Any]:
    """`call_tool`, for functions that may be `async`."""
    try:
        result = begin_call(tools, call)
        return _message(call, await result if isinstance(result, Awaitable) else result)
    except ToolError as error:
        return _message(call, {"error": str(error)})


def _message(call: ToolCall, result: Any) -> dict[str, Any]:
    if not isinstance(result, str):
        result = json.dumps(_plain(result), ensure_ascii=False, default=str)
    return {"role": "tool", "tool_call_id": call.id, "content": result}


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON Schema of an annotation. Raises TypeError for one that JSON can't express."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return schema_of(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(each) for each in arguments]}
    if origin is Literal:
        return {"enum": [each.value if isinstance(each, enum.Enum) else each for each in arguments]}
    if origin in (list, set, tuple, frozenset, Sequence) or annotation in (list, set, tuple, frozenset, Sequence):
        return _array(origin or annotation, arguments)
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return _object(arguments)
    if isinstance(annotation, type):
        return _schema_of_class(annotation)
    if annotation is Any:
        return {}
    raise TypeError(f"{annotation!r} has no JSON Schema")


def _hoisted(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with its `$defs` moved to `definitions`, because pydantic's references start at the root of the
    document.
    """
    if isinstance(schema, list):
        return [_hoisted(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    definitions.update(schema.get("$defs", {}))
    return {name: _hoisted(each, definitions) for name, each in schema.items() if name != "$defs"}


def _array(kind: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        items = [schema_of(each) for each in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items), "maxItems": len(items)}
    return {"type": "array", **({"items": schema_of(arguments[0])} if arguments else {})}


def _object(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments and arguments[0] is not str:
        raise TypeError("a dict's keys must be str")
    return {"type": "object", **({"additionalProperties": schema_of(arguments[1])} if arguments else {})}


def _schema_of_class(kind: type) -> dict[str, Any]:
    if (plain := PLAIN.get(kind)) is not None:
        return dict(plain)
    if issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if hasattr(kind, "model_json_schema"):
        return dict(kind.model_json_schema())
    if typing.is_typeddict(kind):
        properties = {name: schema_of(each) for name, each in typing.get_type_hints(kind).items()}
        required = sorted(vars(kind)["__required_keys__"])
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    raise TypeError(f"{kind.__name__} has no JSON Schema")


def _converted(annotation: Any, value: Any) -> Any:
    """The value as an instance of the annotation's class if JSON has no such type: an enum's member, a model, a set, a
    tuple.
    """
    if get_origin(annotation) in (set, frozenset, tuple) and isinstance(value, list):
        return get_origin(annotation)(value)
    if not isinstance(annotation, type):
        return value
    if issubclass(annotation, enum.Enum):
        return annotation(value)
    if hasattr(annotation, "model_validate"):
        return annotation.model_validate(value)
    return annotation(value) if annotation in (set, frozenset, tuple) else value


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph as one line, and the descriptions of parameters."""
    lines = text.splitlines()
    paragraph: list[str] = []
    for line in lines:
        if not line.strip() and paragraph:
            break
        paragraph.append(line.strip())
    described: dict[str, str] = {}
    in_arguments = False
    for line in lines:
        words = line.strip()
        if words in ("Args:", "Arguments:", "Parameters:"):
            in_arguments = True
        elif words.startswith(":param "):
            name, _, said = words.removeprefix(":param ").partition(":")
            described[name.split()[-1]] = said.strip()
        elif in_arguments and words and not line.startswith((" ", "\t")):
            in_arguments = False
        elif in_arguments and ":" in words:
            name, _, said = words.partition(":")
            described[name.split("(")[0].strip()] = said.strip()
    return " ".join(paragraph).strip(), described
