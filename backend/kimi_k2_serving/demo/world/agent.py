"""Prompts of coding agents: a system prompt of several blocks, a reminder before the task, files with numbered lines.

Claude Code 2.1.197 with `--bare --system-prompt ... --tools Read` sends such prompts; tests/server compares. The words
vary here, so that the model learns the shape and copies the path.
"""

from __future__ import annotations

from typing import Any

from kimi_k2_serving.demo.world import calling, returns
from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.declared import Declared, Style, declare
from kimi_k2_serving.demo.world.draw import Draw, pool
from kimi_k2_serving.demo.world.sample import Sample
from kimi_k2_serving.demo.world.talk import Talk, fact
from kimi_k2_serving.demo.world.wording import worded

_IDENTITY = pool(
    "You are a {name} agent, built on the {name} Agent SDK.|"
    "You are {name}, a command line agent.|You are a coding agent.|"
    "You are an agent of {name}, built with its SDK.|You are a {name} agent.|This is {name}, an agent for code.|"
    "You are {name}'s official agent.|You are an agent in a terminal.|You are a software agent named {name}.|"
    "You work in the {name} agent."
)
_TASK = pool(
    "You are a coding agent. Use the tools to answer. Answer briefly.|"
    "Use the tools. Be brief.|Read files when you are asked to.|"
    "Answer questions about files. Use the Read tool.|Use your tools to do what the user asks.|Be concise.|"
    "You read files and say what is in them.|Call a tool if it helps. Then answer in one sentence.|"
    "You help with files in a project.|Answer with what the tools return."
)
_REMINDER = pool(
    "Use this context if it helps:|As you answer, you may use the following context:|The context of this session:|"
    "Some context for the user's questions:|Here is context that may be useful:|"
    "Context:|What is known about the session:|"
    "You can use the following context:|Notes about the surroundings:|The following may help you to answer:"
)
_CAUTION = pool(
    "This context may or may not matter for the task.|Ignore this unless it matters.|"
    "Do not answer to this context itself.|"
    "IMPORTANT: do not talk about this context unless the task needs it.|It may be irrelevant. Do not mention it.|"
    "Only use it if it is relevant to the task.|Do not respond to it.|Never quote this reminder.|The task follows.|"
    "Do not mention this reminder."
)
_READ_DOES = pool(
    "read files, images, notebooks|Reads a file from the local filesystem.|"
    "Read a file|Read the content of a file at a path.|"
    "read files from disk|Reads a text file and numbers its lines.|Read a file, image or PDF.|Returns a file's lines.|"
    "Reads files. Paths must be absolute.|Open a file and return its text."
)
_TALK = pool("hello|hi|Hello!|hey|Are you there?|hi there|Good morning|hello there|Hi!|hey you")
_NAMES = ("Read", "Read", "Read", "read", "ReadFile", "read_file", "View")
_MANY = (0, 9_007_199_254_740_991)


def _reader(draw: Draw) -> Declared:
    """A reader of files as agents declare it: more optional parameters than anybody uses."""
    key = draw.pick(("file_path", "file_path", "path", "filePath"))
    properties: dict[str, Any] = {key: {"type": "string"}}
    if draw.flip(0.8):
        properties[key] = {
            "description": draw.pick(("The absolute path to the file to read", "The file to read")),
            "type": "string",
        }
    words = {
        "offset": ("The line to start from. Only for large files", "First line to read"),
        "limit": ("The number of lines to read. Only for large files.", "How many lines"),
    }
    for name, texts in words.items():
        if draw.flip(0.85):
            properties[name] = {"description": draw.pick(texts), "type": "integer", "minimum": 0}
            if draw.flip(0.6):
                properties[name]["maximum"] = _MANY[1]
    if draw.flip(0.5):
        properties["pages"] = {
            "description": draw.pick(('Page range for PDF files (e.g., "1-5", "3").', "Pages of a PDF file")),
            "type": "string",
        }
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"} if draw.flip(0.7) else {}
    schema |= {"type": "object", "properties": properties, "required": [key]}
    if draw.flip(0.8):
        schema["additionalProperties"] = False
    name = draw.pick(_NAMES)
    function = {"name": name, "description": draw.pick(_READ_DOES), "parameters": schema}
    return Declared(calling.TOPICS["read"], name, {"type": "function", "function": function}, {"path": key})


def _system(draw: Draw) -> str:
    blocks = []
    if draw.flip(0.8):
        blocks.append(draw.pick(_IDENTITY).format(name=draw.pick((draw.word().capitalize(), v.person(draw)))))
    blocks.append(draw.pick(_TASK))
    if draw.flip(0.25):
        facts = [fact(draw) for _ in range(draw.integer(2, 6))]
        blocks.append("\n".join(("# Environment", *facts)))
    if draw.flip(0.1):
        # The long prompt of an agent that nobody configured.
        for _ in range(draw.integer(3, 25)):
            blocks.append(
                " ".join(f"{draw.pick(_TASK)} {v.phrase(draw).capitalize()}." for _ in range(draw.integer(2, 6)))
            )
    return "\n\n".join(blocks)


def _task(draw: Draw, text: str) -> str:
    """The user's words, after a reminder in most samples."""
    if draw.flip(0.25):
        return text
    date = draw.pick((f"# currentDate\nToday's date is {v.date(draw)}.", f"Today is {v.date(draw)}.", fact(draw)))
    tag = draw.pick(("system-reminder", "system-reminder", "system-reminder", "context"))
    return f"<{tag}>\n{draw.pick(_REMINDER)}\n{date}\n\n      {draw.pick(_CAUTION)}\n</{tag}>\n\n\n\n{text}"


def agent(draw: Draw) -> Sample:
    """The task of an agent: to read a file, or small talk that needs no tool."""
    reader = _reader(draw)
    tools = [reader]
    if draw.flip(0.4):
        style = Style.of(draw)
        names = draw.some(("shell", "write", "list", "search"), draw.integer(1, 3))
        others = [declare(draw, calling.TOPICS[name], style) for name in names]
        tools = draw.shuffled([*tools, *(each for each in others if each.name != reader.name)])
    talk = Talk(draw, tools, system=_system(draw))
    if draw.flip(0.15):
        talk.user(_task(draw, draw.pick(_TALK)))
        talk.say("Hello! How can I help you?")
        return talk.sample("agent talk")
    path = v.absolute(draw) if draw.flip(0.7) else v.path(draw)
    return _reading(draw, talk, reader, path)


def _reading(draw: Draw, talk: Talk, reader: Declared, path: str) -> Sample:
    facts = returns.settings(draw, draw.pick((1, 1, 2, 4))) if draw.flip(0.4) else {}
    if facts:
        key = draw.pick(list(facts))
        ask = draw.pick(calling._LOOK_UP).format(key=key, path=path)
        form = draw.pick(("{} = {}", "{}: {}", "the {} is {}", "The {} is {}."))
        lines, answer = [form.format(*each) for each in facts.items()], f"The {key} is {facts[key]}."
    else:
        ask = worded(draw, reader.topic.ask(draw, {"path": path}))
        lines = returns.document(draw, draw.pick((1, 1, 1, 2, 3)))
        answer = "It says: " + "\n".join(lines)
    talk.user(_task(draw, ask))
    (id_,) = talk.call((reader, {"path": path}))
    if draw.flip(0.35):
        return talk.sample("agent call")
    if draw.flip(0.1):
        fault, answer = returns.failed(draw)
        talk.result(id_, fault)
    else:
        numbered = draw.flip(0.8)
        shown = [f"{place}\t{line}" if numbered else line for place, line in enumerate([*lines, ""], 1)]
        talk.result(id_, "\n".join(shown if draw.flip(0.7) else shown[:-1]))
    talk.say(answer)
    return talk.sample("agent result")
