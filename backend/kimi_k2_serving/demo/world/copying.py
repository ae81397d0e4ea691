"""Exercises in copying and in small sums: what a small model needs before it can fill in arguments."""

from __future__ import annotations

from collections.abc import Callable

from kimi_k2_serving.demo.world import calling
from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.draw import Draw, pool
from kimi_k2_serving.demo.world.sample import Sample
from kimi_k2_serving.demo.world.talk import Talk

_REPEAT = pool(
    "Repeat: {0}|Say {0}|Repeat after me: {0}|Echo {0}|Write {0}|Please repeat: {0}|Say this: {0}|Copy this text: {0}|"
    'Say "{0}"|Repeat the words "{0}"|Answer with {0}|Print: {0}|Say exactly: {0}|echo: {0}|Just say {0}'
)
_ITEM = pool(
    "What is the {place} item: {0}|Say the {place} word: {0}|{0} - which is the {place}?|The {place} of these: {0}|"
    "Here is a list: {0}. What is the {place} item?|List: {0}. Give me the {place}.|From {0} take the {place}.|"
    "Which word is {place} in: {0}|{0}. Repeat the {place} one.|Name the {place} of {0}."
)
_SPELL = pool(
    "Spell {0}.|How do you spell {0}?|Spell the word {0}.|spell {0}|Please spell {0}|Can you spell {0}?|"
    "Give me the letters of {0}.|Letter by letter: {0}|Spell out {0}.|The letters of {0}?"
)
_PLACES = ("first", "second", "third", "last")
_CONTINUE = pool(
    "Continue: {0}|Go on: {0}|What comes next: {0}|{0} ... what is next?|Continue the pattern: {0}|Next word: {0}"
)
_MY = pool(
    "My {key} is {value}.|Remember that my {key} is {value}.|Please remember: my {key} is {value}.|"
    "For later: my {key} is {value}.|I tell you my {key}: {value}|By the way, my {key} is {value}.|"
    "You should know that my {key} is {value}.|My {key} is {value}, keep it in mind.|Note that my {key} is {value}.|"
    "My {key}: {value}"
)
_WHAT = pool(
    "What is my {key}?|Do you remember my {key}?|Tell me my {key}.|my {key}?|What was my {key}?|Say my {key}.|"
    "What did I say my {key} is?|Which {key} do I have?|And my {key}?|Now, what is my {key}?"
)
_KEYS = pool(
    "name|city|dog's name|favourite colour|code|number|password|email|"
    "street|order|project|car|friend's name|hobby|team|"
    "phone number|birthday|booking|user name|key"
)
_SUMS = pool(
    "What is {0}?|{0}|How much is {0}?|{0} = ?|Calculate {0}.|{0} is?|What's {0}?|Tell me {0}.|Compute {0}|Solve {0}.|"
    "Quick: {0}|What does {0} make?|Can you calculate {0}?|{0}?|I need {0}."
)
_WORDS = {"+": ("+", "+", "plus", "and"), "-": ("-", "-", "minus"), "*": ("*", "*", "times", "x", "multiplied by")}
TOO_HARD = "That is too hard for me without a calculator."


def copy(draw: Draw) -> Sample:
    """One or two exercises."""
    talk = Talk(draw, list(calling.toolbox(draw).values()) if draw.flip(0.15) else [])
    for _ in range(draw.pick((1, 1, 1, 2, 3))):
        ask, answer = draw.pick((_repeat, _repeat, _repeat, _item, _spell, _go_on, _extract))(draw)
        talk.user(ask)
        talk.say(answer)
    return talk.sample("copying")


def _repeat(draw: Draw) -> tuple[str, str]:
    makers: tuple[Callable[[], str], ...] = (
        lambda: " ".join(draw.word() for _ in range(draw.integer(1, 8))),
        lambda: v.phrase(draw),
        lambda: v.path(draw),
        lambda: draw.code(),
        lambda: v.address(draw),
        lambda: v.date(draw),
        lambda: str(draw.integer(0, 10 ** draw.integer(1, 9))),
        lambda: v.absolute(draw),
        lambda: v.command(draw),
        lambda: f"{v.person(draw)} {v.city(draw)}",
        lambda: f"{draw.word()}, {draw.code()}, {draw.word().upper()}",
    )
    text = draw.pick(makers)()
    return draw.pick(_REPEAT).format(text), text


def _item(draw: Draw) -> tuple[str, str]:
    items = [draw.pick((draw.word(), draw.pick(v.ANIMALS), draw.code())) for _ in range(draw.integer(3, 6))]
    place = draw.pick(_PLACES)
    return draw.pick(_ITEM).format(", ".join(items), place=place), items[
        -1 if place == "last" else _PLACES.index(place)
    ]


def _spell(draw: Draw) -> tuple[str, str]:
    word = draw.pick((draw.word(), draw.pick(v.CITIES), draw.pick(v.PEOPLE)))
    return draw.pick(_SPELL).format(word), "-".join(word.upper().replace(" ", ""))


def _go_on(draw: Draw) -> tuple[str, str]:
    words = [draw.pick((draw.word(), str(draw.integer(0, 99)))) for _ in range(draw.integer(2, 5))]
    shown = words + words + words[: draw.integer(1, len(words) - 1)]
    return draw.pick(_CONTINUE).format(" ".join(shown)), words[len(shown) % len(words)]


def _extract(draw: Draw) -> tuple[str, str]:
    facts = {
        key: v.person(draw) if draw.flip(0.3) else draw.word()
        for key in (draw.word() for _ in range(draw.integer(2, 5)))
    }
    wanted = draw.pick(list(facts))
    shown = draw.pick((", ", "; ", "\n")).join(f"{key} = {value}" for key, value in facts.items())
    ask = draw.pick(("{0}\nWhat is {1}?", "{0}. What is {1}?", "Given {0}: what is {1}?", "{0}\n{1}?"))
    return ask.format(shown, wanted), f"{wanted} is {facts[wanted]}."


def remember(draw: Draw) -> Sample:
    """The user tells something and asks for it later."""
    talk = Talk(draw, list(calling.toolbox(draw, without=("note", "reminder")).values()) if draw.flip(0.2) else [])
    facts: dict[str, str] = {}
    for _ in range(draw.integer(1, 3)):
        key = draw.pick(_KEYS)
        facts[key] = draw.pick((v.person(draw), draw.word(), draw.code(), v.city(draw)))
        talk.user(draw.pick(_MY).format(key=key, value=facts[key]))
        talk.say(f"Okay, your {key} is {facts[key]}.")
    for key in draw.some(list(facts), 2):
        talk.user(draw.pick(_WHAT).format(key=key))
        talk.say(f"Your {key} is {facts[key]}.")
    return talk.sample("copying")


def arithmetic(draw: Draw) -> Sample:
    """A sum: by heart if it is small, with the calculator if there is one, else not at all."""
    sign = draw.pick("++-*")
    large = draw.flip(0.25)
    low, top = draw.pick(((21, 99), (100, 999), (1000, 9999))) if large else (0, 10 if sign == "*" else 20)
    left, right = draw.integer(low, top), draw.integer(low, top)
    if sign == "-" and left < right:
        left, right = right, left
    expression = f"{left} {sign} {right}"
    spoken = f"{left} {draw.pick(_WORDS[sign])} {right}"
    if draw.flip(0.15):
        spoken = spoken.replace(" ", "") if not any(map(str.isalpha, spoken)) else spoken
    ask = draw.pick(_SUMS).format(spoken)
    if draw.flip(0.45):
        box = calling.toolbox(draw, "calculate")
        talk = Talk(draw, list(box.values()))
        talk.user(ask)
        return calling.ended(talk, calling.Calls((box["calculate"],), ({"expression": expression},)), "call")
    talk = Talk(draw, list(calling.toolbox(draw, without=("calculate", "shell")).values()) if draw.flip(0.3) else [])
    talk.user(ask)
    result = {"+": left + right, "-": left - right, "*": left * right}[sign]
    talk.say(TOO_HARD if large else f"{expression} = {result}")
    return talk.sample("arithmetic")
