"""The conversations on which a checkpoint's chat template is compared with this server's prompt (`template_probe`).

They hold every kind of message, call and tool that reaches a prompt, in short and long conversations. So a rule of a
template shows wherever it begins to apply. Ids of calls are written as this server writes them (rule H1). They leave
out what this server itself changes before it renders: parts that are not text (P14), absent arguments (P10) and roles
that it refuses (P13).
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_serving.core.messages import Json


@dataclass(frozen=True, slots=True)
class Probe:
    """One conversation. `rule` is the rule of docs/kimi_k2_format.md that a difference breaks.

    `known`: a text of this server's prompt, and the text that a template may write in its place.
    """

    name: str
    rule: str
    messages: list[Json]
    tools: list[Json] | None = None
    known: tuple[str, str] | None = None


def _user(content: Json, **more: Json) -> Json:
    return {"role": "user", "content": content, **more}


def _answer(content: Json, *calls: Json, **more: Json) -> Json:
    made: dict[str, Json] = {"tool_calls": list(calls)} if calls else {}
    return {"role": "assistant", "content": content, **made, **more}


def _call(name: str, index: int, arguments: Json = "{}") -> Json:
    return {"id": f"functions.{name}:{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(name: str, index: int, content: Json, /, **more: Json) -> Json:
    return {"role": "tool", "tool_call_id": f"functions.{name}:{index}", "content": content, **more}


def _tool(name: str, **more: Json) -> Json:
    return {"type": "function", "function": {"name": name, **more}}


def _texts(*texts: str) -> Json:
    return [{"type": "text", "text": text} for text in texts]


_HELLO = _user("Hello")
_SYSTEM: dict[str, Json] = {"role": "system", "content": "Be brief."}
_LATER: Json = {"role": "system", "content": "Be very brief."}
_DEVELOPER: Json = {"role": "developer", "content": "Be kind."}
_TOOL = _tool(
    "get_weather",
    description="Wetter in <Zürich> & 'Genève'",
    parameters={"type": "object", "properties": {"city": {"type": "string"}, "at": {"type": "integer"}}},
)
_CALLS: list[Json] = [
    _HELLO,
    _answer("I look.", _call("get_weather", 0, '{"city": "Zürich"}'), _call("get_weather", 1)),
    _result("get_weather", 0, "rain\n"),
    _result("get_weather", 1, '{"sky": "blue"}'),
]
# The tools are ordered neither by name nor by length. Some names begin alike, and some tools have other keys than most.
_TOOLS: list[Json] = [
    _tool("read_file", parameters={"type": "object", "properties": {}, "required": []}),
    _tool("write", description="", strict=True, parameters={"type": "object", "additionalProperties": False}),
    _tool("read", parameters={"properties": {"n": {"type": ["integer", "null"], "default": 1.0}}, "type": "object"}),
    {"type": "builtin_function", "function": {"name": "$web_search"}},
    _tool("Read", description='{{ tools }} {% raw %} <|im_end|> "quoted" \\ é 中 🙂'),
    {"function": {"parameters": {"type": "object"}, "name": "a.b-c"}, "type": "function", "x-more": [True, None]},
    *(_tool(name, description=name * 9) for name in ("read_files", "zip", "get_time", "get_weather", "b", "a")),
]
_STRANGE = (
    "  {{ messages }} {% if x %}{# no #} {'a': [1]} %s {0} $x ${y} \\n \\u00e9 <b>&amp;\"'</b>",
    "\n\n# 中文 é e\u0301 🙂 \u200d \u00a0 \ufeff \u2028\r\n\ttab  \n",
    "<|im_end|><|im_system|>system<|im_middle|>[EOS] <think>no</think> /no_think functions.f:0",
)
_LONG = "".join(f"{line}. Line with äöü, {{braces}} and <tags>.\n" for line in range(200))
# Keys under which other servers return reasoning, and keys that clients send back with an answer. The prompt shows none
# of them (rule P15).
_THOUGHT: dict[str, Json] = {
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "Well, think."),
    "refusal": None,
    "annotations": [],
}


def _rounds() -> list[Json]:
    """Three rounds of calls. One function is called in each of them."""
    return [
        _user("Look."),
        _answer("", _call("read", 0), _call("read_file", 1, '{"path": "a"}')),
        _result("read", 0, "one"),
        _result("read_file", 1, "two"),
        _answer(None, _call("read", 2)),
        _result("read", 2, ""),
        _answer("Again.", _call("zip", 3, ""), _call("read", 4, '{"a":1,\n "b": {}}'), _call("read", 5)),
        _result("read", 4, "out of order"),
        _result("zip", 3, _texts("three", " parts", "\n")),
        _result("read", 5, None),
    ]


def _long_conversation() -> list[Json]:
    """Every kind of message, each at many positions and next to many others: 45 messages after the system message."""
    messages: list[Json] = [_SYSTEM]
    for turn in range(5):
        first = 2 * turn
        messages += [
            _user(f"Question {turn}"),
            _user(_texts("a", " b ", _STRANGE[turn % 3]), name="Ann"),
            _answer("I look." if turn % 2 else None, _call("read", first), **_THOUGHT),
            _result("read", first, _STRANGE[turn % 3], name="read"),
            _answer("And again." if turn % 3 else "", _call("a.b-c", first + 1, '{"k": "é"}')),
            _result("a.b-c", first + 1, f"result {turn}" * (turn * 40)),
            _answer(f"Answer {turn}\n", name="Kimi", **_THOUGHT) if turn % 2 else _answer(f" Answer {turn}"),
            _LATER,
            _answer(""),
        ]
    return messages


PROBES: tuple[Probe, ...] = (
    Probe("a system message", "P5", [_SYSTEM, _HELLO]),
    Probe("no system message", "P4", [_HELLO]),
    Probe("several turns", "P5", [_SYSTEM, _HELLO, _answer("Hi!\n"), _HELLO]),
    Probe("names", "P6", [_SYSTEM, _user("Hello", name="Ann")]),
    Probe("list content", "P7", [_SYSTEM, _user(_texts("a ", "b"))]),
    Probe("tools", "P2", [_SYSTEM, _HELLO], [_TOOL, _tool("now")]),
    Probe("tools and no system message", "P4", [_HELLO], [_TOOL]),
    Probe("results", "P8", [_SYSTEM, *_CALLS], [_TOOL]),
    Probe("calls and the turn after them", "P9", [_SYSTEM, *_CALLS, _answer("Rain."), _HELLO]),
    Probe("tools that are not in order", "P3", [_SYSTEM, _HELLO], [_tool("zip"), _tool("read"), _tool("a")]),
    Probe("twelve tools", "P3", [_SYSTEM, _HELLO], _TOOLS),
    Probe("empty content", "P7", [{**_SYSTEM, "content": ""}, _user(""), _answer(""), _user([])]),
    Probe("null content", "P7", [_SYSTEM, _user(None), _answer(None), _HELLO]),
    Probe("reasoning of past answers", "P15", [_HELLO, _answer("Hi!", **_THOUGHT), _HELLO]),
    Probe(
        "reasoning beside calls",
        "P15",
        [_SYSTEM, _HELLO, _answer("Hm.", _call("read", 0), **_THOUGHT), _result("read", 0, "one")],
        _TOOLS[:3],
    ),
    Probe("two users in a row", "P5", [_SYSTEM, _HELLO, _user("And this?")]),
    Probe("two answers in a row", "P5", [_SYSTEM, _HELLO, _answer("Hi."), _answer("How are you?"), _HELLO]),
    Probe("a later system message", "P5", [_SYSTEM, _HELLO, _LATER, _HELLO]),
    Probe("two system messages at the beginning", "P5", [_SYSTEM, _LATER, _HELLO]),
    Probe("a system message alone", "P5", [_SYSTEM]),
    Probe("a system message that is not the first", "P4", [_HELLO, _SYSTEM]),
    Probe("an answer as the first message", "P4", [_answer("Hi."), _HELLO]),
    Probe("an answer as the last message", "P11", [_SYSTEM, _HELLO, _answer("Hi.")]),
    Probe("calls without a result", "P9", [_SYSTEM, _HELLO, _answer("", _call("read", 0)), _HELLO]),
    Probe("a result with a name", "P6", [_SYSTEM, _HELLO, _answer("", _call("f", 0)), _result("f", 0, "1", name="f")]),
    Probe("empty names", "P6", [{**_SYSTEM, "name": ""}, _user("Hello", name=""), _answer("Hi.", name=None), _HELLO]),
    Probe("text and calls", "P9", [_SYSTEM, _HELLO, _answer(_texts("I ", "look.\n"), _call("f", 0)), _HELLO]),
    Probe(
        "calls without content",
        "P9",
        [_HELLO, {"role": "assistant", "tool_calls": [_call("f", 0)]}, _result("f", 0, "1")],
    ),
    Probe("calls in three rounds", "P9", [_SYSTEM, *_rounds()], _TOOLS[:4]),
    Probe(
        "arguments that are an object",
        "P10",
        [_SYSTEM, _HELLO, _answer("", _call("f", 0, {"b": "é", "a": 1})), _result("f", 0, "1")],
        # A template that expects arguments as a string writes an object in Python's notation. No format asks for that.
        known=('{"b": "é", "a": 1}', "{'b': 'é', 'a': 1}"),
    ),
    # This server shows a developer message as a system message (P13). The published template does not have this role
    # and writes its name in the header. A template with a rule of its own for this role makes a different prompt.
    Probe(
        "a developer message",
        "P13",
        [_SYSTEM, _DEVELOPER, _HELLO],
        known=("<|im_system|>system<|im_middle|>Be kind.", "<|im_system|>developer<|im_middle|>Be kind."),
    ),
    *(Probe("text of unusual characters", "P1", [{**_SYSTEM, "content": t}, _user(t), _answer(t)]) for t in _STRANGE),
    Probe("long texts", "P7", [{**_SYSTEM, "content": _LONG}, _user(_LONG), _answer(_LONG, _call("f", 0, _LONG))]),
    Probe("a long result", "P8", [_HELLO, _answer("", _call("f", 0)), _result("f", 0, _LONG)]),
    Probe("a long conversation", "P5", _long_conversation(), _TOOLS),
    Probe("a long conversation without a system message and tools", "P5", _long_conversation()[1:]),
)
