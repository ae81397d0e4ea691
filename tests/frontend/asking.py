"""Requests and their answers, as every test here needs them."""

from __future__ import annotations

import json
from typing import Any

import httpx

LOOK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FLAT_LOOK = {"type": "function", **LOOK["function"]}
ANTHROPIC_LOOK = {"name": "look", "input_schema": LOOK["function"]["parameters"]}


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def chat(text: str, **options: Any) -> dict[str, Any]:
    return {"model": "kimi_k2", "messages": user(text), **options}


def messages(text: str, **options: Any) -> dict[str, Any]:
    return {"model": "kimi_k2", "max_tokens": 200, "messages": user(text), **options}


def frames(response: httpx.Response) -> list[Any]:
    """The data of every event; `[DONE]` as that string."""
    found = []
    for block in response.text.split("\n\n"):
        lines = [line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: ")]
        if lines:
            (line,) = lines
            found.append(line if line == "[DONE]" else json.loads(line))
    return found


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """(name, data) of every named event; both names have to agree."""
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append((value["type"], value))
    return found


def put_together(chunks: list[Any], choice: int = 0) -> dict[str, Any]:
    """A stream's chunks merged as clients do: content, calls, every finish reason seen."""
    content, calls, reasons = "", [], []
    for chunk in chunks:
        for each in chunk["choices"] if chunk != "[DONE]" else ():
            if each["index"] != choice:
                continue
            content += each["delta"].get("content") or ""
            for part in each["delta"].get("tool_calls", ()):
                if "name" in part["function"]:
                    assert part["index"] == len(calls)
                    calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
                else:
                    assert set(part) == {"index", "function"}
                    calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
            if each["finish_reason"]:
                reasons.append(each["finish_reason"])
    return {"content": content, "tool_calls": calls, "finish_reasons": reasons}
