"""The error envelope and the usage object of Anthropic's routes."""

from __future__ import annotations

from kimi_k2_serving.core.errors import ContextLengthExceeded, ServingError
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object
from kimi_k2_serving.engine.port import TokenUsage
from kimi_k2_serving.frontend import sse


class AnthropicEnvelope:
    """The error `{"type": "error", "error": {type, message}, "request_id"}`, in streams as an `error` event."""

    idle = sse.event("ping", {"type": "ping"})

    def error(self, error: ServingError, request_id: str) -> Json:
        message = f"{error.field}: {error.detail}" if error.field else error.detail
        if isinstance(error, ContextLengthExceeded):
            # Coding agents compact their history when they read these words.
            message = f"prompt is too long: {error.detail}"
        kind = "rate_limit_error" if error.http == 429 else error.anthropic_type
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}

    def frame(self, error: ServingError, request_id: str) -> bytes:
        return sse.event("error", self.error(error, request_id))


def usage(counts: TokenUsage) -> Object:
    """The usage object. `input_tokens` excludes cached tokens: the prompt has the sum of the three input counts."""
    return {
        "input_tokens": counts.prompt - counts.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
    }
