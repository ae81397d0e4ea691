"""The constraint of a conversation's answer, made and compiled within a time budget in a process that may die.

Outcomes, good or bad, are cached, so a conversation pays once, and a request with a cached schema never waits. A schema
that exceeds the budget or kills the process is compiled again with its most expensive parts given up, then with whole
schemas given up; such an outcome is cached for a short time only. LANES jobs run at a time, cheap before expensive; a
job that only looked cheap is put back among the expensive ones. Thread-safe.
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

from kimi_k2_serving.core.errors import (
    Internal,
    InvalidSchema,
    InvalidValue,
    LimitExceeded,
    Overloaded,
    ServingError,
    ShuttingDown,
)
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.enforcer.outcome_cache import Outcome, Outcomes, RememberedError
from kimi_k2_serving.enforcer.worker_client import Worker
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.grammar.lanes import EXPENSIVE, CompileLanes, guess
from kimi_k2_serving.json_schema.bounds import Bounds

logger = logging.getLogger(__name__)

# Processor time for the whole grammar, and for each try after it, which may take RELAXED_PASSES over the vocabulary.
BUDGET_SECONDS = 2.0
RELAXED_SECONDS = 1.0
# A job that looks cheap gets this much processor time; then it waits among the expensive ones and frees its lane.
PROBE_SECONDS = 0.4
RELAXED_PASSES = 8.0
# Wall-clock time for all tries that compile any schema. The last try, which compiles none, takes almost no time.
MOST_SECONDS = 15.0
# How many times the most expensive schemas are searched for and given up before all schemas are.
_SEARCHES = 3
# How much time the schemas that are kept may have taken together, when each was compiled alone.
_KEPT_SECONDS = 0.7
LANES = 2
# How many unknown jobs may wait. At worst each of them waits for all others.
MOST_WAITING = 256
_ERRORS: dict[str, type[ServingError]] = {kind.code: kind for kind in (InvalidSchema, InvalidValue, LimitExceeded)}


class Enforcer:
    """Owns `worker`: `close` closes it. `clock` is monotonic, in seconds."""

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

    def job(self, conversation: Conversation) -> bytes:
        """The job of a conversation, for `ask_job`; b"" if its answer is not constrained."""
        return jobs.encode_job(conversation, self._bounds) if jobs.constrained(conversation) else b""

    def ask_job(self, job: bytes) -> Future[Constraint]:
        """The constraint of a job; done at once if the outcome is cached. Cancel it when nobody waits for it any more.

        It raises InvalidSchema, InvalidValue or LimitExceeded with the path inside the request, Overloaded,
        ShuttingDown or Internal.
        """
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
                        # Without a thread nobody does the job, so the next request for it must not wait for it.
                        logger.exception("no thread could be started to compile a grammar")
                        del self._waiting[key]
                        outcome = RememberedError(Overloaded, "no thread is left for a new schema; retry in 1 s")
        if outcome is not None:
            _settle(future, outcome)
        return future

    def close(self) -> None:
        """End the worker; requests that still wait fail with ShuttingDown."""
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
            return RememberedError(Overloaded, "too many requests with new schemas at once; retry in 1 s")
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
            logger.exception("making a constraint failed")
            outcome = RememberedError(Internal, "an internal error; see the server's log")
        with self._lock:
            self._outcomes.add(key, outcome, passing=passing)
            waiting = self._waiting.pop(key, [])
        for future in waiting:
            _settle(future, outcome)

    def _outcome(self, job: bytes) -> tuple[Outcome, bool]:
        """The outcome of a job, and whether it may only be cached for a short time."""
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
        """The answer to one try; None if it exceeds the budget, or the grammar is too large for xgrammar."""
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
        """The paths of schemas that take too long, judged by compiling each alone: an endless one, or the slowest."""
        header = {"kind": "cost", "budget": BUDGET_SECONDS, "passes": RELAXED_PASSES, "free": known}
        wall = max(deadline - time.monotonic(), RELAXED_SECONDS)
        lines = [line for _, line in self.worker.ask({**header, "wall": wall}, job, seconds=wall)]
        paths = [str(line["at"]) for line in lines if "at" in line]
        spent = [float(line["seconds"]) for line in lines if "seconds" in line]
        if len(spent) < len(paths):
            # The schema that was being compiled when the time was up need not be the slowest one.
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
