"""The end of a request: its last response, whatever fails on the way there.

Triton's sender is let go with it: one that a garbage collection or the interpreter's end finds takes the whole stub
down. Where Triton takes neither the response nor an error in its place, the bare final flag still ends the request: a
client that waits for ever is worse off than one that gets nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.core.errors import Internal, ServingError
from kimi_k2_serving.triton import tensors


def internal() -> Internal:
    return Internal("an internal error; see the server's log")


def end(sender: Any, response: Any) -> bool:
    """Send the last response; whether Triton took it, and not something in its place. Never raises."""
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
            pb_utils.Logger.log_error(f"a request's last response failed: {type(failure).__name__}: {failure}")
        else:
            return number == 0
    return False


def failed(error: Exception) -> Any:
    """The response: of an error of ours its text, of any other nothing but that there was one."""
    if isinstance(error, ServingError):
        return tensors.failure(error)
    pb_utils.Logger.log_error(f"a request failed: {type(error).__name__}: {error}")
    return tensors.failure(internal())


class Reply:
    """The one response of a request."""

    def __init__(self, request: Any) -> None:
        self._sender: Any = request.get_response_sender()

    def cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def send(self, response: Any) -> bool:
        """As `end`. Nothing may be sent after it."""
        sender, self._sender = self._sender, None
        return end(sender, response)
