"""An OpenAI-compatible endpoint, for the commands that work with any server: URL, key, one POST."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from kimi_k2_cli.given_file import read_text
from kimi_k2_cli.given_url import checked_url
from kimi_k2_serving.core.errors import InvalidValue

URL = "http://127.0.0.1:9000/v1"
TIMEOUT = httpx.Timeout(600.0, connect=10.0)


def add_key_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api-key-file", metavar="FILE", type=Path, help="a file whose first line is the API key")


def read_key(path: Path | None) -> str | None:
    if path is None:
        return None
    words = read_text(path, "--api-key-file").split()
    if not words:
        raise InvalidValue("the file is empty", field="--api-key-file")
    if not (words[0].isascii() and words[0].isprintable()):
        raise InvalidValue("a key has only printable ASCII characters", field="--api-key-file")
    return words[0]


@dataclass(frozen=True, slots=True)
class OpenAIEndpoint:
    """`url` ends before `/chat/completions`; `/v1` may be left out where no part of its path is a version."""

    url: str
    http: httpx.Client

    def at(self, path: str) -> str:
        """The URL of a path that begins with `/v1`, as the paths of a batch do. Some services have another version in
        their URL, or have the version in the middle of it.
        """
        base = self.url.rstrip("/")
        parts = base.partition("://")[2].split("/")[1:]
        is_versioned = any(part[:1] == "v" and part[1:2].isdigit() for part in parts)
        return base + (path.removeprefix("/v1") if is_versioned else path)

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        return self.http.post(self.at(path), json=body)


@contextmanager
def open_endpoint(url: str, key: str | None, *, http: httpx.Client | None = None) -> Iterator[OpenAIEndpoint]:
    """Open the endpoint. Raises InvalidValue for an invalid URL."""
    url = checked_url(url, ("http", "https"), "URL")
    headers = {"Authorization": f"Bearer {key}", "x-api-key": key} if key else {}
    limits = httpx.Limits(max_connections=None)
    with http or httpx.Client(headers=headers, timeout=TIMEOUT, trust_env=False, limits=limits) as client:
        yield OpenAIEndpoint(url, client)
