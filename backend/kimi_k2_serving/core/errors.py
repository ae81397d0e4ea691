"""Every error that a client can get, in one tree.

    ServingError
    |- InvalidRequest            the client must change the request
    |  |- InvalidJson            invalid_json
    |  |- UnknownField           unknown_field
    |  |- MissingField           missing_field
    |  |- InvalidType            invalid_type
    |  |- InvalidValue           invalid_value
    |  |- LimitExceeded          limit_exceeded
    |  |- InvalidSchema          invalid_schema
    |  |- Unsupported            unsupported
    |  `- ContextLengthExceeded  context_length_exceeded
    |- NotFound                  not_found
    |- Unavailable               the same request may work later
    |  |- Overloaded             overloaded
    |  |- EngineUnavailable      engine_unavailable
    |  |- EngineLost             engine_lost
    |  |- RequestQuarantined     request_quarantined
    |  `- ShuttingDown           shutting_down
    |- Cancelled                 cancelled
    |- DeadlineExceeded          deadline_exceeded
    `- Internal                  internal

A message reads `code: field: what is wrong and what to do`. It is our own text for the client: it never contains an
exception's text, a path, or any part of a prompt. Each class also holds the status that each transport sends.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import ClassVar


class TritonCode(enum.Enum):
    """The error codes of Triton's Python backend; the values are attribute names of its TritonError."""

    INTERNAL = "INTERNAL"
    NOT_FOUND = "NOT_FOUND"
    INVALID_ARG = "INVALID_ARG"
    UNAVAILABLE = "UNAVAILABLE"
    CANCELLED = "CANCELLED"


class ServingError(Exception):
    """Base of the tree. `field` is the JSON path or the tensor with the fault, "" if there is none."""

    code: ClassVar[str] = "internal"
    triton: ClassVar[TritonCode] = TritonCode.INTERNAL
    http: ClassVar[int] = 500
    openai_type: ClassVar[str] = "server_error"
    anthropic_type: ClassVar[str] = "api_error"

    def __init__(self, detail: str, *, field: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field

    def __str__(self) -> str:
        return ": ".join(part for part in (self.code, self.field, self.detail) if part)


class InvalidRequest(ServingError):
    code = "invalid_request"
    triton = TritonCode.INVALID_ARG
    http = 400
    openai_type = "invalid_request_error"
    anthropic_type = "invalid_request_error"


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class UnknownField(InvalidRequest):
    code = "unknown_field"


class MissingField(InvalidRequest):
    code = "missing_field"


class InvalidType(InvalidRequest):
    code = "invalid_type"


class InvalidValue(InvalidRequest):
    code = "invalid_value"


class LimitExceeded(InvalidRequest):
    """A value exceeds a bound of `limits.py`; the message names the bound and both numbers."""

    code = "limit_exceeded"


class InvalidSchema(InvalidRequest):
    """A JSON Schema is invalid or exceeds its bounds; `field` is the path inside the request."""

    code = "invalid_schema"


class Unsupported(InvalidRequest):
    """The request is valid, but asks for something that this server or this model can't do."""

    code = "unsupported"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class NotFound(ServingError):
    code = "not_found"
    triton = TritonCode.NOT_FOUND
    http = 404
    openai_type = "invalid_request_error"
    anthropic_type = "not_found_error"


class Unavailable(ServingError):
    """The same request may succeed later; `retry_after` is the estimated wait in seconds."""

    code = "unavailable"
    triton = TritonCode.UNAVAILABLE
    http = 503
    openai_type = "server_error"
    anthropic_type = "overloaded_error"

    def __init__(self, detail: str, *, field: str = "", retry_after: float = 1.0) -> None:
        super().__init__(detail, field=field)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """Refused at admission, before any work was done."""

    code = "overloaded"
    http = 429
    openai_type = "rate_limit_error"


class EngineUnavailable(Unavailable):
    """The engine is starting, restarting or stopped for good; the request never reached it."""

    code = "engine_unavailable"


class EngineLost(Unavailable):
    """The engine died while it worked on this request."""

    code = "engine_lost"


class RequestQuarantined(Unavailable):
    """This request made the engine die; it is refused for some minutes, so an immediate retry fails, too."""

    code = "request_quarantined"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class Cancelled(ServingError):
    code = "cancelled"
    triton = TritonCode.CANCELLED
    http = 499
    openai_type = "invalid_request_error"
    anthropic_type = "invalid_request_error"


class DeadlineExceeded(ServingError):
    code = "deadline_exceeded"
    triton = TritonCode.CANCELLED
    http = 408
    openai_type = "timeout_error"
    anthropic_type = "timeout_error"


class Internal(ServingError):
    """A bug of this server. The detail goes to the log; the client gets the code and a fixed sentence."""

    code = "internal"


def _kinds(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)


# Only the classes defined above: subclasses in frontend/ reuse these codes and must not replace them here.
KINDS = {kind.code: kind for kind in _kinds(ServingError)}


def parse_message(message: str) -> tuple[type[ServingError], str, str] | None:
    """Parse an error's message into its class, field and detail. None if it contains no code.

    The code is the leftmost word before ": " that is a code, because Triton puts a text of its own in front.
    """
    start = 0
    while (end := message.find(": ", start)) >= 0:
        kind = KINDS.get(message[message.rfind(" ", 0, end) + 1 : end])
        if kind is not None:
            field, separator, detail = message[end + 2 :].partition(": ")
            return (kind, field, detail) if separator and " " not in field else (kind, "", message[end + 2 :])
        start = end + 1
    return None
