"""What determines a constraint, as JSON: it crosses to the worker, and its bytes are the key of what came back.

Descriptions outside the schemas and the messages are no part of it, so every turn of a conversation is the same job.
"""

from __future__ import annotations

import dataclasses
import json

import msgspec

from kimi_k2_serving.core.messages import Conversation, FormatKind, ResponseFormat, Tool, ToolChoice, ToolMode
from kimi_k2_serving.json_schema.bounds import Bounds

FORMAT = "response_format.json_schema.schema"
# The field of an error that concerns all schemas together.
SOMEWHERE = "tools"
# The keyword of a schema that is given up as a whole: its tool takes any object, which is validated afterwards.
WHOLE = "schema"

# What a place is relaxed for when its whole tool is: the tool takes any object, and nothing can be checked.
UNREADABLE = "unreadable"


def constrained(conversation: Conversation) -> bool:
    """Whether there is anything to constrain."""
    return bool(conversation.tools) or conversation.response_format.kind is not FormatKind.TEXT


def encode_job(conversation: Conversation, bounds: Bounds) -> bytes:
    """Equal bytes, equal constraint. Linear in the schemas."""
    choice, wanted = conversation.tool_choice, conversation.response_format
    job = {
        "tools": [[tool.name, tool.parameters, tool.strict, tool.insists] for tool in conversation.tools],
        "choice": [choice.mode.value, choice.name, choice.allowed],
        "parallel": conversation.parallel_tool_calls,
        "format": [wanted.kind.value, wanted.schema, wanted.insists],
        "bounds": dataclasses.asdict(bounds),
    }
    return json.dumps(job, ensure_ascii=False, separators=(",", ":")).encode()


def decode_job(job: bytes) -> tuple[Conversation, Bounds]:
    """A conversation without messages that has the same constraint."""
    # Ours, so any decoder will do, and a megabyte takes this one a third of the time that json has the interpreter.
    data = msgspec.json.decode(job)
    (mode, name, allowed), (kind, schema, insists) = data["choice"], data["format"]
    conversation = Conversation(
        messages=(),
        tools=tuple(Tool(name, {}, parameters, strict, insists) for name, parameters, strict, insists in data["tools"]),
        tool_choice=ToolChoice(ToolMode(mode), name, None if allowed is None else tuple(allowed)),
        parallel_tool_calls=data["parallel"],
        response_format=ResponseFormat(FormatKind(kind), schema, insists=insists),
    )
    return conversation, Bounds(**data["bounds"])


def places(conversation: Conversation) -> dict[str, Conversation]:
    """The paths of all schemas that make a grammar, each with a conversation that is held to this one alone."""
    choice = conversation.tool_choice
    found: dict[str, Conversation] = {}
    for number, tool in enumerate(conversation.tools):
        if choice.mode is not ToolMode.NONE and choice.allows(tool.name):
            only = ToolChoice(ToolMode.NAMED, tool.name)
            found[path(number)] = Conversation((), conversation.tools, only, response_format=ResponseFormat())
    if conversation.response_format.kind is FormatKind.JSON_SCHEMA:
        found[FORMAT] = Conversation((), response_format=conversation.response_format)
    return found


def path(number: int) -> str:
    """Of a tool's schema."""
    return f"tools[{number}].function.parameters"
