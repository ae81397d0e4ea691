"""Constraints under a budget: what a conversation's answer is held to, made and compiled in a process that may die.

An outcome is remembered by what determines it, good or bad, so a conversation pays once and a hit waits for nobody.
What passes the budget, or kills the process, is an InvalidSchema that names the schema; it is remembered for a while
only, because a busy machine is slow too. Jobs are served in the order in which they came, LANES at a time. Thread-safe.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.errors import Internal, InvalidSchema, LimitExceeded, Overloaded, ServingError, ShuttingDown
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.bounds import Bounds
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.grammar.outcomes import Outcome, Outcomes, Refusal
from kimi_k2_serving.grammar.worker_process import Worker

logger = logging.getLogger(__name__)

BUDGET_SECONDS = 2.0
# For finding out which of several schemas took the budget.
BLAME_SECONDS = 2.0
WALK_SECONDS = 300.0
LANES = 2
# Unknown conversations that may wait: at their worst they wait for each other.
MOST_WAITING = 256
_ERRORS: dict[str, type[ServingError]] = {kind.code: kind for kind in (InvalidSchema, LimitExceeded)}


@dataclass(frozen=True, slots=True)
class Walked:
    """`seconds` that constraint and compile took; `walks` as lists of ids with whether each reached an end."""

    seconds: float
    walks: tuple[tuple[tuple[int, ...], bool], ...]


class Enforcer:
    """`worker` is its own: started with it and closed with it. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        worker: Worker,
        *,
        bounds: Bounds,
        budget: float = BUDGET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.worker = worker
        self._bounds = bounds
        self._budget = budget
        self._lanes = ThreadPoolExecutor(LANES, thread_name_prefix="grammar")
        self._lock = threading.Lock()
        self._outcomes = Outcomes(clock)
        self._waiting: dict[bytes, list[Future[Constraint]]] = {}
        self._closed = False

    def __enter__(self) -> Enforcer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, conversation: Conversation) -> Future[Constraint]:
        """Done already where the outcome is known; cancel it when nobody waits any more. It raises InvalidSchema or
        LimitExceeded with the path inside the request, Overloaded, ShuttingDown or Internal.
        """
        return self.ask_job(self.job(conversation))

    def job(self, conversation: Conversation) -> bytes:
        """What `ask_job` takes for it: b"" where there is nothing to constrain."""
        return jobs.encode(conversation, self._bounds) if jobs.constrained(conversation) else b""

    def ask_job(self, job: bytes) -> Future[Constraint]:
        """`ask`, of a conversation that was made a job elsewhere."""
        future: Future[Constraint] = Future()
        if not job:
            future.set_result(Constraint(None))
            return future
        key = hashlib.sha256(job).digest()
        with self._lock:
            outcome = self._outcomes.get(key) or self._refusal(key)
            if outcome is None:
                waiting = self._waiting.setdefault(key, [])
                waiting.append(future)
                if len(waiting) == 1:
                    try:
                        self._lanes.submit(self._work, key, job)
                    except RuntimeError:
                        # No thread is to be had: who asks for this next must not wait for a job that nobody does.
                        logger.exception("a lane could not be started")
                        del self._waiting[key]
                        outcome = Refusal(Overloaded, "too busy for a new schema; retry in 1 s")
        if outcome is not None:
            _settle(future, outcome)
        return future

    def constrain(self, conversation: Conversation) -> Constraint:
        """`ask`, waited for."""
        return self.ask(conversation).result()

    def walk(self, conversation: Conversation, *, walks: int, most: int, seed: int) -> Walked:
        """Constrain and compile within the budget, then draw answers by dice. Raises as `ask`, or Internal."""
        given: dict[str, Any] = {"walks": walks, "most": most, "seed": seed, "patience": WALK_SECONDS}
        answer = self._ask("walk", jobs.encode(conversation, self._bounds), self._budget + WALK_SECONDS, **given)
        if answer is None:
            self.constrain(conversation)
            raise Internal("the grammar could not be walked")
        if "error" in answer:
            raise _refusal(answer["error"]).error()
        return Walked(answer["seconds"], tuple((tuple(each["ids"]), bool(each["ended"])) for each in answer["walks"]))

    def close(self) -> None:
        """End the worker, and whoever still waits with ShuttingDown."""
        with self._lock:
            self._closed = True
            waiting = list(itertools.chain.from_iterable(self._waiting.values()))
            self._waiting.clear()
        self.worker.close()
        self._lanes.shutdown(wait=False, cancel_futures=True)
        for future in waiting:
            _settle(future, Refusal(ShuttingDown, "the server is stopping; send the request again"))

    def _refusal(self, key: bytes) -> Refusal | None:
        """Called with the lock held."""
        if self._closed:
            return Refusal(ShuttingDown, "the server is stopping; send the request again")
        if key not in self._waiting and len(self._waiting) >= MOST_WAITING:
            return Refusal(Overloaded, "too many new schemas at once; retry in 1 s")
        return None

    def _work(self, key: bytes, job: bytes) -> None:
        with self._lock:
            if all(future.cancelled() for future in self._waiting.get(key, ())):
                self._waiting.pop(key, None)
                return
        outcome: Outcome
        try:
            outcome = self._outcome(job)
        except ServingError as error:
            outcome = Refusal.of(error)
        except Exception:
            logger.exception("a constraint failed")
            outcome = Refusal(Internal, "an internal error; see the server's log")
        with self._lock:
            self._outcomes.add(key, outcome)
            waiting = self._waiting.pop(key, [])
        for future in waiting:
            _settle(future, outcome)

    def _outcome(self, job: bytes) -> Outcome:
        answer = self._ask("constrain", job, self._budget)
        if answer is None:
            detail = f"takes more than {self._budget:g} s to compile to a grammar; simplify it"
            return Refusal(InvalidSchema, detail, self._blame(job), passing=True)
        if "error" not in answer:
            return Constraint(answer["structural_tag"], tuple(answer["relaxed"]))
        refusal = _refusal(answer["error"])
        if refusal.field == jobs.SOMEWHERE:
            return Refusal(refusal.kind, refusal.detail, self._blame(job))
        return refusal

    def _ask(self, kind: str, job: bytes, seconds: float, **more: Any) -> dict[str, Any] | None:
        """The one line of an answer; None if the job died. Raises Internal."""
        lines = self.worker.ask({"kind": kind, "budget": self._budget, **more}, job, seconds=seconds)
        return lines[-1][1] if lines else None

    def _blame(self, job: bytes) -> str:
        """The path of the schema that is refused alone, or that takes longest alone, as far as that can be told."""
        conversation, _ = jobs.decode(job)
        places = list(jobs.places(conversation))
        if len(places) <= 1:
            return places[0] if places else jobs.SOMEWHERE
        lines = self.worker.ask({"kind": "blame", "budget": BLAME_SECONDS}, job, seconds=BLAME_SECONDS)
        refused = [line["refused"] for _, line in lines if "refused" in line]
        if refused:
            return str(refused[0])
        times = [at for at, _ in lines]
        # The last was never finished, or the end came after it.
        took = [later - earlier for earlier, later in itertools.pairwise([*times, time.monotonic()])]
        slowest = max(zip(took, (line["at"] for _, line in lines), strict=True), default=(0.0, jobs.SOMEWHERE))
        return str(slowest[1])


def _refusal(error: dict[str, str]) -> Refusal:
    kind = _ERRORS.get(error["code"])
    if kind is None:
        return Refusal(Internal, "an internal error; see the server's log")
    return Refusal(kind, error["detail"], error["field"])


def _settle(future: Future[Constraint], outcome: Outcome) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Refusal):
        future.set_exception(outcome.error())
    else:
        future.set_result(outcome)
