"""Compiling under a budget: whether a structural tag compiles, found out in a process that can be killed.

Outcomes are remembered by the tag's digest, so a conversation pays once. A compile that passes the budget, crashes or
is refused is an InvalidSchema; the worker is then started again on the next call. Thread-safe: one compile at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.errors import Internal, InvalidSchema

BUDGET_SECONDS = 2.0
# Loading torch, xgrammar and a vocabulary of 163,840; nothing of a request is in it.
START_SECONDS = 120.0
CACHED_TAGS = 4_096


@dataclass(frozen=True, slots=True)
class Compiled:
    """`seconds` the compile took; `walks` as lists of ids with whether each reached an end."""

    seconds: float
    walks: tuple[tuple[tuple[int, ...], bool], ...] = ()


class Compiler:
    """One worker process, started when it is first needed. `close` ends it; a context manager does so too."""

    def __init__(self, checkpoint: Path, *, budget: float = BUDGET_SECONDS) -> None:
        self._checkpoint = checkpoint
        self._budget = budget
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._known: OrderedDict[bytes, bool] = OrderedDict()
        self._buffer = b""

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, tag: str, *, field: str = "tools") -> None:
        """Raise InvalidSchema at `field` unless the tag compiles within the budget."""
        digest = hashlib.sha256(tag.encode()).digest()
        with self._lock:
            if digest not in self._known:
                self._known[digest] = self._ask({"tag": tag}, self._budget) is not None
            self._known.move_to_end(digest)
            if len(self._known) > CACHED_TAGS:
                self._known.popitem(last=False)
            compiles = self._known[digest]
        if not compiles:
            raise InvalidSchema(f"does not compile to a grammar within {self._budget:g} s; simplify it", field=field)

    def walk(self, tag: str, *, walks: int, most: int, seed: int, patience: float = 300.0) -> Compiled:
        """Compile within the budget, then draw answers by dice. Raises InvalidSchema, or Internal if walking fails."""
        self.check(tag)
        with self._lock:
            answer = self._ask({"tag": tag, "walks": walks, "most": most, "seed": seed}, patience)
        if answer is None:
            raise Internal("the grammar could not be walked")
        drawn = tuple((tuple(each["ids"]), bool(each["ended"])) for each in answer["walks"])
        return Compiled(answer["seconds"], drawn)

    def close(self) -> None:
        """End the worker. It may be used again: the next call starts another."""
        with self._lock:
            self._kill()

    def _ask(self, request: dict[str, Any], patience: float) -> dict[str, Any] | None:
        """The worker's answer; None if it refuses, dies or takes too long, and then it is gone."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = self._line(process, patience)
        except OSError:
            answer = None
        if answer is None:
            self._kill()
            return None
        return answer if answer["ok"] else None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._kill()
        command = [sys.executable, "-m", "kimi_k2_serving.grammar.worker", str(self._checkpoint)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if self._line(self._process, START_SECONDS) != {"ready": True}:
            self._kill()
            raise Internal("the grammar compiler does not start")
        return self._process

    def _line(self, process: subprocess.Popen[bytes], patience: float) -> dict[str, Any] | None:
        """One line of the worker's output as JSON; None at its end or when patience runs out."""
        assert process.stdout is not None
        deadline = time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                piece = os.read(process.stdout.fileno(), 1 << 20)
                if not piece:
                    return None
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _kill(self) -> None:
        self._buffer = b""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        self._process = None
