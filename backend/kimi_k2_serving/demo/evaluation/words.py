"""Requests in a person's own words, with tools as their documentation declares them.

No code wrote them, and none of these sentences and tools is in the world. Everyday values such as Oslo are in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Tool = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """`calls`: the expected calls. With `result`, they have been made, and the answer has to hold `values`."""

    kind: str
    said: str
    tools: tuple[Tool, ...] = ()
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    result: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    system: str = ""


def _tool(name: str, description: str, required: tuple[str, ...], **properties: Any) -> Tool:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_TEXT = {"type": "string"}
WEATHER = _tool(
    "get_current_weather",
    "Get the current weather in a given location",
    ("location",),
    location={"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
    unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
)
FILE = _tool(
    "read_file", "Read the contents of a file.", ("path",), path={"type": "string", "description": "Path of the file."}
)
FOLDER = _tool("list_dir", "List the contents of a directory.", ("path",), path=_TEXT)
SHELL = _tool("run_shell", "Runs a command in the shell and returns what it prints.", ("command",), command=_TEXT)
WEB = _tool("search_the_web", "Search the web.", ("query",), query=_TEXT)
CALENDAR = _tool("calendar_create", "Creates a calendar entry.", ("title", "date"), title=_TEXT, date=_TEXT)
SUM = _tool("calculator", "Evaluates an arithmetic expression.", ("expression",), expression=_TEXT)
MAIL = _tool("send_email", "Sends an e-mail.", ("to", "body"), to=_TEXT, body=_TEXT)
RATES = _tool(
    "convert", "Converts currencies.", ("amount", "from", "to"), amount={"type": "number"}, **{"from": _TEXT}, to=_TEXT
)
CLOCK = _tool("get_local_time", "Returns the local time of a city.", ("city",), city=_TEXT)

_OSLO = (("get_current_weather", {"location": "Oslo"}),)
_MAIN = (("read_file", {"path": "src/main.py"}),)

WORDS: tuple[Asked, ...] = (
    Asked("call", "weather in Oslo please", (WEATHER,), _OSLO),
    Asked("call", "What's the weather in Oslo?", (WEATHER, FILE), _OSLO),
    Asked("call", "whats it like in Oslo right now", (WEATHER, SHELL), _OSLO),
    Asked(
        "call", "Do I need a coat in Ljubljana?", (WEATHER, WEB), (("get_current_weather", {"location": "Ljubljana"}),)
    ),
    Asked("call", "Give me Oslo's weather.", (CLOCK, WEATHER), _OSLO),
    Asked("call", "Open src/main.py for me", (FILE,), _MAIN),
    Asked("call", "please open src/main.py", (FILE, FOLDER, SHELL), _MAIN),
    Asked("call", "can you show me what's in src/main.py?", (FILE, WEATHER), _MAIN),
    Asked("call", "I'd like to see the file /etc/hosts", (FILE, WEB), (("read_file", {"path": "/etc/hosts"}),)),
    Asked("call", "Let's take a look at package.json", (SHELL, FILE), (("read_file", {"path": "package.json"}),)),
    Asked("call", "What files are in /var/log?", (FILE, FOLDER), (("list_dir", {"path": "/var/log"}),)),
    Asked("call", "show me everything in the src folder", (FOLDER, WEATHER), (("list_dir", {"path": "src"}),)),
    Asked("call", "run ls -l", (SHELL,), (("run_shell", {"command": "ls -l"}),)),
    Asked("call", "Could you execute `uname -a`?", (SHELL, FILE), (("run_shell", {"command": "uname -a"}),)),
    Asked("call", "search for penguins", (WEB, FILE), (("search_the_web", {"query": "penguins"}),)),
    Asked("call", "Find me some articles about sourdough", (WEB, SUM), (("search_the_web", {"query": "sourdough"}),)),
    Asked("call", "What is 1234 * 5678?", (SUM,), (("calculator", {"expression": "1234 * 5678"}),)),
    Asked("call", "how much is 17 + 25", (SUM, WEATHER), (("calculator", {"expression": "17 + 25"}),)),
    Asked(
        "call",
        'Send an email to kim@acme.io saying "lunch is at one"',
        (MAIL, CALENDAR),
        (("send_email", {"to": "kim@acme.io", "body": "lunch is at one"}),),
    ),
    Asked("call", "How much is 50 USD in EUR?", (RATES,), (("convert", {"amount": 50, "from": "USD", "to": "EUR"}),)),
    Asked("call", "what time is it in Kathmandu", (CLOCK, WEATHER), (("get_local_time", {"city": "Kathmandu"}),)),
    Asked(
        "parallel",
        "What's the weather in Oslo and in Bergen?",
        (WEATHER, FILE),
        (*_OSLO, ("get_current_weather", {"location": "Bergen"})),
    ),
    Asked("small talk", "hi", (WEATHER, FILE)),
    Asked("small talk", "hi"),
    Asked("small talk", "thanks!", (WEATHER,)),
    Asked("small talk", "Hello, how are you doing today?", (SHELL, FILE)),
    Asked("small talk", "who are you?", (WEATHER,)),
    Asked("small talk", "what can you do for me", (FILE, FOLDER)),
    Asked("off topic", "Write a haiku about autumn.", (WEATHER, SUM)),
    Asked("off topic", "Why do cats purr?", (FILE,)),
    Asked("off topic", "tell me about the Roman empire"),
    Asked("no tool fits", "What's the weather in Oslo?", (FILE, SUM)),
    Asked("no tool fits", "Open src/main.py for me", (WEATHER,)),
    Asked(
        "result",
        "weather in Oslo please",
        (WEATHER,),
        _OSLO,
        ('{"temperature": 7, "condition": "sleet"}',),
        ("7", "sleet"),
    ),
    Asked("result", "weather in Oslo please", (WEATHER,), _OSLO, ("-3 degrees, snow",), ("-3",)),
    Asked("result", "Open src/main.py for me", (FILE,), _MAIN, ("print('hello')",), ("print('hello')",)),
    Asked("result", "Open src/main.py for me", (FILE,), _MAIN, ("Error: ENOENT, no such file",), ("no such file",)),
    Asked("result", "how much is 17 + 25", (SUM,), (("calculator", {"expression": "17 + 25"}),), ("42",), ("42",)),
    Asked(
        "result",
        "what time is it in Kathmandu",
        (CLOCK,),
        (("get_local_time", {"city": "Kathmandu"}),),
        ("18:47",),
        ("18:47",),
    ),
    Asked(
        "result",
        "What files are in /var/log?",
        (FOLDER,),
        (("list_dir", {"path": "/var/log"}),),
        ("syslog\nkern.log",),
        ("syslog", "kern.log"),
    ),
)
