"""What makes a `request_context` ours: a key in the runtime directory that every step under one Triton shares.

Anybody who reaches Triton can call the ensemble's steps directly, so postprocess believes only what carries a tag made
with this key. Whichever step comes first makes it (0600, in a directory of mode 0700), the last one to go removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import secrets
from pathlib import Path

from kimi_k2_serving.core.errors import EngineUnavailable
from kimi_k2_serving.engine.linux import private_directory

NAME = "context.key"
KEY_BYTES = 32
# Of a tag in hexadecimal; 128 bits.
TAG_CHARACTERS = 32


class Seal:
    """`open` gives one; `close` when the step ends."""

    def __init__(self, key: bytes, descriptor: int | None = None, path: Path | None = None) -> None:
        self._key = key
        self._descriptor = descriptor
        self._path = path

    @classmethod
    def open(cls, runtime: Path) -> Seal:
        """Raises EngineUnavailable where the directory or the key is not this user's alone."""
        path = runtime / NAME
        try:
            private_directory(runtime)
            while True:
                make_key(path)
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                # Held as long as this step runs.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                status = os.fstat(descriptor)
                if status.st_nlink:
                    break
                # The last of others has just removed it.
                os.close(descriptor)
        except OSError as error:
            raise EngineUnavailable(f"the runtime directory can't be used: {error.strerror}") from None
        key = os.read(descriptor, KEY_BYTES + 1)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077 or len(key) != KEY_BYTES:
            os.close(descriptor)
            raise EngineUnavailable("the key in the runtime directory is not this user's alone")
        return cls(key, descriptor, path)

    def tag(self, *parts: str) -> str:
        """No part but the last may have a line break."""
        return hmac.digest(self._key, "\n".join(parts).encode(), "sha256").hex()[:TAG_CHARACTERS]

    def holds(self, tag: str, *parts: str) -> bool:
        return hmac.compare_digest(tag.encode(), self.tag(*parts).encode())

    def close(self) -> None:
        if self._descriptor is None or self._path is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()
        os.close(descriptor)


def make_key(path: Path) -> None:
    """Whole or not at all, and never over another's."""
    if path.exists():
        return
    draft = path.with_name(f"{NAME}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.close(descriptor)
        draft.unlink()
