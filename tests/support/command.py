"""Runs `kimi-k2` as a user does: a process, bytes in, bytes out."""

from __future__ import annotations

import subprocess
import sys


def kimi_k2(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "kimi_k2_cli.main", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


def modules_after(*arguments: str, stdin: bytes = b"") -> set[str]:
    """The top-level modules that a command has imported when it ends."""
    code = "import sys; from kimi_k2_cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=stdin, capture_output=True, timeout=60, check=True
    )
    return {name.partition(".")[0] for name in done.stderr.decode().split()}
