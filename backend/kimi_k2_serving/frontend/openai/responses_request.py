"""Reads a Responses request: a Conversation and sampling parameters. It can't refer to earlier responses, because none
is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import Unsupported
from kimi_k2_serving.core.messages import Conversation, Json
from kimi_k2_serving.core.typed_json import Object, as_flag, as_object, as_string, closed, one_of, required
from kimi_k2_serving.frontend import fields
from kimi_k2_serving.frontend.openai.responses_input import NOTHING_STORED, read_input
from kimi_k2_serving.frontend.openai.responses_tools import NAME_CHARACTERS, read_tool_choice, read_tools
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.reading import Reader

KNOWN = frozenset(
    {
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "stream",
        "max_output_tokens",
        "temperature",
        "top_p",
        "truncation",
    }
)
IGNORED = frozenset(
    {
        "store",
        "metadata",
        "user",
        "cache_control",
        "safety_identifier",
        "reasoning",
        "include",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "stream_options",
        "max_tool_calls",
        "context_management",
        "client_metadata",
    }
)
REFUSED = {
    "previous_response_id": f"{NOTHING_STORED}; send the whole conversation as input",
    "conversation": f"{NOTHING_STORED}; send the whole conversation as input",
    "background": "this server stores nothing; stream the answer",
    "prompt": "this server has no stored prompts",
    "top_logprobs": "use /v1/chat/completions for log-probabilities",
}


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """`source` is the client's request; a response repeats parts of it. `functions`: see `responses_tools.Tools`."""

    model: str
    source: Object
    conversation: Conversation
    sampling: dict[str, Any]
    stream: bool
    functions: dict[str, Object]
    origin: Origin


def read_responses_request(service: Reader, body: Json, origin: Origin) -> ResponsesRequest:
    """Raises leaves of InvalidRequest that name the client's path or that of the chat request; `origin.translated` says
    which.
    """
    source = as_object(body, "body")
    fields.check_fields(source, known=KNOWN, ignored=IGNORED, refused=REFUSED)
    model = service.served(required(source, "model", ""))
    if source.get("truncation") not in (None, "disabled"):
        raise Unsupported("must be disabled: this server never cuts a conversation", field="truncation")
    instructions = source.get("instructions")
    system: list[Json] = []
    if instructions is not None:
        system = [{"role": "system", "content": as_string(instructions, "instructions")}]
    given: dict[str, Json] = {name: source.get(name) for name in ("temperature", "top_p")}
    given["max_tokens"] = fields.integer(source.get("max_output_tokens"), "max_output_tokens", minimum=1)
    tools = read_tools(source.get("tools"), origin)
    parts: dict[str, Any] = {
        "messages": system + read_input(source.get("input"), tools, origin, len(system)),
        "tools": tools.declared,
        "tool_choice": read_tool_choice(source.get("tool_choice"), tools, origin),
        "response_format": read_format(source.get("text")),
    }
    parallel = as_flag(source.get("parallel_tool_calls"), "parallel_tool_calls", default=True)
    stream = as_flag(source.get("stream"), "stream", default=False)
    sampling = fields.read_sampling(given)
    origin.place("response_format.json_schema", "text.format")
    origin.place("messages", "input")
    origin.translated = True
    return ResponsesRequest(
        model=model,
        source=source,
        conversation=read_conversation(**parts, parallel_tool_calls=parallel, name_characters=NAME_CHARACTERS),
        sampling=sampling,
        stream=stream,
        functions=tools.functions,
        origin=origin,
    )


def read_format(value: Json) -> Json:
    """`text.format` as chat's response_format."""
    if value is None:
        return None
    text = as_object(value, "text")
    fields.check_fields(text, known=("format",), ignored=("verbosity",), refused={})
    if text.get("format") is None:
        return None
    source = as_object(text["format"], "text.format")
    kinds = ("text", "json_object", "json_schema")
    kind = one_of(required(source, "type", "text.format"), kinds, "text.format.type")
    closed(source, "text.format", ("type", "name", "description", "schema", "strict"))
    if kind != "json_schema":
        return {"type": kind}
    schema: Object = {"schema": required(source, "schema", "text.format"), "strict": source.get("strict")}
    return {"type": kind, "json_schema": schema}
