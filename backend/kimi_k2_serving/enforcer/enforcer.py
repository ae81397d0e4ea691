"""Constraints under a budget: what a conversation's answer is held to, made and compiled in a process that may die.

An outcome is remembered by what determines it, good or bad, so a conversation pays once and a hit waits for nobody.
What passes the budget, or kills the process, is compiled once more with its most expensive parts given up, then with
whole schemas given up; that is remembered for a while only. LANES jobs at a time, cheap before expensive; what only
looked cheap is put back among the expensive. Thread-safe.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from kimi_k2_serving.core.errors import Internal, InvalidSchema, LimitExceeded, Overloaded, ServingError, ShuttingDown
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.enforcer.outcome_cache import Outcome, Outcomes, RememberedError
from kimi_k2_serving.enforcer.worker_client import Worker
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.grammar.lanes import EXPENSIVE, CompileLanes, guess
from kimi_k2_serving.json_schema.bounds import Bounds

logger = logging.getLogger(__name__)

# Of a processor: for the whole grammar, and for each try after it, with so many passes over the vocabulary.
BUDGET_SECONDS = 2.0
RELAXED_SECONDS = 1.0
# What looks cheap has this long to prove it; then it waits among the expensive, and a lane is free for the next.
PROBE_SECONDS = 0.4
RELAXED_PASSES = 8.0
# Of the clock, for all tries that hold something of every schema; the last one, which holds nothing, takes no time.
MOST_SECONDS = 15.0
# Schemas that are given up one after the other, before all are.
_SEARCHES = 3
# What schemas that are kept may have taken together, when each was compiled alone.
_KEPT_SECONDS = 0.7
LANES = 2
# Unknown conversations that may wait: at their worst they wait for each other.
MOST_WAITING = 256
_ERRORS: dict[str, type[ServingError]] = {kind.code: kind for kind in (InvalidSchema, LimitExceeded)}


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
        self.budget = budget
        self._lanes = CompileLanes(LANES)
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
        return jobs.encode_job(conversation, self._bounds) if jobs.constrained(conversation) else b""

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
                        self._lanes.submit(guess(job), functools.partial(self._work, key, job, guess(job)))
                    except RuntimeError:
                        # No thread is to be had: who asks for this next must not wait for a job that nobody does.
                        logger.exception("a lane could not be started")
                        del self._waiting[key]
                        outcome = RememberedError(Overloaded, "too busy for a new schema; retry in 1 s")
        if outcome is not None:
            _settle(future, outcome)
        return future

    def constrain(self, conversation: Conversation) -> Constraint:
        """`ask`, waited for."""
        return self.ask(conversation).result()

    def close(self) -> None:
        """End the worker, and whoever still waits with ShuttingDown."""
        with self._lock:
            self._closed = True
            waiting = list(itertools.chain.from_iterable(self._waiting.values()))
            self._waiting.clear()
        self.worker.close()
        self._lanes.shutdown()
        for future in waiting:
            _settle(future, RememberedError(ShuttingDown, "the server is stopping; send the request again"))

    def _refusal(self, key: bytes) -> RememberedError | None:
        """Called with the lock held."""
        if self._closed:
            return RememberedError(ShuttingDown, "the server is stopping; send the request again")
        if key not in self._waiting and len(self._waiting) >= MOST_WAITING:
            return RememberedError(Overloaded, "too many new schemas at once; retry in 1 s")
        return None

    def _work(self, key: bytes, job: bytes, cost: float) -> None:
        with self._lock:
            if all(future.cancelled() for future in self._waiting.get(key, ())):
                self._waiting.pop(key, None)
                return
        outcome: Outcome
        passing = False
        try:
            if cost <= EXPENSIVE:
                answer = self._tried(job, time.monotonic() + MOST_SECONDS, min(PROBE_SECONDS, self.budget))
                if answer is None:
                    self._lanes.submit(self.budget, functools.partial(self._work, key, job, self.budget))
                    return
                outcome = _read(answer)
            else:
                outcome, passing = self._outcome(job)
        except ServingError as error:
            outcome = RememberedError.of(error)
        except Exception:
            logger.exception("a constraint failed")
            outcome = RememberedError(Internal, "an internal error; see the server's log")
        with self._lock:
            self._outcomes.add(key, outcome, passing=passing)
            waiting = self._waiting.pop(key, [])
        for future in waiting:
            _settle(future, outcome)

    def _outcome(self, job: bytes) -> tuple[Outcome, bool]:
        """What is to be remembered, and whether only for a while."""
        deadline = time.monotonic() + MOST_SECONDS
        answer = self._tried(job, deadline, self.budget)
        if answer is not None:
            return _read(answer), False
        places = list(jobs.places(jobs.decode_job(job)[0]))
        free: list[str] = []
        answer = self._tried(job, deadline, RELAXED_SECONDS, passes=RELAXED_PASSES)
        for _ in range(_SEARCHES if len(places) > 1 else 0):
            if answer is not None or time.monotonic() >= deadline:
                break
            free += self._costly(job, deadline, free)
            answer = self._tried(job, deadline, RELAXED_SECONDS, passes=RELAXED_PASSES, free=free)
        if answer is None:
            answer = self._tried(job, time.monotonic() + MOST_SECONDS, RELAXED_SECONDS, free=places)
        if answer is None:
            return RememberedError(Overloaded, "the machine is too busy to compile a grammar; retry in 1 s"), True
        return _read(answer), True

    def _tried(self, job: bytes, deadline: float, seconds: float, **more: Any) -> dict[str, Any] | None:
        """None past the budget, and for a grammar that is too large for xgrammar."""
        wall = max(deadline - time.monotonic(), seconds)
        header = {"kind": "constrain", "budget": seconds, "wall": wall, **more}
        lines = self.worker.ask(header, job, seconds=wall)
        if not lines:
            return None
        answer = lines[-1][1]
        if "error" in answer and answer["error"]["field"] == jobs.SOMEWHERE:
            return None
        return answer

    def _costly(self, job: bytes, deadline: float, known: list[str]) -> list[str]:
        """The schemas that take too long, as far as one look tells: the one that does not end, or the slowest."""
        header = {"kind": "cost", "budget": BUDGET_SECONDS, "passes": RELAXED_PASSES, "free": known}
        wall = max(deadline - time.monotonic(), RELAXED_SECONDS)
        lines = [line for _, line in self.worker.ask({**header, "wall": wall}, job, seconds=wall)]
        paths = [str(line["at"]) for line in lines if "at" in line]
        spent = [float(line["seconds"]) for line in lines if "seconds" in line]
        if len(spent) < len(paths):
            # Of many the one under way at the end need not be the slowest.
            spent.append(max(BUDGET_SECONDS - sum(spent), 0.0))
            return [max(zip(spent, paths, strict=True))[1]]
        found: list[str] = []
        for seconds, path in sorted(zip(spent, paths, strict=True), reverse=True):
            if found and sum(spent) <= _KEPT_SECONDS:
                break
            found.append(path)
            spent.remove(seconds)
        return found


def _read(answer: dict[str, Any]) -> Outcome:
    if "error" in answer:
        return _refusal(answer["error"])
    return Constraint(answer["structural_tag"], tuple(answer["relaxed"]))


def _refusal(error: dict[str, str]) -> RememberedError:
    kind = _ERRORS.get(error["code"])
    if kind is None:
        return RememberedError(Internal, "an internal error; see the server's log")
    return RememberedError(kind, error["detail"], error["field"])


def _settle(future: Future[Constraint], outcome: Outcome) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, RememberedError):
        future.set_exception(outcome.error())
    else:
        future.set_result(outcome)
