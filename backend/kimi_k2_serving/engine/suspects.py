"""Finds the request that kills the engine. Decides which requests start, wait or are refused, and which deaths count.
Pure: the clock is an argument. It stands still while the engine is down.

Each death is recorded with the requests that were in the engine. With at most one unexplained death and no killer in
WINDOW seconds, every request starts at once. Otherwise requests start on trial, in order of arrival: GROUP at a time,
from the third unexplained death one at a time (a killer counts as two). A request that was present at two deaths, or
was the only one on trial at a death, is a suspect. Its trial starts only when the other requests in the engine have run
for SETTLED_SECONDS, and no other request starts during it. The suspect passes when the engine survives it for as long
as it did before a death; if that is longer than the trial may take, doubt remains until a second, longer trial. Any
other request, a stranger, passes with its first output. A suspect on trial when the engine dies is the killer: it is
refused for REFUSED_SECONDS, and every death at which it was present is explained. Explained deaths do not count towards
giving up the engine. Neither does a death with a single stranger on trial, which is a suspect if it comes again.

A request waits at most WAIT_SECONDS. A trial stops blocking others after TRIAL_SECONDS if the engine moves. A retry has
a new uid, so a request is identified by its content without the parameters that a retry may change.
"""

from __future__ import annotations

import enum
import hashlib
from array import array
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import msgspec

from kimi_k2_serving.core.errors import EngineUnavailable, RequestQuarantined, ServingError
from kimi_k2_serving.engine.port import Generation

CRASHES = 5
WINDOW = 600.0
REFUSED_SECONDS = 600.0
WAIT_SECONDS = 60.0
# In seconds: the longest first trial of a suspect, its longest later trial, and the age from which a stranger's output
# counts.
SUSPECT_SECONDS, TRIAL_SECONDS, STRANGER_SECONDS = 5.0, 30.0, 0.2
# A suspect's trial starts when every other request in the engine has run for this long or has passed a trial alone.
SETTLED_SECONDS = 2.0
# A suspect's trial lasts this much longer than the engine survived it before.
MARGIN = 1.0
GROUP = 8
# Each entry is made by a death of the engine, so entries normally expire before these bounds are reached.
DEATHS_KEPT, REFUSED_KEPT = 64, 1024
# Parameters that a client may change in a retry, and those that this server sets depending on `stream`.
RETRY_MAY_CHANGE = frozenset({"max_new_tokens", "sampling_seed", "stream_interval", "no_stop_trim"})


def fingerprint(generation: Generation) -> str:
    """A hash of the content. It leaves out uid, priority, cache salt and length, because they do not make a request a
    killer.
    """
    kept = {name: value for name, value in generation.sampling.items() if name not in RETRY_MAY_CHANGE}
    made = hashlib.blake2b(array("q", generation.input_ids).tobytes(), digest_size=16)
    made.update(msgspec.json.encode([kept, generation.top_logprobs, generation.prompt_logprobs], order="sorted"))
    return made.hexdigest()


class Stage(enum.Enum):
    WAITING = "waiting"
    TRIAL = "trial"
    # The trial took too long. Others may start beside this request, which is neither proven harmless nor a killer.
    OVERDUE = "overdue"
    PROVEN = "proven"


@dataclass(slots=True)
class Turn:
    """One request from arrival to end. `since`: when it arrived, then when it started. `needed`: the age in seconds
    from which an output proves it harmless. `alone`: whether it is on trial as a suspect. `brief`: whether `needed` is
    shorter than the engine survived it before; then it may still be the killer.
    """

    generation: Generation
    since: float
    stage: Stage = Stage.WAITING
    needed: float = 0.0
    alone: bool = False
    brief: bool = False
    # The cached fingerprint. It is needed, and computed, only once the engine has died.
    known: str = ""

    @property
    def fingerprint(self) -> str:
        if not self.known:
            self.known = fingerprint(self.generation)
        return self.known


@dataclass(slots=True)
class Death:
    """`ages`: seconds in the engine by fingerprint. `convict`: the fingerprint that explains this death. `caught`: it
    was convicted at this death, whose other requests therefore stay under suspicion. `tried`: the only stranger on
    trial.
    """

    at: float
    ages: dict[str, float] = field(default_factory=dict)
    convict: str = ""
    caught: bool = False
    tried: str = ""


@dataclass(frozen=True, slots=True)
class TrialDecision:
    """`refusal` is None for a request that starts now."""

    uid: str
    refusal: ServingError | None = None


class Suspects:
    def __init__(self) -> None:
        # By uid, in order of arrival.
        self._turns: dict[str, Turn] = {}
        self._queue: deque[str] = deque()
        self._deaths: deque[Death] = deque(maxlen=DEATHS_KEPT)
        # By fingerprint: when its refusal ends, and when it last passed a trial as a suspect.
        self._refused: OrderedDict[str, float] = OrderedDict()
        self._passed: dict[str, float] = {}

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return sum(turn.stage is not Stage.WAITING for turn in self._turns.values())

    def arrive(self, uid: str, generation: Generation, now: float) -> None:
        self._turns[uid] = Turn(generation, now)
        self._queue.append(uid)

    def settle(self, now: float, *, moving: bool = True) -> list[TrialDecision]:
        """The requests that start or are refused now. Call it after every event, and often while requests wait.
        `moving`: whether the engine makes progress. Only then does an overdue trial let others start, because in a hung
        engine they would hang, too.
        """
        self._expire(now)
        if moving:
            self._mark_overdue(now)
        decisions = []
        while self._queue:
            turn = self._turns.get(self._queue[0])
            if turn is not None and turn.stage is Stage.WAITING:
                refusal = self._refusal(turn, now)
                if refusal is None and not self._begin(turn, now):
                    break
                if refusal is not None:
                    del self._turns[self._queue[0]]
                decisions.append(TrialDecision(self._queue[0], refusal))
            self._queue.popleft()
        return decisions

    def on_trial(self, uid: str) -> bool:
        turn = self._turns.get(uid)
        return turn is not None and turn.stage is Stage.TRIAL

    def output(self, uid: str, now: float) -> bool:
        """Record an output of this request. Returns True if it ended a trial, so that others may start."""
        turn = self._turns.get(uid)
        if turn is None or turn.stage is Stage.PROVEN or now - turn.since < turn.needed:
            return False
        self._pass_trial(turn, now)
        return True

    def leave(self, uid: str, now: float, *, served: bool) -> None:
        """Remove an ended request; unknown uids are ignored. `served`: the engine finished it, without an abort."""
        turn = self._turns.pop(uid, None)
        if turn is not None and served:
            self._pass_trial(turn, now)

    def died(self, now: float) -> str:
        """Record a death of the engine, and forget all requests, waiting ones too. Returns the fingerprint that is
        refused from now on, or "" if no killer was found.
        """
        turns = [turn for turn in self._turns.values() if turn.stage is not Stage.WAITING]
        death = Death(now)
        for turn in turns:
            age = now - turn.since
            death.ages[turn.fingerprint] = min(age, death.ages.get(turn.fingerprint, age))
        self._turns.clear()
        self._queue.clear()
        self._deaths.append(death)
        self._expire(now)
        tried = {turn.fingerprint for turn in turns if turn.stage in (Stage.TRIAL, Stage.OVERDUE)}
        if len(tried) != 1 or any(turn.brief and turn.stage is Stage.PROVEN for turn in turns):
            return ""
        (known,) = tried
        if not any(turn.alone and turn.fingerprint == known for turn in turns):
            death.tried = known
            return ""
        death.caught = True
        self._convict(known, now)
        return known

    def given_up(self, now: float) -> bool:
        """Whether CRASHES deaths within WINDOW seconds count, which is when the engine is given up."""
        counted = [death for death in self._deaths if not death.convict and not death.tried]
        return sum(now - death.at < WINDOW for death in counted) >= CRASHES

    def _convict(self, known: str, now: float) -> None:
        self._refused[known] = now + REFUSED_SECONDS
        self._refused.move_to_end(known)
        while len(self._refused) > REFUSED_KEPT:
            self._refused.popitem(last=False)
        for death in self._deaths:
            if known in death.ages:
                if death.convict and death.convict != known:
                    # Another request was convicted wrongly, because this one had passed a trial that was too short.
                    self._refused.pop(death.convict, None)
                death.convict = known

    def _expire(self, now: float) -> None:
        while self._deaths and now - self._deaths[0].at >= WINDOW:
            self._deaths.popleft()
        self._refused = OrderedDict((known, until) for known, until in self._refused.items() if now < until)
        self._passed = {known: at for known, at in self._passed.items() if now - at < WINDOW}

    def _mark_overdue(self, now: float) -> None:
        for turn in self._turns.values():
            if turn.stage is Stage.TRIAL and now - turn.since >= TRIAL_SECONDS:
                turn.stage = Stage.OVERDUE

    def _trial_places(self) -> int | None:
        """How many requests may be on trial at a time; None if requests start without a trial."""
        level = sum(bool(death.ages) and not death.convict for death in self._deaths)
        if any(death.convict for death in self._deaths):
            # A client that sent one killer is likely to send another.
            level += 2
        return None if level < 2 else GROUP if level == 2 else 1

    def _refusal(self, turn: Turn, now: float) -> ServingError | None:
        if self._refused:
            until = self._refused.get(turn.fingerprint)
            if until is not None:
                left = max(1.0, until - now)
                return RequestQuarantined(
                    f"this request crashed the engine and is refused for now; retry in {left:.0f} s", retry_after=left
                )
        if now - turn.since >= WAIT_SECONDS:
            return EngineUnavailable(
                "the engine starts requests one by one to find the one that crashes it; retry in 5 s", retry_after=5.0
            )
        return None

    def _begin(self, turn: Turn, now: float) -> bool:
        places = self._trial_places()
        if places is None:
            turn.stage = Stage.PROVEN
            turn.since = now
            return True
        ages = self._suspicion(turn.fingerprint)
        trials = [other for other in self._turns.values() if other.stage is Stage.TRIAL]
        if len(trials) >= (1 if ages else places) or any(other.alone for other in trials):
            return False
        if ages and any(other.stage is Stage.PROVEN and self._unsettled(other, now) for other in self._turns.values()):
            return False
        retrial = turn.fingerprint in self._passed
        lived = min(ages) + MARGIN if ages else STRANGER_SECONDS
        turn.needed = min(lived, TRIAL_SECONDS if retrial else SUSPECT_SECONDS)
        turn.alone = bool(ages)
        turn.brief = lived > turn.needed and not retrial
        turn.stage = Stage.TRIAL
        turn.since = now
        return True

    def _unsettled(self, turn: Turn, now: float) -> bool:
        return not turn.alone and now - turn.since < SETTLED_SECONDS

    def _suspicion(self, known: str) -> list[float]:
        """A suspect's ages at the deaths since its last trial at which it was present; empty if it is no suspect."""
        passed = self._passed.get(known)
        deaths = [
            death
            for death in self._deaths
            if known in death.ages and (death.caught or not death.convict) and (passed is None or death.at > passed)
        ]
        suspected = len(deaths) >= 2 or any(passed is not None or death.tried == known for death in deaths)
        return [death.ages[known] for death in deaths] if suspected else []

    def _pass_trial(self, turn: Turn, now: float) -> None:
        if turn.alone:
            self._passed[turn.fingerprint] = now
        turn.stage = Stage.PROVEN
