"""Hostile answers by seed: well-formed sections with random damage, as ids of the byte vocabulary.

The same seed gives the same answer for ever, so a failure is reproduced by its number alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from kimi_k2_serving.core.call_machine import Marker
from kimi_k2_serving.core.events import FinishReason
from tests.support.answers import ARG, CALL, END, END_SEC, SEC, VOCABULARY, Part

_TOOLS = ("f", "get_weather", "a.b", "search-documents", "x:1", "天气")
_CONTENT = ("", "", " ", "\n\n", "Look.", "STOP", "STO", "aab", "天气🏃", "<|tool_call_begin|>", "é", '{"a":1}', "\x00")
_STRINGS = ('"x"', '"\\"}]"', '"\\u00e9\\\\"', '"<|tool_call_end|>"', '"STOP"', '"🏃"')
_VALUES = ("1", "-0.5e+10", "true", "null", "[]", "{}", *_STRINGS)
_DAMAGE: tuple[Part, ...] = (
    *Marker,
    *(VOCABULARY.control(name) for name in ("<|im_end|>", "[BOS]")),
    *range(0x20, 0x30),
    *(0x00, 0x0A, 0x22, 0x5C, 0x7B, 0x7D, 0x5B, 0x5D, 0x3A, 0x80, 0xBF, 0xC3, 0xE2, 0xED, 0xF0, 0xFF),
)
_STOPS = ((), (), ("STOP",), ("aab", "ab", "STOP!"), ("\n\n", "天"), ("",))


@dataclass(frozen=True, slots=True)
class HostileAnswer:
    ids: list[int]
    tools: tuple[str, ...]
    stops: tuple[str, ...]
    parallel: bool
    reason: FinishReason


def hostile_answer(random: Random) -> HostileAnswer:
    parts: list[Part] = [random.choice(_CONTENT)]
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        parts += [SEC, *_calls(random), END_SEC, random.choice(_CONTENT)]
    ids = VOCABULARY.ids(*parts)
    for _ in range(random.choice((0, 1, 1, 2, 3, 8))):
        _damage(random, ids)
    return HostileAnswer(
        ids,
        tools=_TOOLS[: random.choice((0, 1, 3, 6))],
        stops=random.choice(_STOPS),
        parallel=random.random() < 0.8,
        reason=random.choice((FinishReason.STOP, FinishReason.LENGTH)),
    )


def _calls(random: Random) -> list[Part]:
    parts: list[Part] = []
    for index in range(random.choice((1, 1, 2, 3))):
        parts += [CALL, _header(random, index), ARG, _arguments(random), END]
    return parts


def _header(random: Random, index: int) -> str:
    name = random.choice((*_TOOLS, "undeclared"))
    if random.random() < 0.5:
        return f"functions.{name}:{index}"
    return random.choice((name, f"{name}:{index}", f"functions_{name}_{index}", f"mcp.{name}:0", str(index), ""))


def _arguments(random: Random) -> str:
    if random.random() < 0.05:
        return ""
    pairs = [f'"k{n}"{random.choice((":", ": "))}{random.choice(_VALUES)}' for n in range(random.randrange(4))]
    return random.choice(("", " ", "\n")) + "{" + random.choice((",", ", ")).join(pairs) + "}"


def _damage(random: Random, ids: list[int]) -> None:
    """Insert, delete, replace, double or cut somewhere."""
    place = random.randrange(len(ids) + 1)
    match random.randrange(5):
        case 0:
            ids[place:place] = VOCABULARY.ids(random.choice(_DAMAGE))
        case 1:
            del ids[place : place + random.randrange(1, 6)]
        case 2:
            ids[place : place + 1] = VOCABULARY.ids(random.choice(_DAMAGE))
        case 3:
            ids[place:place] = ids[place : place + random.randrange(1, 20)]
        case _:
            if random.random() < 0.3:
                del ids[place:]
