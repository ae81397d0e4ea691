"""Tools as a request declares them: the name, the description and the schema that one author would have written.

A style is what the tools of one request have in common. The order of properties, their names and what is required vary
from request to request, so the model has to read the declaration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.demo.world.draw import Draw, pool
from kimi_k2_serving.demo.world.topic import Parameter, Topic, Values

_CASES = ("snake", "snake", "snake", "camel", "pascal", "kebab", "dotted", "single")
_DOES = pool(
    "{D}|{D}.|Use this to {d}.|A tool to {d}.|{D}. Returns JSON.|"
    "Call this to {d}.|Function: {d}|{D}; use it when asked.|"
    "This tool can {d}.|{D} and return the result."
)
_NOUNS = pool(
    "The {n}|{N}|{N} to use|Which {n}|The {n} of the request|{N}, as the user gave it|the {n}.|Required {n}|"
    "{N} (see the request)|A {n}"
)
_GROUPS = pool("options|filter|settings|params|extra|config|details|arguments|opts|query_options")


@dataclass(frozen=True, slots=True)
class Style:
    """How one author writes declarations."""

    case: str
    prefix: str
    describes: bool
    closed: bool
    dialect: bool
    titles: bool
    strict: bool
    bare: bool

    @classmethod
    def of(cls, draw: Draw) -> Style:
        prefix = ""
        if draw.flip(0.12):
            prefix = draw.pick(("mcp__{}__", "{}_", "{}_")).format(draw.word())
        return cls(
            case=draw.pick(_CASES),
            prefix=prefix,
            describes=draw.flip(0.55),
            closed=draw.flip(0.35),
            dialect=draw.flip(0.12),
            titles=draw.flip(0.08),
            strict=draw.flip(0.08),
            bare=draw.flip(0.08),
        )

    def name(self, words: str) -> str:
        """`get current weather` in this style."""
        parts = words.split()
        match self.case:
            case "camel":
                name = parts[0] + "".join(part.capitalize() for part in parts[1:])
            case "pascal":
                name = "".join(part.capitalize() for part in parts)
            case "kebab":
                name = "-".join(parts)
            case "dotted":
                name = ".".join(parts)
            case "single":
                name = "".join(parts)
            case _:
                name = "_".join(parts)
        return self.prefix + name


@dataclass(frozen=True, slots=True)
class Declared:
    """`keys`: the schema's name of each field, in the schema's order. `group`: the object that holds the optional ones,
    or "" if they stand beside the others.
    """

    topic: Topic
    name: str
    declaration: dict[str, Any]
    keys: dict[str, str]
    group: str = ""

    def arguments(self, values: Values) -> str:
        """The arguments of a call, in the schema's order. It is the JSON that K2 writes: a space after `,` and `:`."""
        outer: Values = {}
        inner: Values = {}
        for name, key in self.keys.items():
            if name in values:
                (inner if self.group and self.topic.fields[name].is_optional else outer)[key] = values[name]
        if inner:
            outer[self.group] = inner
        return json.dumps(outer, ensure_ascii=False)


def declare(draw: Draw, topic: Topic, style: Style, *, name: str = "") -> Declared:
    """A declaration of a tool for this topic."""
    fields = draw.shuffled(list(topic.fields)) if draw.flip(0.3) else list(topic.fields)
    kept = [each for each in fields if not topic.fields[each].is_optional or draw.flip(0.75)]
    keys = _keys(draw, topic, kept)
    optional = [each for each in kept if topic.fields[each].is_optional]
    group = ""
    if optional and draw.flip(0.12):
        group = draw.pick([each for each in _GROUPS.of(draw.split) if each not in keys.values()] or ["group"])
        kept = [each for each in kept if each not in optional] + optional
    function: dict[str, Any] = {"name": name or style.name(draw.pick(topic.names))}
    if not style.bare:
        does = draw.pick(topic.does)
        function["description"] = draw.pick(_DOES).format(d=does, D=does[0].upper() + does[1:])
    function["parameters"] = _schema(draw, topic, style, {each: keys[each] for each in kept}, group)
    if style.strict:
        function["strict"] = True
    return Declared(
        topic, function["name"], {"type": "function", "function": function}, {k: keys[k] for k in kept}, group
    )


def _keys(draw: Draw, topic: Topic, names: list[str]) -> dict[str, str]:
    """A different key for each field."""
    keys: dict[str, str] = {}
    for name in names:
        choices = [key for key in topic.fields[name].keys.of(draw.split) if key not in keys.values()]
        keys[name] = draw.pick(choices) if choices else name
    return keys


def _schema(draw: Draw, topic: Topic, style: Style, keys: dict[str, str], group: str) -> dict[str, Any]:
    outer: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    required = []
    for name, key in keys.items():
        each = topic.fields[name]
        (inner if group and each.is_optional else outer)[key] = _property(draw, style, each, key)
        if not each.is_optional:
            required.append(key)
    if inner:
        outer[group] = {"type": "object", "properties": inner}
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"} if style.dialect else {}
    schema |= {"type": "object", "properties": outer, "required": required}
    if style.closed:
        schema["additionalProperties"] = False
    return schema


def _property(draw: Draw, style: Style, each: Parameter, key: str) -> dict[str, Any]:
    schema = dict(each.schema)
    if style.titles:
        schema = {"title": key.replace("_", " ").title(), **schema}
    if style.describes:
        noun = draw.pick(_NOUNS).format(n=each.noun, N=each.noun[0].upper() + each.noun[1:])
        if each.schema == {"type": "string"} and draw.flip(0.2):
            # What stands there is an example and not the value of the call.
            noun = noun.rstrip(".") + draw.pick((", e.g. {}", " (such as {})", ", for example {}")).format(
                each.make(draw)
            )
        schema = {"description": noun, **schema} if draw.flip(0.3) else {**schema, "description": noun}
    return schema
