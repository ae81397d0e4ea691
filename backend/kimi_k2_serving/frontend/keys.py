"""API keys and their options.

A key file has one key per line, followed by its options:

    KEY [name=NAME] [priority=N] [concurrency=N] [cache_salt=TEXT]

`#` begins a comment line. `name` appears in the log. Requests with a higher `priority` go first. `concurrency` limits
the requests in flight. Keys with different `cache_salt` share no prefix cache, so no client can learn from timing what
another has sent. Without a key file all clients share one anonymous key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.core.limits import CACHE_SALT_BYTES
from kimi_k2_serving.frontend.errors import Unauthenticated

# Short keys can be guessed.
KEY_CHARACTERS = 16
# The engine model's bound on request_priority.
PRIORITY = 100


@dataclass(frozen=True, slots=True)
class Key:
    """`digest` is the key's SHA-256. The key itself is not kept."""

    name: str
    digest: bytes = b""
    priority: int | None = None
    concurrency: int | None = None
    cache_salt: str | None = None


ANONYMOUS = Key("anonymous")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a server. Without any, no key is needed."""

    keys: tuple[Key, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Keys:
        """Read a key file. Raises NotFound, InvalidValue or LimitExceeded with a line's number, never its text."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise NotFound("the key file cannot be read as UTF-8 text", field="--api-key-file") from None
        found = [
            _key(line.split(), number)
            for number, line in enumerate(lines, 1)
            if line.strip() and line.lstrip()[0] != "#"
        ]
        if not found:
            raise InvalidValue("the key file has no key; add one per line", field="--api-key-file")
        if len({key.digest for key in found}) < len(found):
            raise InvalidValue("the key file has the same key twice; remove one", field="--api-key-file")
        if len({key.name for key in found}) < len(found):
            raise InvalidValue("two keys have the same name; rename one", field="--api-key-file")
        return cls(tuple(found))

    def owner(self, headers: Mapping[str, str]) -> Key:
        """The key that the request has. Raises Unauthenticated. Takes the same time for right and wrong keys."""
        if not self.keys:
            return ANONYMOUS
        given = headers.get("x-api-key") or ""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = token.strip() or given
        digest = _digest(given)
        matching = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        if not matching:
            raise Unauthenticated("send a valid API key as `Authorization: Bearer KEY` or `x-api-key: KEY`")
        return matching[0]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _key(words: list[str], line: int) -> Key:
    where = f"--api-key-file line {line}"
    key, options = words[0], dict(word.partition("=")[::2] for word in words[1:])
    if len(key) < KEY_CHARACTERS:
        raise InvalidValue(f"a key must have at least {KEY_CHARACTERS} characters", field=where)
    for name in options:
        if name not in ("name", "priority", "concurrency", "cache_salt"):
            raise InvalidValue("an option must be name, priority, concurrency or cache_salt", field=where)
    concurrency = _number(options.get("concurrency"), where)
    if concurrency is not None and concurrency < 1:
        raise InvalidValue("concurrency must be at least 1", field=where)
    priority = _number(options.get("priority"), where)
    if priority is not None and abs(priority) > PRIORITY:
        raise InvalidValue(f"priority must be between -{PRIORITY} and {PRIORITY}", field=where)
    salt = options.get("cache_salt") or None
    if salt is not None:
        CACHE_SALT_BYTES.check(len(salt.encode()), field=where)
    return Key(
        name=options.get("name") or f"line-{line}",
        digest=_digest(key),
        priority=priority,
        concurrency=concurrency,
        cache_salt=salt,
    )


def _number(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    if not text.removeprefix("-").isdecimal() or len(text) > 9:
        raise InvalidValue("priority and concurrency must be integers", field=where)
    return int(text)
