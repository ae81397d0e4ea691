"""The page at `/`: one file without a build step, and headers with which a browser runs only that file.

The policy names the hash of the file's own script and of its own style. So a browser runs no other script, not even one
that an answer of the model contains, and the page can talk to no other server.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Page:
    """The document and its headers. It holds no key and no data of a user, so it is sent to anybody."""

    body: bytes
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def load(cls) -> Page:
        body = files(__name__).joinpath("index.html").read_bytes()
        return cls(body, _headers(body))


def _headers(body: bytes) -> tuple[tuple[str, str], ...]:
    policy = (
        "default-src 'none'",
        f"script-src {_hash(body, 'script')}",
        f"style-src {_hash(body, 'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return (
        ("content-security-policy", "; ".join(policy)),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-cache"),
    )


def _hash(body: bytes, element: str) -> str:
    """The policy's source for the only element of this name, which has no attributes."""
    (content,) = (part.partition(f"</{element}>".encode())[0] for part in body.split(f"<{element}>".encode())[1:])
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
