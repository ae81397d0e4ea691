"""An OpenAI-compatible K2 endpoint that answers `verify`'s conversations rightly, or with one seeded fault.

It stands for a model and its server: it counts a prompt's tokens from the template's rules with words for tokens, calls
the tool that fits, and finds a fact in a long text.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from kimi_k2_cli.verify.conversations import CODE, DEFAULT_SYSTEM, TRIGGERS
from tests.support.http_server import respond, serving

COUNTING = "one two three four five six seven eight nine ten eleven twelve thirteen"


class Fault(enum.Enum):
    """One fault, and the check that must find it."""

    INVALID_ARGUMENTS = "schema accuracy"
    UNDECLARED_TOOL = "schema accuracy "
    WRONG_REASON = "schema accuracy  "
    ENDLESS_CALLS = "schema accuracy   "
    EAGER_CALLS = "trigger F1"
    SHY_CALLS = "trigger F1 "
    LOST_DELTA = "stream equals whole"
    WRONG_STREAM_USAGE = "stream equals whole "
    WRONG_SUM = "usage"
    TOO_MANY_TOKENS = "usage "
    FOREIGN_IDS = "call ids"
    IDS_START_AGAIN = "call ids "
    NO_DEFAULT_SYSTEM = "template: default system"
    LOST_HISTORY = "template: history and tools"
    NO_TOOLS_IN_PROMPT = "template: history and tools "
    FIELDS_ADDED = "template: tools as sent"
    CONTROL_TOKENS = "template: control text"
    NO_SCHEMA = "JSON schema"
    STOP_INCLUDED = "stop strings"
    STOP_IGNORED = "stop strings "
    SHORT_MEMORY = "long context recall"
    LEAKED_MARKER = "no control tokens"

    @property
    def check(self) -> str:
        return self.value.strip()


ARGUMENTS: dict[str, dict[str, Any]] = {
    "get_weather": {"city": "Lisbon", "unit": "celsius"},
    "get_time": {"zone": "UTC"},
    "convert_money": {"amount": 250, "source": "EUR", "target": "USD"},
    "send_mail": {"to": ["ada@example.org"], "subject": "Lunch", "urgent": False},
}
EXPECTED = {case.text: case.expects for case in TRIGGERS}


def words(text: str, fault: Fault | None) -> int:
    """Tokens of a text: its words and marks; a control token that is spelled out takes five."""
    if fault is Fault.CONTROL_TOKENS:
        text = text.replace("<|im_end|>", "x")
    return len(re.findall(r"\w+|[^\w\s]", text))


def prompt_tokens(body: dict[str, Any], fault: Fault | None) -> int:
    messages = list(body["messages"])
    line_break = 0
    if messages[0]["role"] != "system" and fault is not Fault.NO_DEFAULT_SYSTEM:
        messages.insert(0, {"role": "system", "content": DEFAULT_SYSTEM})
        line_break = 1
    if fault is Fault.LOST_HISTORY:
        messages = messages[:1] + messages[-1:]
    count = sum(4 + words(message["content"], fault) for message in messages)
    if fault is not Fault.NO_TOOLS_IN_PROMPT:
        tools = body.get("tools") or []
        if fault is Fault.FIELDS_ADDED:
            tools = [{**tool, "defer_loading": None} for tool in tools]
        count += words(json.dumps(tools), fault)
    return count + line_break


def calls_of(body: dict[str, Any], fault: Fault | None) -> list[dict[str, Any]]:
    tools = [tool["function"]["name"] for tool in body.get("tools") or []]
    text = body["messages"][-1]["content"]
    name = EXPECTED.get(text, "get_weather" if "weather" in text else None)
    required = body.get("tool_choice") == "required"
    if not required and fault is Fault.SHY_CALLS:
        name = None
    if not required and fault is Fault.EAGER_CALLS:
        name = name or tools[0]
    if not tools or name is None:
        return []
    index = sum(len(message.get("tool_calls", [])) for message in body["messages"])
    arguments = dict(ARGUMENTS[name])
    if fault is Fault.INVALID_ARGUMENTS:
        arguments.popitem()
    if fault is Fault.UNDECLARED_TOOL:
        name = "other"
    if fault is Fault.IDS_START_AGAIN:
        index = 0
    call_id = "call_8f3a" if fault is Fault.FOREIGN_IDS else f"functions.{name}:{index}"
    return [{"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}]


def content_of(body: dict[str, Any], fault: Fault | None, counting: str) -> str:
    text = body["messages"][-1]["content"]
    if "response_format" in body:
        return "a bug" if fault is Fault.NO_SCHEMA else '{"kind": "bug", "open": true, "level": 3}'
    if "blue door" in text:
        return "I do not know" if fault is Fault.SHORT_MEMORY else CODE
    if "fox" in text:
        return "There once was a fox who lived in a wood"
    if fault is Fault.LEAKED_MARKER:
        return "one <|im_end|> two three four"
    return counting


def answer_of(body: dict[str, Any], fault: Fault | None, counting: str) -> dict[str, Any]:
    calls = calls_of(body, fault)
    content, reason = ("", "tool_calls") if calls else (content_of(body, fault, counting), "stop")
    limit = body.get("max_tokens", 10_000)
    if len(content.split()) > limit:
        content, reason = " ".join(content.split()[:limit]), "length"
    for stop in body.get("stop", []):
        if stop in content and fault is not Fault.STOP_IGNORED:
            end = content.index(stop) + (len(stop) if fault is Fault.STOP_INCLUDED else 0)
            content, reason = content[:end], "stop"
    if fault is Fault.WRONG_REASON and calls:
        reason = "stop"
    if fault is Fault.ENDLESS_CALLS and body.get("tool_choice") == "required":
        content, reason, calls = "and so on", "length", []
    prompt, completion = prompt_tokens(body, fault), len(content.split()) or 12
    completion += 3 if fault is Fault.TOO_MANY_TOKENS else 0
    total = prompt + completion + (1 if fault is Fault.WRONG_SUM else 0)
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    if calls:
        message["tool_calls"] = calls
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage}


def chunks_of(answer: dict[str, Any], fault: Fault | None) -> Iterator[dict[str, Any]]:
    choice = answer["choices"][0]
    text = choice["message"]["content"] or ""
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    calls = choice["message"].get("tool_calls", [])
    for piece in pieces[:-1] if fault is Fault.LOST_DELTA and len(pieces) > 3 else pieces:
        yield {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
    for index, call in enumerate(calls):
        begin = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield {"choices": [{"index": 0, "delta": {"tool_calls": [begin]}}]}
        for letter in call["function"]["arguments"]:
            delta = {"index": index, "function": {"arguments": letter}}
            yield {"choices": [{"index": 0, "delta": {"tool_calls": [delta]}}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    if answer["usage"] is None:
        return
    usage = dict(answer["usage"])
    usage["completion_tokens"] += 2 if fault is Fault.WRONG_STREAM_USAGE else 0
    yield {"choices": [], "usage": usage}


@contextmanager
def endpoint(
    fault: Fault | None, *, refuses: frozenset[str] = frozenset(), busy: int = 0, counting: str = COUNTING
) -> Iterator[str]:
    """`refuses`: fields whose requests get a 400, and "usage", which is then in no answer. `busy`: refuses as many
    requests with a 429 at first. `counting`: the model's answer to a request to count.
    """
    waiting = iter(range(busy))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            respond(self, 200, json.dumps({"data": [{"id": "kimi_k2"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if next(waiting, None) is not None:
                respond(self, 429, b'{"error": {"message": "too many requests"}}')
                return
            if refused := refuses & body.keys():
                respond(self, 400, json.dumps({"error": {"message": f"{min(refused)} is not supported"}}).encode())
                return
            answer = answer_of(body, fault, counting)
            if "usage" in refuses:
                answer["usage"] = None
            if not body.get("stream"):
                respond(self, 200, json.dumps(answer).encode())
                return
            events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks_of(answer, fault)]
            respond(self, 200, "".join([*events, "data: [DONE]\n\n"]).encode())

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}/v1"
