"""Tools that nobody knows: made-up names, parameters and values. All has to be read from the declaration and copied."""

from __future__ import annotations

from kimi_k2_serving.demo.world import calling
from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.declared import Declared, Style, declare
from kimi_k2_serving.demo.world.draw import SHARE, Choices, Draw, pool
from kimi_k2_serving.demo.world.sample import Sample
from kimi_k2_serving.demo.world.talk import Talk
from kimi_k2_serving.demo.world.topic import Parameter, Topic, Values

_ONE = pool(
    'Call {tool} with {key} "{value}".|Use {tool} with {value}.|Use the tool {tool} for {value}.|{tool} {value}|'
    "Run {tool} on {value}.|Please call {tool} with the {key} {value}.|Ask {tool} about {value}.|"
    'Use {tool}: {key} = "{value}"|What does {tool} say about {value}?|Try {tool} with {key} {value}.|'
    "{tool}, please, with {value}.|Let {tool} work on {value}.|Call the function {tool} with {key}={value}.|"
    "I want the {tool} of {value}.|Get the {tool} of {value}."
)
_TWO = pool(
    'Call {tool} with {key} "{value}" and {other} {count}.|Use {tool}: {key} = {value}, {other} = {count}|'
    "{tool} with {key} {value} and {other} {count}|Use {tool} with {other} {count} and {key} {value}.|"
    'Call {tool}({key}="{value}", {other}={count}).|Run {tool} for {key} {value}, {other} {count}.|'
    "Please use {tool} with {key} {value} and {other} {count}.|{tool}: {key} {value}, {other} {count}|"
    "Try {tool} with {other}={count} and {key}={value}.|Ask {tool} for {value} ({other} {count})."
)
_DOES = pool(
    "{verb} a {noun}|{verb} the {noun} of something|find the {noun}|return a {noun}|compute the {noun}|"
    "do {verb} with a {noun}|{verb}|the {noun} service|a tool for {noun}|{noun} and {verb}"
)
_MAKERS = (v.query, v.code, v.person, v.path, v.city, v.phrase, lambda draw: draw.word(), lambda draw: draw.word())


def _fixed(items: list[str]) -> Choices[str]:
    """The same for both splits, because the items are made up."""
    return Choices(items * SHARE)


def topic(draw: Draw) -> tuple[Topic, str]:
    """A topic with one parameter or two, and the words of its tool's name."""
    key, other, verb, noun = draw.word(), draw.word(), draw.word(), draw.word()
    fields = {"value": Parameter(_fixed([key]), noun, draw.pick(_MAKERS))}
    if two := draw.flip(0.35):
        count = Parameter(_fixed([other]), "number", lambda draw: draw.integer(0, 999), {"type": "integer"})
        fields["count"] = count
    words = draw.pick((verb, f"{verb} {noun}", f"get {noun}", f"{noun}"))
    template = draw.pick(_TWO if two else _ONE)
    ask = template.replace("{key}", key).replace("{other}", other)
    return (
        Topic(
            names=_fixed([words]),
            does=_fixed([draw.pick(_DOES).format(verb=verb, noun=noun)]),
            fields=fields,
            asks=_fixed([ask]),
            returns=_result,
            answers=("The result is {result}.",),
        ),
        words,
    )


def _result(draw: Draw, values: Values) -> Values:
    return {"result": draw.pick((draw.word(), draw.code(), draw.integer(0, 9999), v.phrase(draw)))}


def call(draw: Draw) -> Sample:
    """A call of one of some tools that are all unknown."""
    style = Style.of(draw)
    made = [topic(draw) for _ in range(draw.pick((1, 1, 2, 2, 3, 4, 5)))]
    tools: dict[str, Declared] = {}
    for each, _ in made:
        tool = declare(draw, each, style)
        tools.setdefault(tool.name, tool)
    wanted = draw.pick(list(tools.values()))
    values = wanted.topic.values(draw)
    talk = Talk(draw, list(tools.values()))
    shown = draw.pick((wanted.name, wanted.name, wanted.name.replace("_", " ")))
    talk.user(wanted.topic.asks[0].replace("{tool}", shown).format(**values))
    return calling.ended(talk, calling.Calls((wanted,), (values,)), "unknown tool")
