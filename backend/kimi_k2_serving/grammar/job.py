"""A job: all that determines a constraint, as JSON text. The worker compiles it, and its digest is the cache key.

Messages, and descriptions outside the schemas, are not part of it, so all turns of a conversation have the same job.
Only the given beginning of an answer is, if a format constrains the answer.
"""

from __future__ import annotations

import dataclasses
import json

import msgspec

from kimi_k2_serving.core.messages import (
    Conversation,
    FormatKind,
    Message,
    ResponseFormat,
    Role,
    Tool,
    ToolChoice,
    ToolMode,
)
from kimi_k2_serving.json_schema.bounds import Bounds

FORMAT = "response_format.json_schema.schema"
# The field of an error that concerns all schemas of a request together.
SOMEWHERE = "tools"
# Reported as the keyword if a whole schema is given up: its tool takes any object, which is validated afterwards.
WHOLE = "schema"

# Reported as the keyword if a schema cannot be read: its tool takes any object, which cannot be validated.
UNREADABLE = "unreadable"


def constrained(conversation: Conversation) -> bool:
    """Whether the answer is constrained at all."""
    return bool(conversation.tools) or conversation.response_format.kind is not FormatKind.TEXT


def encode_job(conversation: Conversation, bounds: Bounds) -> bytes:
    """Jobs of equal bytes have equal constraints. Linear in the size of the schemas."""
    choice, wanted = conversation.tool_choice, conversation.response_format
    job = {
        "tools": [[tool.name, tool.parameters, tool.strict, tool.insists] for tool in conversation.tools],
        "choice": [choice.mode.value, choice.name, choice.allowed],
        "parallel": conversation.parallel_tool_calls,
        "format": [wanted.kind.value, wanted.schema, wanted.insists],
        "bounds": dataclasses.asdict(bounds),
    }
    if conversation.prefix and wanted.kind is not FormatKind.TEXT:
        # Any text may begin an answer whose content is free.
        job["prefix"] = conversation.prefix
    return json.dumps(job, ensure_ascii=False, separators=(",", ":")).encode()


def decode_job(job: bytes) -> tuple[Conversation, Bounds]:
    """A conversation that has the same constraint, without messages except for the given beginning of the answer."""
    # This server wrote it, so it needs no strict decoder. For a megabyte msgspec holds the GIL a third as long as json.
    data = msgspec.json.decode(job)
    (mode, name, allowed), (kind, schema, insists) = data["choice"], data["format"]
    prefix = data.get("prefix", "")
    conversation = Conversation(
        messages=(Message(Role.ASSISTANT, prefix),) if prefix else (),
        tools=tuple(Tool(name, {}, parameters, strict, insists) for name, parameters, strict, insists in data["tools"]),
        tool_choice=ToolChoice(ToolMode(mode), name, None if allowed is None else tuple(allowed)),
        parallel_tool_calls=data["parallel"],
        response_format=ResponseFormat(FormatKind(kind), schema, insists=insists),
        continues=bool(prefix),
    )
    return conversation, Bounds(**data["bounds"])


def places(conversation: Conversation) -> dict[str, Conversation]:
    """The path of each schema in the grammar, with a conversation that is constrained by that schema alone."""
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
    """The path of the schema of the tool at index `number`."""
    return f"tools[{number}].function.parameters"
