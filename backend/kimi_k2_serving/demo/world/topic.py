"""What a tool of the world is about: its names, its parameters, how people ask for it, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kimi_k2_serving.demo.world.draw import Choices, Draw, pool
from kimi_k2_serving.demo.world.patterns import expanded

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter. `keys`: its names in a schema, in pairs of bars; `noun`: what its description calls it.

    `said`: how a request mentions it if it is optional, with the value in the place of `{}`; for flags and enums by the
    value. An optional parameter without a mention is left out of the call.
    """

    keys: Choices[str]
    noun: str
    make: Callable[[Draw], Any]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    said: tuple[str, ...] = ()
    said_of: Mapping[Any, tuple[str, ...]] = field(default_factory=dict)
    share: float = 0.5

    @property
    def is_optional(self) -> bool:
        return bool(self.said or self.said_of)

    def mention(self, draw: Draw, value: Any) -> str:
        return draw.pick(self.said_of[value] if self.said_of else self.said).format(spoken(value))


@dataclass(frozen=True, slots=True)
class Topic:
    """`names`: verb and noun of tool names; `does`: what descriptions say; `asks`: requests with the required fields
    by name; `returns`: the result's fields; `answers`: what the assistant says with fields and result.

    `lacks`: what it asks if the request names no value; `vague`: such requests. `rests`: other languages' requests with
    their answers.
    """

    names: Choices[str]
    does: Choices[str]
    fields: Mapping[str, Parameter]
    asks: Choices[str]
    returns: Callable[[Draw, Values], Values]
    answers: tuple[str, ...]
    vague: Choices[str] | None = None
    lacks: str = ""
    follow: Choices[str] | None = None
    plural: str = ""
    tongues: Mapping[str, tuple[Choices[str], str]] = field(default_factory=dict)
    # More requests; see patterns.
    patterns: tuple[str, ...] = ()

    def values(self, draw: Draw) -> Values:
        """Values of all fields; those of the optional ones only in their share of the draws."""
        return {
            name: each.make(draw) for name, each in self.fields.items() if not each.is_optional or draw.flip(each.share)
        }

    def ask(self, draw: Draw, values: Values, template: str | None = None) -> str:
        """A request for a call with these values."""
        if not template:
            composed = self.patterns and draw.flip(0.65)
            template = expanded(draw, self.patterns) if composed else draw.pick(self.asks)
        text = template.format(**{key: spoken(value) for key, value in values.items()})
        mentions = [
            self.fields[name].mention(draw, value) for name, value in values.items() if self.fields[name].is_optional
        ]
        if not mentions:
            return text
        end = text[-1] if text[-1] in "?.!" else ""
        return text.removesuffix(end) + "".join(f" {each}" for each in draw.shuffled(mentions)) + end


def spoken(value: Any) -> str:
    """A value in the text of a request."""
    if isinstance(value, list):
        texts = [spoken(each) for each in value]
        return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
    return str(value)


def text(keys: str, noun: str, make: Callable[[Draw], Any], *said: str, share: float = 0.4) -> Parameter:
    """A string."""
    return Parameter(pool(keys), noun, make, said=said, share=share)


def number(keys: str, noun: str, low: int, high: int, *said: str, share: float = 0.4) -> Parameter:
    """A whole number."""
    return Parameter(pool(keys), noun, lambda draw: draw.integer(low, high), {"type": "integer"}, said, share=share)


def choice(keys: str, noun: str, options: Mapping[str, tuple[str, ...]], *, share: float = 0.4) -> Parameter:
    """One of a few words, each with its mentions."""
    names = tuple(options)
    return Parameter(
        pool(keys), noun, lambda draw: draw.pick(names), {"type": "string", "enum": list(names)}, (), options, share
    )


def flag(keys: str, noun: str, yes: tuple[str, ...], no: tuple[str, ...], *, share: float = 0.3) -> Parameter:
    """A boolean with the mentions of its values."""
    mentions = {True: yes, False: no}
    return Parameter(pool(keys), noun, lambda draw: draw.flip(0.5), {"type": "boolean"}, (), mentions, share)


def several(keys: str, noun: str, make: Callable[[Draw], Any], *said: str, share: float = 0.4) -> Parameter:
    """An array of one to three strings."""
    schema = {"type": "array", "items": {"type": "string"}}
    return Parameter(
        pool(keys), noun, lambda draw: [make(draw) for _ in range(draw.integer(1, 3))], schema, said, share=share
    )
