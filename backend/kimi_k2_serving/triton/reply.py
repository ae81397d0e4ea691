"""Ends a request with its last response, even if sending fails.

The sender is released with that response, because a sender that the garbage collector or the interpreter's exit frees
crashes the stub. If Triton accepts neither the response nor an error in its place, only the final flag is sent. It ends
the request, so that the client does not wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.core.errors import Internal, ServingError
from kimi_k2_serving.triton import journal, tensors


def internal() -> Internal:
    return Internal("an internal error; see the server's log")


def end(sender: Any, response: Any) -> bool:
    """Send the last response. False if Triton did not accept it and got an error or the final flag instead. Never
    raises.
    """
    final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    attempts: tuple[Callable[[], None], ...] = (
        lambda: sender.send(response, flags=final),
        lambda: sender.send(tensors.failure(internal()), flags=final),
        lambda: sender.send(flags=final),
    )
    for number, attempt in enumerate(attempts):
        try:
            attempt()
        except Exception as failure:
            journal.error(f"sending a last response failed: {type(failure).__name__}: {failure}")
        else:
            return number == 0
    return False


def failed(error: Exception) -> Any:
    """The error response. A ServingError is sent with its text; any other exception only as `internal`, and logged."""
    if isinstance(error, ServingError):
        return tensors.failure(error)
    journal.error(f"a request failed: {type(error).__name__}: {error}")
    return tensors.failure(internal())


class Reply:
    """Sends the responses of a request."""

    def __init__(self, request: Any) -> None:
        self._sender: Any = request.get_response_sender()

    def cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def send(self, response: Any) -> bool:
        """Send the last response, as `end` does. Call it, or `close`, once."""
        sender, self._sender = self._sender, None
        return end(sender, response)

    def pass_on(self, response: Any) -> bool:
        """Send a response before the last one. False if Triton did not accept it. Never raises."""
        try:
            self._sender.send(response)
        except Exception as failure:
            journal.error(f"sending a response failed: {type(failure).__name__}: {failure}")
            return False
        return True

    def close(self) -> None:
        """End without a further response."""
        sender, self._sender = self._sender, None
        try:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as failure:
            journal.error(f"ending a request failed: {type(failure).__name__}: {failure}")
