"""Conversations in which the assistant calls tools and reads what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kimi_k2_serving.demo.world import doing, finding, information, living, returns
from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.declared import Declared, Style, declare
from kimi_k2_serving.demo.world.draw import Draw, pool, raw_pool
from kimi_k2_serving.demo.world.patterns import PATTERNS
from kimi_k2_serving.demo.world.sample import Sample
from kimi_k2_serving.demo.world.talk import Talk
from kimi_k2_serving.demo.world.topic import Topic, Values
from kimi_k2_serving.demo.world.wording import worded

TOPICS: dict[str, Topic] = {
    name: replace(topic, patterns=PATTERNS[name])
    for name, topic in (information.TOPICS | finding.TOPICS | doing.TOPICS | living.TOPICS).items()
}
NAMES = tuple(TOPICS)
# Topics that people ask about most get half of the draws.
_COMMON = ("weather", "weather", "read", "read", "time", "search", "shell", "calculate", "list", "mail")
_CUT = 0.35
_THANKS = pool(
    "Thanks!|Thank you.|thanks|Great, thanks.|Thank you very much!|ok thanks|Perfect, thank you.|cheers|Many thanks!|ty"
)
WELCOME = "You're welcome."
NO_FIT = "I have no tool for that."
_AND = raw_pool(
    " And |. Also: |, and then: |. Then: |; after that: |. And please: |, also |. Second: | + | as well as: "
)
_BOTH = ("{} and {}", "{} and {}", "{} & {}", "{}, {}")


def topic_name(draw: Draw) -> str:
    return draw.pick(_COMMON) if draw.flip(0.4) else draw.pick(NAMES)


def toolbox(draw: Draw, *wanted: str, without: Sequence[str] = ()) -> dict[str, Declared]:
    """Declared tools: the wanted topics among others, in random order, with different names."""
    style = Style.of(draw)
    size = draw.pick((1, 1, 1, 2, 2, 3, 3, 4, 5, 6)) if draw.flip(0.98) else 16
    others = [name for name in draw.shuffled(NAMES) if name not in wanted and name not in without]
    chosen = draw.shuffled([*wanted, *others[: max(0, size - len(wanted))]])
    box: dict[str, Declared] = {}
    taken: set[str] = set()
    for name in chosen:
        tool = declare(draw, TOPICS[name], style)
        if tool.name in taken:
            if name not in wanted:
                continue
            tool = declare(draw, TOPICS[name], style, name=f"{tool.name}_{name}")
        taken.add(tool.name)
        box[name] = tool
    return box


def drawn(draw: Draw, tool: Declared) -> Values:
    """Values for the fields that the tool has."""
    return {name: value for name, value in tool.topic.values(draw).items() if name in tool.keys}


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one turn."""

    tools: tuple[Declared, ...]
    values: tuple[Values, ...]
    # Of the answer, in the request's language; "" for English.
    template: str = ""


def finish(talk: Talk, turn: Calls) -> str:
    """The calls, their results and the answer. Returns the kind of what came back."""
    draw = talk.draw
    ids = talk.call(*zip(turn.tools, turn.values, strict=True))
    said, kind = [], "result"
    for id_, tool, values in zip(ids, turn.tools, turn.values, strict=True):
        chance = draw.chance()
        if chance < 0.08:
            text, answer = returns.failed(draw)
            kind = "error result"
        elif chance < 0.11:
            text, answer = returns.empty(draw)
            kind = "empty result"
        elif chance < 0.16 and "content" not in tool.topic.answers[0]:
            text, answer = returns.prose(draw)
        else:
            outcome = tool.topic.returns(draw, values)
            text = returns.returned(draw, outcome, values)
            answer = returns.answered(draw, tool.topic, values, outcome, template=turn.template)
        talk.result(id_, text)
        said.append(answer)
    talk.say("\n".join(said))
    return kind


def ended(talk: Talk, turn: Calls, kind: str) -> Sample:
    """The sample ends with the calls, or with the answer to their results, or a turn later."""
    draw = talk.draw
    if draw.flip(_CUT):
        talk.call(*zip(turn.tools, turn.values, strict=True))
        return talk.sample(kind)
    came = finish(talk, turn)
    if draw.flip(0.2):
        talk.user(draw.pick(_THANKS))
        talk.say(WELCOME)
        return talk.sample("thanks")
    tool = turn.tools[-1]
    if tool.topic.follow is not None and draw.flip(0.3) and not turn.template:
        values = drawn(draw, tool)
        # A follow-up names the required values alone.
        values = {name: value for name, value in values.items() if not tool.topic.fields[name].is_optional}
        talk.user(tool.topic.ask(draw, values, draw.pick(tool.topic.follow)))
        return ended(talk, Calls((tool,), (values,)), "follow-up")
    return talk.sample(came)


def single(draw: Draw) -> Sample:
    """One request that one tool fits."""
    name = topic_name(draw)
    box = toolbox(draw, name)
    tool = box[name]
    values = drawn(draw, tool)
    talk = Talk(draw, list(box.values()))
    template = ""
    tongue = draw.pick(list(tool.topic.tongues)) if tool.topic.tongues and draw.flip(0.25) else ""
    if tongue:
        values = {key: value for key, value in values.items() if not tool.topic.fields[key].is_optional}
        asks, template = tool.topic.tongues[tongue]
        talk.user(tool.topic.ask(draw, values, draw.pick(asks)))
    else:
        talk.user(worded(draw, tool.topic.ask(draw, values)))
    return ended(talk, Calls((tool,), (values,), template), "language" if tongue else "call")


def parallel(draw: Draw) -> Sample:
    """One request that needs two or three calls: of one tool, or of two."""
    if draw.flip(0.55):
        return _same_tool(draw)
    first, second = draw.some(NAMES, 2)
    box = toolbox(draw, first, second)
    tools = (box[first], box[second])
    values = tuple(drawn(draw, tool) for tool in tools)
    asks = [tool.topic.ask(draw, each) for tool, each in zip(tools, values, strict=True)]
    talk = Talk(draw, list(box.values()))
    talk.user(asks[0].rstrip("?.") + draw.pick(_AND) + asks[1])
    return ended(talk, Calls(tools, values), "parallel")


def _same_tool(draw: Draw) -> Sample:
    name = draw.pick([name for name, topic in TOPICS.items() if topic.plural])
    box = toolbox(draw, name)
    tool = box[name]
    field = next(key for key, each in tool.topic.fields.items() if not each.is_optional)
    count = draw.pick((2, 2, 2, 3))
    made = [tool.topic.fields[field].make(draw) for _ in range(count)]
    joined = draw.pick(_BOTH).format(*made) if count == 2 else f"{made[0]}, {made[1]} and {made[2]}"
    talk = Talk(draw, list(box.values()))
    talk.user(worded(draw, draw.pick(pool(tool.topic.plural)).format(both=joined)))
    return ended(talk, Calls((tool,) * count, tuple({field: each} for each in made)), "parallel")


def missing(draw: Draw) -> Sample:
    """A request without the value that a call needs: the assistant asks for it."""
    name = topic_name(draw)
    box = toolbox(draw, name)
    tool = box[name]
    topic = tool.topic
    assert topic.vague is not None
    talk = Talk(draw, list(box.values()))
    talk.user(worded(draw, draw.pick(topic.vague)))
    talk.say(topic.lacks)
    required = [key for key, each in topic.fields.items() if not each.is_optional]
    if len(required) > 1 or draw.flip(0.4):
        return talk.sample("missing argument")
    value = topic.fields[required[0]].make(draw)
    talk.user(draw.pick(("{}", "{}", "{}.", "In {}" if topic.lacks.startswith(("In", "For")) else "{}")).format(value))
    return ended(talk, Calls((tool,), ({required[0]: value},)), "supplied argument")


def unfit(draw: Draw) -> Sample:
    """A request that none of the declared tools fits, or without any tools."""
    name = topic_name(draw)
    # A calculation is done by heart or refused; see arithmetic. A shell could do what these do.
    near = {"read": ("shell", "list"), "list": ("shell", "read"), "write": ("shell", "note"), "note": ("write",)}
    if name in ("calculate", "shell"):
        name = "weather"
    topic = TOPICS[name]
    values = topic.values(draw)
    box = toolbox(draw, without=(name, *near.get(name, ()))) if draw.flip(0.7) else {}
    talk = Talk(draw, list(box.values()))
    vague = draw.pick(topic.vague) if topic.vague is not None and draw.flip(0.2) else ""
    talk.user(worded(draw, vague or topic.ask(draw, values)))
    talk.say(NO_FIT)
    return talk.sample("no tool fits" if box else "no tools")


def chosen(draw: Draw) -> Sample:
    """A request with a tool_choice, which the prompt does not show."""
    name = topic_name(draw)
    box = toolbox(draw, name)
    tool = box[name]
    values = drawn(draw, tool)
    talk = Talk(draw, list(box.values()))
    talk.user(worded(draw, tool.topic.ask(draw, values)))
    mode = draw.integer(0, 4)
    if mode == 0:
        talk.choice = "none"
        talk.say("I may not call a tool for that.")
        return talk.sample("tool_choice none")
    talk.choice = "required" if mode <= 2 else {"type": "function", "function": {"name": tool.name}}
    talk.call((tool, values))
    return talk.sample("tool_choice required" if mode <= 2 else "tool_choice named")


def explore(draw: Draw) -> Sample:
    """Two steps: what is in the folder, then the file that is there."""
    box = toolbox(draw, "list", "read")
    lister, reader = box["list"], box["read"]
    folder = v.directory(draw).rstrip("/")
    names = [v.path(draw).rpartition("/")[2] for _ in range(draw.pick((1, 1, 2, 3)))]
    talk = Talk(draw, list(box.values()))
    talk.user(worded(draw, draw.pick(_EXPLORE).format(folder=folder)))
    (id_,) = talk.call((lister, {"folder": folder}))
    talk.result(id_, returns.returned(draw, {"entries": names}, {}))
    content = returns.document(draw, 1)[0]
    (id_,) = talk.call((reader, {"path": f"{folder}/{names[0]}"}))
    if draw.flip(_CUT):
        return talk.sample("loop call")
    talk.result(id_, returns.returned(draw, {"content": content}, {}))
    talk.say(returns.answered(draw, reader.topic, {}, {"content": content}))
    return talk.sample("loop result")


_EXPLORE = pool(
    "Read the first file in {folder}.|Open the first file of {folder}.|What does the first file in {folder} say?|"
    "List {folder} and read the first file.|Look into {folder} and read the first file there.|"
    "Find the first file in {folder} and tell me what it says.|Show me the first file of the folder {folder}.|"
    "In {folder}, read the first file.|The first file in {folder}: what is in it?|"
    "Go to {folder} and open the first file."
)


def look_up(draw: Draw) -> Sample:
    """A question that one line of a file answers."""
    box = toolbox(draw, "read")
    reader = box["read"]
    path = v.path(draw)
    facts = returns.settings(draw, draw.integer(1, 6))
    key = draw.pick(list(facts))
    talk = Talk(draw, list(box.values()))
    talk.user(worded(draw, draw.pick(_LOOK_UP).format(key=key, path=path)))
    (id_,) = talk.call((reader, {"path": path}))
    if draw.flip(_CUT):
        return talk.sample("call")
    form = draw.pick(("{} = {}", "{}: {}", "{}={}", "the {} is {}", "The {} is {}.", '"{}": "{}",'))
    lines = [form.format(name, value) for name, value in facts.items()]
    if draw.flip(0.25):
        lines = [f"{place}\t{line}" for place, line in enumerate(lines, 1)]
    talk.result(id_, "\n".join(lines))
    talk.say(f"The {key} is {facts[key]}.")
    return talk.sample("look up")


_LOOK_UP = pool(
    "What is the {key} in {path}?|Read {path} and tell me the {key}.|Which {key} does {path} have?|"
    "Find the {key} in {path}.|Look into {path}: what is the {key}?|"
    "What {key} is in {path}?|Tell me the {key} from {path}.|"
    "Open {path} and give me the {key}.|I need the {key} from {path}.|What does {path} say about the {key}?|"
    "{path}: what is the {key}?|Please read the {key} from {path}.|What's the {key} in the file {path}?|"
    "Check {path} for the {key}.|Get the {key} out of {path}."
)
