"""The OpenAPI document of all routes: requests, responses and statuses.

It is written by hand, not generated from the readers, because they refuse more than a schema can express. A test
compares the two, route by route and field by field.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from kimi_k2_serving.core.limits import CHOICES, STOP_STRINGS, TOP_LOGPROBS
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object

ANY: Object = {}
STRING: Object = {"type": "string"}
INTEGER: Object = {"type": "integer"}
OBJECT: Object = {"type": "object"}
EVENT: Object = {"type": "object", "properties": {"event": STRING, "data": STRING}}
IDS: Object = {"type": "array", "items": {"type": "integer", "minimum": 0}}


def nullable(schema: Object) -> Object:
    return {"anyOf": [schema, {"type": "null"}]}


def number(minimum: float, maximum: float, **more: Json) -> Object:
    return nullable({"type": "number", "minimum": minimum, "maximum": maximum, **more})


def integer_between(minimum: int, maximum: int = 2**31 - 1) -> Object:
    return nullable({"type": "integer", "minimum": minimum, "maximum": maximum})


def array(items: Object, **more: Json) -> Object:
    return {"type": "array", "items": items, **more}


def record(properties: Object, required: tuple[str, ...] = (), *, closed: bool = False, **more: Json) -> Object:
    schema: Object = {"type": "object", "properties": properties, "required": list(required), **more}
    return {**schema, "additionalProperties": False} if closed else schema


FLAG = nullable({"type": "boolean"})
STRINGS = nullable({"anyOf": [STRING, array(STRING, maxItems=STOP_STRINGS.value)]})
SAMPLING: Object = {
    "temperature": number(0, 2),
    "top_p": nullable({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    "top_k": integer_between(-1),
    "min_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": nullable({"type": "number", "minimum": 0.01, "maximum": 2}),
    "seed": integer_between(0, 2**63 - 1),
    "stop": STRINGS,
    "stop_token_ids": nullable(IDS),
    "logit_bias": nullable({"type": "object", "additionalProperties": {"type": "number"}}),
    "min_tokens": integer_between(0),
    "ignore_eos": FLAG,
    "max_tokens": integer_between(1),
}
STREAMING: Object = {
    "stream": FLAG,
    "stream_options": nullable(
        record(
            {"include_usage": FLAG, "continuous_usage_stats": FLAG, "include_obfuscation": ANY},
            closed=True,
            description="only with stream: true",
        )
    ),
}
TEXT: Object = {"anyOf": [STRING, array(record({"type": {"enum": ["text"]}, "text": STRING}, ("type", "text")))]}
CHAT_MESSAGE = record(
    {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        # A text or a list of parts; in a tool message any JSON.
        "content": ANY,
        "name": nullable(STRING),
        # Read only in assistant and tool messages.
        "tool_calls": ANY,
        "tool_call_id": ANY,
    },
    ("role",),
)
FUNCTION: Object = {
    "name": {"type": "string", "minLength": 1, "maxLength": 64},
    "description": nullable(STRING),
    # A JSON Schema. With anything else the tool accepts any object.
    "parameters": ANY,
    "strict": FLAG,
}
LONG_NAME: Object = {"type": "string", "minLength": 1, "maxLength": 128}
CHAT_TOOL = record({"type": {"enum": ["function"]}, "function": record(FUNCTION, ("name",))}, ("type", "function"))
CHAT: Object = {
    **SAMPLING,
    **STREAMING,
    "model": STRING,
    "messages": array(CHAT_MESSAGE, minItems=1),
    "tools": nullable(array(CHAT_TOOL)),
    "tool_choice": nullable({"anyOf": [{"enum": ["auto", "none", "required"]}, OBJECT]}),
    "parallel_tool_calls": FLAG,
    "response_format": nullable(record({"type": {"enum": ["text", "json_object", "json_schema"]}}, ("type",))),
    "max_completion_tokens": integer_between(1),
    "n": integer_between(1, CHOICES.value),
    "logprobs": FLAG,
    "top_logprobs": integer_between(0, TOP_LOGPROBS.value),
    "modalities": nullable(array(STRING)),
    "continue_final_message": FLAG,
    "add_generation_prompt": FLAG,
}
COMPLETION: Object = {
    **SAMPLING,
    **STREAMING,
    "model": STRING,
    "prompt": {"anyOf": [STRING, IDS, array(STRING), array(IDS)]},
    "n": integer_between(1, CHOICES.value),
    "best_of": integer_between(1, CHOICES.value),
    "logprobs": integer_between(0, TOP_LOGPROBS.value),
    "echo": FLAG,
}
RESPONSES: Object = {
    "model": STRING,
    "input": {"anyOf": [STRING, array(OBJECT, minItems=1)]},
    "instructions": nullable(STRING),
    # Functions, namespaces of functions, custom tools, and tools that run elsewhere, which are left out.
    "tools": nullable(array(record({"type": STRING}, ("type",)))),
    "tool_choice": nullable({"anyOf": [{"enum": ["auto", "none", "required"]}, OBJECT]}),
    "parallel_tool_calls": FLAG,
    "text": nullable(OBJECT),
    "stream": FLAG,
    "max_output_tokens": integer_between(1),
    "temperature": number(0, 2),
    "top_p": nullable({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    "truncation": nullable({"enum": ["disabled"]}),
}
COUNT: Object = {
    "model": STRING,
    "messages": array(
        record(
            {
                "role": {"enum": ["user", "assistant", "system", "ctx", "msg"]},
                "content": nullable({"anyOf": [STRING, array(record({"type": STRING}, ("type",)))]}),
            },
            ("role", "content"),
        ),
        minItems=1,
    ),
    "system": nullable(TEXT),
    "tools": nullable(array(record({"name": LONG_NAME, "input_schema": ANY}, ("name",)))),
    "tool_choice": nullable(record({"type": {"enum": ["auto", "any", "tool", "none"]}}, ("type",))),
    "output_config": nullable(OBJECT),
    "output_format": nullable(OBJECT),
    "stream": FLAG,
    "max_tokens": integer_between(1),
    "temperature": number(0, 1),
    "top_p": nullable({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    "top_k": integer_between(-1),
    "stop_sequences": nullable(array(STRING, maxItems=STOP_STRINGS.value)),
}
TOKENIZE: Object = {
    "model": nullable(STRING),
    "prompt": nullable(STRING),
    "messages": nullable(array(CHAT_MESSAGE, minItems=1)),
    "tools": nullable(array(CHAT_TOOL)),
    "return_token_strs": FLAG,
}
DETOKENIZE: Object = {"model": nullable(STRING), "tokens": IDS, "skip_special_tokens": FLAG}

OPENAI_ERROR = record(
    {
        "error": record(
            {"message": STRING, "type": STRING, "param": nullable(STRING), "code": STRING},
            ("message", "type", "param", "code"),
        )
    },
    ("error",),
)
ANTHROPIC_ERROR = record(
    {
        "type": {"enum": ["error"]},
        "error": record({"type": STRING, "message": STRING}, ("type", "message")),
        "request_id": STRING,
    },
    ("type", "error", "request_id"),
)
STATUSES = {
    "400": "the request is invalid; the message names the field",
    "401": "no valid API key",
    "404": "no such model or path",
    "405": "the path does not accept this method",
    "408": "the body did not arrive in time, or the request timed out",
    "413": "the body is too large",
    "415": "the body is not JSON",
    "421": "the Host header names another server",
    "429": "too many requests; retry after Retry-After seconds",
    "500": "a defect of the server",
    "503": "the engine is down or stopping; retry after Retry-After seconds",
}


def _object(*names: str) -> Object:
    return record(dict.fromkeys(names, ANY), names)


# path, summary, request schema, response schema, whether it can stream
_POSTS: tuple[tuple[str, str, Object, Object, bool], ...] = (
    (
        "/v1/chat/completions",
        "OpenAI's chat",
        record(CHAT, ("model", "messages")),
        _object("id", "object", "created", "model", "choices", "usage"),
        True,
    ),
    (
        "/v1/chat/completions/render",
        "The prompt that the same chat request would send; nothing is generated",
        record(CHAT, ("model", "messages")),
        _object("prompt", "token_ids", "prompt_tokens", "sampling_parameters"),
        False,
    ),
    (
        "/v1/completions",
        "OpenAI's completions, without the chat template",
        record(COMPLETION, ("model", "prompt")),
        _object("id", "object", "created", "model", "choices", "usage"),
        True,
    ),
    (
        "/v1/responses",
        "OpenAI's responses; nothing is stored",
        record(RESPONSES, ("model", "input")),
        _object("id", "object", "status", "output", "usage"),
        True,
    ),
    (
        "/v1/messages",
        "Anthropic's messages",
        record(COUNT, ("model", "messages", "max_tokens")),
        _object("id", "type", "role", "content", "stop_reason", "usage"),
        True,
    ),
    (
        "/v1/messages/count_tokens",
        "The number of input tokens of the same messages request",
        record(COUNT, ("model", "messages")),
        record({"input_tokens": INTEGER}, ("input_tokens",)),
        False,
    ),
    ("/tokenize", "Text or a chat to token ids", record(TOKENIZE), _object("tokens", "count", "max_model_len"), False),
    ("/detokenize", "Token ids to text", record(DETOKENIZE, ("tokens",)), _object("prompt", "text"), False),
)
_GETS: tuple[tuple[str, str, Object], ...] = (
    ("/v1/models", "The served model and its aliases", _object("object", "data")),
    ("/v1/models/{id}", "The served model or one of its aliases", _object("id", "object", "max_model_len")),
    ("/health", "The engine accepts requests", _object("status")),
    ("/ping", "The engine accepts requests", _object("status")),
    ("/health/live", "This process answers", _object("status")),
    ("/health/ready", "The engine accepts requests", _object("status")),
    ("/openapi.json", "This document", _object("openapi", "paths")),
    (
        "/engine",
        "Whether the engine is ready, and its load",
        record(
            {
                "ready": {"type": "boolean"},
                "reason": STRING,
                "running": nullable(INTEGER),
                "queued": nullable(INTEGER),
                "kv_usage": nullable({"type": "number"}),
                "restarts": nullable(INTEGER),
            },
            ("ready", "reason", "running", "queued", "kv_usage", "restarts"),
        ),
    ),
)


def build_openapi(names: Sequence[str], *, secured: bool) -> Json:
    """`names`: the served model ids. `secured`: whether API keys are needed."""
    paths: dict[str, Json] = {}
    served: Object = {"enum": list(names)}
    for path, summary, request, response, streams in _POSTS:
        content: Object = {"application/json": {"schema": response}}
        if streams:
            content["text/event-stream"] = {"schema": EVENT}
        body: Object = {"required": True, "content": {"application/json": {"schema": _of_model(request, served)}}}
        paths[path] = {"post": {"summary": summary, "requestBody": body, "responses": _responses(path, content)}}
    for path, summary, response in _GETS:
        operation: Object = {
            "summary": summary,
            "responses": _responses(path, {"application/json": {"schema": response}}),
        }
        if "{id}" in path:
            parameter: Object = {"name": "id", "in": "path", "required": True, "schema": served}
            operation["parameters"] = [parameter]
        if path.startswith(("/health", "/ping")):
            operation["security"] = []
        paths[path] = {"get": operation}
    plain: Object = {"text/plain": {"schema": STRING}}
    paths["/metrics"] = {"get": {"summary": "Prometheus metrics as text", "responses": _responses("/metrics", plain)}}
    schemes: Object = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kimi K2 on Triton", "version": _version(), "description": f"The model is `{names[0]}`."},
        "paths": paths,
        "components": {"securitySchemes": schemes if secured else {}},
        "security": [{"bearer": []}, {"key": []}] if secured else [],
    }


def _of_model(request: Object, served: Object) -> Object:
    properties = request["properties"]
    required = request["required"]
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    model = served if "model" in required else nullable(served)
    return {**request, "properties": {**properties, "model": model}}


def _responses(path: str, content: Object) -> Object:
    error = ANTHROPIC_ERROR if path.startswith("/v1/messages") else OPENAI_ERROR
    refusals: Object = {
        status: {"description": meaning, "content": {"application/json": {"schema": error}}}
        for status, meaning in STATUSES.items()
    }
    return {"200": {"description": "the answer", "content": content}, **refusals}


def _version() -> str:
    try:
        return version("kimi-k2-triton")
    except PackageNotFoundError:
        return "0"
