"""All errors of a request, as one tree.

    KimiError
    |- InvalidRequest     change the request; `field` names the wrong part
    |- NotFound           no such model on this server
    |- Unavailable        the same request may work later
    |  |- Quarantined     the engine died of this request; do not send it again soon (code `request_quarantined`)
    |  `- Unreachable     no connection to the server could be made (code `unreachable`)
    |- Cancelled          the request was cancelled
    |- DeadlineExceeded   the server was silent for longer than the client's timeout, or exceeded a deadline of its own
    |- ConnectionLost     the answer broke off before its end (code `connection_lost`)
    |- UnexpectedAnswer   the server's answer does not follow this protocol (code `unexpected_answer`)
    `- ServerFault        a defect of the server

The codes are those of `kimi_k2_serving.core.errors` and the three above. A refusal is the same error over every
transport: `status` is the HTTP status that belongs to the code, even if the transport used another one.
"""

from __future__ import annotations

from kimi_k2_serving.core import errors as core


class KimiError(Exception):
    """`code` is stable. `field` is the wrong JSON path or tensor, "" if there is none. `status` is an HTTP status."""

    def __init__(self, code: str, detail: str, *, field: str = "", status: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.status = status

    def __str__(self) -> str:
        return ": ".join(part for part in (self.code, self.field, self.detail) if part)


class InvalidRequest(KimiError):
    pass


class NotFound(KimiError):
    pass


class Unavailable(KimiError):
    """`retry_after` is the server's own estimate in seconds, None if it gave none."""

    def __init__(
        self, code: str, detail: str, *, field: str = "", status: int | None = 503, retry_after: float | None = None
    ) -> None:
        super().__init__(code, detail, field=field, status=status)
        self.retry_after = retry_after


class Quarantined(Unavailable):
    pass


class Unreachable(Unavailable):
    def __init__(self, detail: str) -> None:
        super().__init__("unreachable", detail, status=None)


class Cancelled(KimiError):
    pass


class DeadlineExceeded(KimiError):
    pass


class ConnectionLost(KimiError):
    def __init__(self, detail: str) -> None:
        super().__init__("connection_lost", detail)


class UnexpectedAnswer(KimiError):
    def __init__(self, detail: str) -> None:
        super().__init__("unexpected_answer", detail)


class ServerFault(KimiError):
    pass


def refusal(message: str, *, status: int | None = None, retry_after: float | None = None) -> KimiError:
    """The error for a message of the server.

    `message` is `code: field: detail`, perhaps after a prefix from Triton (`in ensemble 'kimi_k2', ...`). Messages of
    Triton itself have no code: their HTTP status, `status`, classifies them, or their text if there is no status.
    """
    found = core.parse_message(message)
    if found is not None:
        kind, field, detail = found
        return _error(kind.code, detail, field, kind.http, retry_after)
    if status is None:
        status = next((known for words, known in _TRITONS_WORDS if words in message), 500)
    code = _CODE_OF_STATUS.get(status, "invalid_request" if 400 <= status < 500 else "internal")
    return _error(code, message.strip() or "the server gave no reason", "", status, retry_after)


def timed_out(seconds: float | None) -> DeadlineExceeded:
    return DeadlineExceeded("deadline_exceeded", f"no answer from the server for {seconds:g} s", status=408)


def unreachable(address: str) -> Unreachable:
    return Unreachable(f"no connection to {address}: is the server running there?")


def lost() -> ConnectionLost:
    return ConnectionLost("the answer broke off before its end; send the request again")


def _error(code: str, detail: str, field: str, status: int | None, retry_after: float | None) -> KimiError:
    kind = core.KINDS[code]
    if issubclass(kind, core.Unavailable):
        error = Quarantined if issubclass(kind, core.RequestQuarantined) else Unavailable
        return error(code, detail, field=field, status=status, retry_after=retry_after)
    for family, ours in _FAMILIES:
        if issubclass(kind, family):
            return ours(code, detail, field=field, status=status)
    return ServerFault(code, detail, field=field, status=status)


_FAMILIES: tuple[tuple[type[core.ServingError], type[KimiError]], ...] = (
    (core.InvalidRequest, InvalidRequest),
    (core.NotFound, NotFound),
    (core.Cancelled, Cancelled),
    (core.DeadlineExceeded, DeadlineExceeded),
)

_TRITONS_WORDS = (
    ("is not at ready state", 503),
    ("Request for unknown model", 404),
)

_CODE_OF_STATUS = {
    404: "not_found",
    408: "deadline_exceeded",
    429: "overloaded",
    499: "cancelled",
    501: "unsupported",
    503: "unavailable",
    504: "deadline_exceeded",
}
