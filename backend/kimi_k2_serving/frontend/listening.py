"""The frontend's socket, and the lines about its start: either the reason why it does not start, or that it listens."""

from __future__ import annotations

import argparse
import socket
from typing import NoReturn

from kimi_k2_serving import logs
from kimi_k2_serving.core.errors import InvalidValue


class Flags(argparse.ArgumentParser):
    """A parser that refuses wrong flags in one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"frontend: {message}; see {self.prog} --help\n")


def bind(host: str, port: int) -> socket.socket:
    """Bind the port, without listening yet. Raises InvalidValue that names the flag to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        why = getattr(error, "strerror", None) or "not a port"
        raise InvalidValue(f"{host}:{port} can't be used: {why}; choose another with --port", field="--port") from None
    return bound


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def say_listening(url: str, model: str, triton: str) -> None:
    logs.say("frontend", f"frontend: listening at {url} (model {model}, Triton's gRPC at {triton})")
