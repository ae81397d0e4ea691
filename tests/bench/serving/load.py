"""A load, what came of it, and the processes that put loads on servers: one JSON line in, one JSON line out.

A `Driver` is the controlling side. The process behind it runs `serve`, and keeps its imports and connections from one
load to the next, so that only the load itself is measured.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.serving.processes import end_group

ROOT = Path(__file__).parents[3]
LOAD_SECONDS = 400.0


@dataclass(frozen=True, slots=True)
class Load:
    """`requests`, of which `concurrency` are under way at any time. `address`: host:port. `path`: a URL's, or a model.

    The first ones begin over `spread` seconds; then each begins as soon as one has ended.
    """

    address: str
    path: str
    concurrency: int
    requests: list[dict[str, Any]]
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds to the first event with content, and between the arrivals after it. `events` are those with content.

    `messages` are all responses of a model over gRPC, and `tensors` theirs.
    """

    first: float
    gaps: list[float]
    tokens: int
    events: int
    prompt: int
    messages: int = 0
    tensors: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`processor`: seconds that the driver itself spent."""

    seconds: float
    processor: float
    answers: list[Answer]

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)


def starts(load: Load) -> Iterator[float]:
    """When each of the first requests is to begin, by time.perf_counter."""
    now, first = time.perf_counter(), min(load.concurrency, len(load.requests))
    return (now + load.spread * index / first for index in range(first))


def serve(run: Callable[[Load], list[Answer]]) -> None:
    """The driver's process: answer loads from standard input until it ends. What libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        load = Load(**json.loads(line))
        began, spent = time.perf_counter(), _processor()
        answers = run(load)
        outcome = Outcome(time.perf_counter() - began, _processor() - spent, answers)
        print(json.dumps(asdict(outcome)), file=out, flush=True)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Driver:
    """A process that runs `module`. `log` takes what it prints beside its outcomes."""

    def __init__(self, module: str, *arguments: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        command: Sequence[str] = [sys.executable, "-m", module, *arguments]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        self._module = module
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> None:
        """Until it takes loads."""
        self._answer(LOAD_SECONDS)

    def run(self, load: Load, seconds: float = LOAD_SECONDS) -> Outcome:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(load)) + "\n")
        self._process.stdin.flush()
        found = self._answer(seconds)
        return Outcome(found["seconds"], found["processor"], [Answer(**each) for each in found["answers"]])

    def end(self) -> None:
        if self._process.poll() is None:
            end_group(self._process.pid)
        # Also closes its pipes.
        self._process.communicate()

    def _answer(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            why = "said nothing in time" if not ready else "ended"
            raise SystemExit(f"bench: {self._module} {why}; {self._log} says:\n{self._log.read_text()[-3000:]}")
        return json.loads(line)
