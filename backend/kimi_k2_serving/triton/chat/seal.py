"""Authenticates each `request_context` with a key in the runtime directory that all steps under one Triton share.

Any client of Triton can call the ensemble's steps directly, so postprocess trusts only text with a tag made with this
key. The first step to start creates the key (0600, in a directory of mode 0700); the last one to stop removes it.
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
# The length of a tag in hexadecimal digits, which is 128 bits.
TAG_CHARACTERS = 32


class Seal:
    """Created by `open`. Call `close` when the step ends."""

    def __init__(self, key: bytes, descriptor: int | None = None, path: Path | None = None) -> None:
        self._key = key
        self._descriptor = descriptor
        self._path = path

    @classmethod
    def open(cls, runtime: Path) -> Seal:
        """Open or create the key. Raises EngineUnavailable if another user owns or can open it or the directory."""
        path = runtime / NAME
        try:
            private_directory(runtime)
            while True:
                make_key(path)
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                # This step holds the shared lock as long as it runs. `close` removes the key only if no other step
                # holds the lock.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                status = os.fstat(descriptor)
                if status.st_nlink:
                    break
                # Another step, which was the last one, has just removed the key.
                os.close(descriptor)
        except OSError as error:
            raise EngineUnavailable(f"the runtime directory can't be used: {error.strerror}; check it") from None
        key = os.read(descriptor, KEY_BYTES + 1)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077 or len(key) != KEY_BYTES:
            os.close(descriptor)
            raise EngineUnavailable("another user owns or can open the key in the runtime directory; remove the key")
        return cls(key, descriptor, path)

    def tag(self, *parts: str) -> str:
        """The tag over the parts. Only the last part may contain a line break."""
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
    """Create the key atomically; never overwrite an existing one."""
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
