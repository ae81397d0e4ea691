"""Errors that only an HTTP API has, and the translation of the engine model's messages to errors.

InvalidRequest  |- ModelNotFound     model_not_found      404
                |- RouteNotFound     not_found            404
                |- MethodNotAllowed  method_not_allowed   405
                |- Unauthenticated   invalid_api_key      401
                |- NotJson           unsupported_media_type  415
                |- BodyTooLarge      limit_exceeded       413
                `- Misdirected       misdirected_request  421
"""

from __future__ import annotations

from kimi_k2_serving.core import errors as core
from kimi_k2_serving.core.errors import InvalidRequest, ServingError


class ModelNotFound(InvalidRequest):
    code = "model_not_found"
    http = 404
    anthropic_type = "not_found_error"


class RouteNotFound(InvalidRequest):
    code = "not_found"
    http = 404
    anthropic_type = "not_found_error"


class MethodNotAllowed(InvalidRequest):
    code = "method_not_allowed"
    http = 405


class Unauthenticated(InvalidRequest):
    code = "invalid_api_key"
    http = 401
    openai_type = "authentication_error"
    anthropic_type = "authentication_error"


class NotJson(InvalidRequest):
    code = "unsupported_media_type"
    http = 415


class BodyTooLarge(core.LimitExceeded):
    http = 413
    anthropic_type = "request_too_large"


class Misdirected(InvalidRequest):
    code = "misdirected_request"
    http = 421


# Texts that Triton itself sends instead of a model's message.
_TRITONS = (("is not at ready state", core.EngineUnavailable), ("unknown model", core.EngineUnavailable))
# While the engine starts, the supervisor's messages end with this text and the number of seconds.
_RETRY = "retry in "


def from_engine(message: str) -> ServingError:
    """The error for a message `code: field: detail` of the engine model. Triton may put text before the code."""
    found = core.parse_message(message)
    if found is None:
        known = next((kind for words, kind in _TRITONS if words in message), None)
        if known is None:
            return core.Internal("Triton reported an error of its own; see Triton's log")
        return known("the engine model is not ready; retry in 5 s", retry_after=5.0)
    kind, field, detail = found
    if issubclass(kind, core.Unavailable):
        return kind(detail, field=field, retry_after=_retry_after(detail))
    return kind(detail, field=field)


def _retry_after(detail: str) -> float:
    """The number of seconds that the message names, else 1."""
    number = detail.partition(_RETRY)[2].partition(" ")[0]
    return float(number) if number.isdecimal() else 1.0
