"""All errors of a request, as one tree.

    KimiError
    |- InvalidRequest     change the request; `field` names the wrong part
    |- NotFound           no such model on this server
    |- Unavailable        the same request may work later
    |  |- Quarantined     the engine died of this request; do not send it again soon (code `request_quarantined`)
    |  |- Unreachable     no connection to the server could be made (code `unreachable`)
    |  `- WrongPort       something answers there, but not this protocol: the other port is meant (code `wrong_port`)
    |- Cancelled          the request was cancelled
    |- DeadlineExceeded   the server was silent for longer than the client's timeout, or exceeded a deadline of its own
    |- ConnectionLost     the answer broke off before its end (code `connection_lost`)
    |- UnexpectedAnswer   the server's answer does not follow this protocol (code `unexpected_answer`)
    |- TooManyRounds      `run_tools` ended before the model did (code `too_many_rounds`)
    `- ServerFault        a defect of the server

The codes are those of `kimi_k2_serving.core.errors` and the five named above. A refusal is the same error over every
transport: `status` is the HTTP status that belongs to the code, even if the transport used another one.
"""

from __future__ import annotations

from typing import Any

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
    """The request is wrong: change it. `field` names the wrong part."""


class NotFound(KimiError):
    """No such model on this server."""


class Unavailable(KimiError):
    """`retry_after` is the server's own estimate in seconds, None if it gave none."""

    def __init__(
        self, code: str, detail: str, *, field: str = "", status: int | None = 503, retry_after: float | None = None
    ) -> None:
        super().__init__(code, detail, field=field, status=status)
        self.retry_after = retry_after


class Quarantined(Unavailable):
    """The engine died of this request, which is refused for a while."""


class Unreachable(Unavailable):
    """No connection to the server could be made."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreachable", detail, status=None)


class WrongPort(Unreachable):
    """The message names the URL to use. It is not retried: another attempt gets the same answer."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.code = "wrong_port"


class Cancelled(KimiError):
    """The request was cancelled."""


class DeadlineExceeded(KimiError):
    """The request's deadline passed, or the server was silent for longer than the client's timeout."""


class ConnectionLost(KimiError):
    """The answer broke off before its end."""

    def __init__(self, detail: str) -> None:
        super().__init__("connection_lost", detail)


class UnexpectedAnswer(KimiError):
    """The server's answer does not follow this protocol, or does not have the requested form."""

    def __init__(self, detail: str) -> None:
        super().__init__("unexpected_answer", detail)


class TooManyRounds(KimiError):
    """`messages` is the conversation so far, ending with the results of the last calls. The caller may continue it."""

    def __init__(self, rounds: int, messages: list[dict[str, Any]]) -> None:
        super().__init__("too_many_rounds", f"the model still calls tools after {rounds} rounds; raise max_rounds")
        self.messages = messages


class ServerFault(KimiError):
    """A defect of the server."""


def refusal(message: str, *, status: int | None = None, retry_after: float | None = None) -> KimiError:
    """The error for a message of the server.

    `message` is `code: field: detail`, perhaps after a prefix from Triton (`in ensemble 'kimi_k2', ...`). Messages of
    Triton itself have no code: their text classifies them, else their HTTP status, `status`.
    """
    found = core.parse_message(message)
    if found is not None:
        kind, field, detail = found
        return _error(kind.code, detail, field, kind.http, retry_after)
    # Triton's status for its own errors differs between HTTP and gRPC, but its text does not.
    status = next((known for words, known in _TRITONS_WORDS if words in message), status or 500)
    code = _CODE_OF_STATUS.get(status, "invalid_request" if 400 <= status < 500 else "internal")
    return _error(code, message.strip() or "the server gave no reason", "", status, retry_after)


def timed_out(seconds: float | None) -> DeadlineExceeded:
    return DeadlineExceeded("deadline_exceeded", f"no answer from the server for {seconds:g} s", status=408)


def unreachable(address: str) -> Unreachable:
    return Unreachable(f"no connection to {address}: is the server running there?")


def is_grpc(address: str) -> WrongPort:
    """The error for an address, HOST:PORT, where a server speaks gRPC and not HTTP."""
    return WrongPort(f"{address} is not an HTTP port but Triton's gRPC port: use grpc://{address}")


def is_http(address: str) -> WrongPort:
    return WrongPort(f"{address} is not a gRPC port but an HTTP port: use http://{address}")


def is_not_triton(address: str) -> WrongPort:
    return WrongPort(
        f"{address} answers HTTP but is not Triton: use Triton's HTTP port (8000 unless --http-port says otherwise)"
    )


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
    ("requested model", 404),
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
