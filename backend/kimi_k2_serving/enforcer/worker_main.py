"""The process that compiles grammars: it loads everything once, then forks a child for each job; a child may die.

`python -m kimi_k2_serving.enforcer.worker_main [CHECKPOINT]`, with a SOCK_SEQPACKET socket as standard input. It sends
`ready`, then receives messages: each is the job's seconds, with the descriptor of a stream socket. On that comes a line
of JSON, `{"kind", "budget", ...}`, then the rest up to the end of the stream. The child sends TAKEN, then its answer in
lines of JSON, and ends. The kernel ends it after `budget` seconds of processor time, of all its threads together, or
`wall` seconds of wall-clock time. It takes at most JOB_BYTES of memory besides what it inherits. Kinds:

    constrain   rest: a job; maybe   -> {"structural_tag", "relaxed", "processor"} or {"error": {...}}
                passes, free
    cost        as constrain         -> {"at": path} before each schema alone, {"seconds": s} after it
    validate    rest: [text, schema, -> {"problems": [...]}
                content]

Without CHECKPOINT it only validates, and loads neither torch nor xgrammar. It ends when its input does.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kimi_k2_serving.core.errors import InvalidSchema, InvalidValue, ServingError
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer import inspection
from kimi_k2_serving.enforcer.worker_client import READY, TAKEN
from kimi_k2_serving.grammar import job, lanes
from kimi_k2_serving.grammar.constraint import Constraint, Effort, constrain
from kimi_k2_serving.grammar.yielding import step_back
from kimi_k2_serving.json_schema import code_points
from kimi_k2_serving.json_schema.strings import PASSES

if TYPE_CHECKING:
    import xgrammar

JOB_BYTES = 4 * 2**30
NO_BEGINNING = "an answer in this response_format can't begin with the text of the last message; change the text"


@dataclass(frozen=True, slots=True)
class Compiler:
    """The vocabulary and the compiler, which are loaded once and shared by all children."""

    vocabulary: Vocabulary
    grammars: xgrammar.GrammarCompiler

    @classmethod
    def load(cls, checkpoint: Path) -> Compiler:
        vocabulary = Vocabulary.load(checkpoint)
        from kimi_k2_serving.grammar import xgrammar_vocabulary

        # A child would spend an eighth of its budget on this table.
        code_points.categories()
        return cls(vocabulary, xgrammar_vocabulary.compiler(xgrammar_vocabulary.token_info(vocabulary)))

    def compile(self, given: bytes, header: dict[str, Any]) -> Constraint:
        """The constraint; its grammar compiles. Raises InvalidSchema or LimitExceeded; InvalidValue for a beginning."""
        conversation, bounds = job.decode_job(given)
        effort = Effort(header.get("passes", PASSES), frozenset(header.get("free", ())))
        constraint = constrain(conversation, self.vocabulary, bounds=bounds, effort=effort)
        if constraint.structural_tag is None:
            return constraint
        from kimi_k2_serving.grammar import continued

        began = time.process_time()
        try:
            compiled = self.grammars.compile_structural_tag(constraint.structural_tag)
        except (RuntimeError, ValueError):
            raise InvalidSchema("does not compile to a grammar; simplify it", field=job.SOMEWHERE) from None
        if conversation.prefix and not continued.accepts(compiled, conversation.prefix):
            raise InvalidValue(NO_BEGINNING, field="messages")
        tag = lanes.marked(constraint.structural_tag, time.process_time() - began)
        return replace(constraint, structural_tag=continued.with_prefix(tag, conversation.prefix))


def main(arguments: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Children are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM, signal.SIGPROF})
    control = socket.socket(fileno=0)
    compiler = Compiler.load(Path(arguments[0])) if arguments else None
    # Without this, garbage collections in the children would copy the pages that they share.
    gc.collect()
    gc.freeze()
    control.send(READY)
    children: list[Child] = []
    while True:
        children = [child for child in children if child.goes_on()]
        wait = min((child.look for child in children), default=None)
        patience = None if wait is None else max(wait - time.monotonic(), 0.0)
        if not select.select([control], [], [], patience)[0]:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, 32, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as channel:
            if (pid := os.fork()) == 0:
                _child(channel, compiler)
        if (child := Child.of(pid, float(message))) is not None:
            children.append(child)


@dataclass(slots=True)
class Child:
    """The process of one job. `look` is the time of its next check, by the monotonic clock."""

    pid: int
    pidfd: int
    seconds: float
    look: float

    @classmethod
    def of(cls, pid: int, seconds: float) -> Child | None:
        """None if it has ended already."""
        try:
            return cls(pid, os.pidfd_open(pid), seconds, time.monotonic() + seconds)
        except ProcessLookupError:
            return None

    def goes_on(self) -> bool:
        """Whether it still runs. Kills it after `seconds` of processor time, in case its own timers have failed."""
        if time.monotonic() < self.look:
            return True
        try:
            left = self.seconds - _processor_seconds(self.pid)
            if left > 0:
                self.look += max(left, 0.05)
                return True
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            pass
        os.close(self.pidfd)
        return False


def _processor_seconds(pid: int) -> float:
    """The processor time of all its threads. Raises FileNotFoundError or ProcessLookupError if it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _child(channel: socket.socket, compiler: Compiler | None) -> None:
    """Never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _bound_memory()
        file: Any
        with channel.makefile("rwb") as file:
            file.write(TAKEN + b"\n")
            file.flush()
            header = json.loads(file.readline())
            signal.setitimer(signal.ITIMER_REAL, header.get("wall", header["budget"]))
            signal.setitimer(signal.ITIMER_PROF, header["budget"])
            _serve(header, file, compiler)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    bound = pages * resource.getpagesize() + JOB_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard >= bound:
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))


def _serve(header: dict[str, Any], file: BinaryIO, compiler: Compiler | None) -> None:
    try:
        rest = file.read()
        if header["kind"] == "validate":
            _answer(file, {"problems": inspection.problems(*json.loads(rest))})
            return
        assert compiler is not None
        step_back()
        if header["kind"] == "cost":
            _cost(rest, file, compiler, header)
            return
        constraint = compiler.compile(rest, header)
        kept = {"structural_tag": constraint.structural_tag, "relaxed": constraint.relaxed}
        _answer(file, {**kept, "processor": time.process_time()})
    except ServingError as error:
        fields = {"code": error.code, "field": error.field, "detail": error.detail}
        _answer(file, {"error": fields, "processor": time.process_time()})
    except (MemoryError, RecursionError):
        # Without an answer the job counts as dead: the schema was too much.
        return
    except Exception:
        # A defect of ours must not fail the request: without an answer the schema is given up, and the log says why.
        traceback.print_exc()


def _cost(given: bytes, file: BinaryIO, compiler: Compiler, header: dict[str, Any]) -> None:
    conversation, bounds = job.decode_job(given)
    for path, alone in job.places(conversation).items():
        _answer(file, {"at": path})
        began = time.process_time()
        with suppress(ServingError):
            compiler.compile(job.encode_job(alone, bounds), header)
        _answer(file, {"seconds": time.process_time() - began})


def _answer(file: BinaryIO, value: dict[str, Any]) -> None:
    file.write(json.dumps(value).encode() + b"\n")
    file.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
