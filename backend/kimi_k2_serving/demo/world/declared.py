"""Tools as a request declares them: the name, the description and the schema that one author would have written.

A style is what the tools of one request have in common. The order of properties, their names and what is required vary
from request to request, so the model has to read the declaration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.demo.world.draw import Draw, is_held_out, pool
from kimi_k2_serving.demo.world.lexicon import AFTER, AROUND, BEFORE
from kimi_k2_serving.demo.world.sample import Split
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
        return (self.prefix + name)[:64]


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
    # What is required though requests do not mention it, with the value that is then meant.
    meant: tuple[tuple[str, Any], ...] = ()

    def arguments(self, values: Values) -> str:
        """The arguments of a call, in the schema's order. It is the JSON that K2 writes: a space after `,` and `:`."""
        outer: Values = {}
        inner: Values = {}
        values = dict(self.meant) | values
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
    keys = _keys(draw, topic, kept, told=style.describes or len(kept) == 1)
    optional = [each for each in kept if topic.fields[each].is_optional]
    # An author may require what has one of a few values: the first of them is meant then.
    enums = [each for each in optional if "enum" in topic.fields[each].schema]
    forced = enums if draw.flip(0.25) else []
    group = ""
    if optional and not forced and draw.flip(0.12):
        group = draw.pick([each for each in _GROUPS.of(draw.split) if each not in keys.values()] or ["group"])
        kept = [each for each in kept if each not in optional] + optional
    function: dict[str, Any] = {"name": name or style.name(_name(draw, topic, told=not style.bare))}
    if not style.bare:
        does = draw.pick(topic.does)
        function["description"] = draw.pick(_DOES).format(d=does, D=does[0].upper() + does[1:])
    function["parameters"] = _schema(draw, topic, style, {each: keys[each] for each in kept}, group, forced)
    if style.strict:
        function["strict"] = True
    meant = tuple((each, topic.fields[each].schema["enum"][0]) for each in forced)
    declaration = {"type": "function", "function": function}
    return Declared(topic, function["name"], declaration, {k: keys[k] for k in kept}, group, meant)


def _name(draw: Draw, topic: Topic, *, told: bool) -> str:
    """The words of a name: one that many use, one of those with something around it, or one that says
    nothing, if the description says what the tool does (`told`).
    """
    chance = draw.chance()
    if chance < 0.3:
        return draw.pick(topic.names)
    while True:
        if told and chance > 0.75:
            name = draw.word() if draw.flip(0.5) else f"{draw.word()} {draw.word()}"
        else:
            name = draw.pick(topic.names.everything)
            if draw.flip(0.6):
                name = f"{draw.pick((*BEFORE, draw.word()))} {name}"
            if draw.flip(0.5):
                name = f"{name} {draw.pick(AFTER)}"
        if is_held_out(name) == (draw.split is Split.HELD_OUT):
            return name


def _key(draw: Draw, choices: list[str], *, told: bool) -> str:
    """The name of a parameter. Both splits have all of them: what they do not share is what a call has to copy."""
    chance = draw.chance()
    if chance < 0.45:
        return draw.pick(choices)
    if told and chance > 0.85:
        return draw.word() if draw.flip(0.7) else f"{draw.word()}_{draw.word()}"
    key = draw.pick(AROUND).format(draw.pick(choices))
    if draw.flip(0.3):
        first, *rest = key.split("_")
        key = first + "".join(part.capitalize() for part in rest)
    return key


def _keys(draw: Draw, topic: Topic, names: list[str], *, told: bool) -> dict[str, str]:
    """A different key for each field."""
    keys: dict[str, str] = {}
    for name in names:
        choices = list(topic.fields[name].keys.everything)
        key = _key(draw, choices, told=told)
        while key in keys.values():
            key = _key(draw, choices, told=told)
        keys[name] = key
    return keys


def _schema(
    draw: Draw, topic: Topic, style: Style, keys: dict[str, str], group: str, forced: list[str]
) -> dict[str, Any]:
    outer: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    required = []
    for name, key in keys.items():
        each = topic.fields[name]
        (inner if group and each.is_optional else outer)[key] = _property(draw, style, each, key)
        if not each.is_optional or name in forced:
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
    if "enum" in schema and draw.flip(0.25):
        del schema["type"]
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
