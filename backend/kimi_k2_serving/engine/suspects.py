"""Which request kills the engine: who may begin, who waits, who is refused, and which deaths count. Pure: the clock is
an argument, and stands still while the engine is down.

A death is recorded with the requests that were in the engine. While at most one in WINDOW seconds is unexplained,
everyone begins at once. After that requests begin on trial, in order: GROUP of them at a time, and from the third
unexplained death on one at a time. Whoever was there twice, or was the only one on trial, is a suspect and on trial
alone: nobody else begins, and those in the engine have shown for a while that it lives under them. A trial is passed by
living on: a stranger until its first output, a suspect for as long as the engine lived under it before (one that had to
be cut short leaves a doubt, until it is repeated at its full length). A suspect on trial when the engine dies is the
killer: it is refused for REFUSED_SECONDS, and every death that it was there for is explained. Deaths count towards
giving up unless they are explained, or there was one stranger on trial: it will be a suspect, if it ever comes again.

Nobody waits for more than WAIT_SECONDS, and a trial gives way after TRIAL_SECONDS while the engine moves. Retries come
under new uids: a request is known by its content, less what a retry may change.
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
# A suspect's first trial, any later one, and a stranger's, each at the most or least.
SUSPECT_SECONDS, TRIAL_SECONDS, STRANGER_SECONDS = 5.0, 30.0, 0.2
# A suspect begins when what else is in the engine has lived for so long, or has passed as a suspect.
SETTLED_SECONDS = 2.0
# How much longer than the engine lived under it before a suspect is watched.
MARGIN = 1.0
GROUP = 8
# Each takes a death of the engine, so these are never reached by much else than time.
DEATHS_KEPT, REFUSED_KEPT = 64, 1024
# What a retry may ask otherwise, and what streaming or not adds.
RETRY_MAY_CHANGE = frozenset({"max_new_tokens", "sampling_seed", "stream_interval", "no_stop_trim"})


def fingerprint(generation: Generation) -> str:
    """Of the content alone: who asks, how urgently and for how long makes no difference to what kills the engine."""
    kept = {name: value for name, value in generation.sampling.items() if name not in RETRY_MAY_CHANGE}
    made = hashlib.blake2b(array("q", generation.input_ids).tobytes(), digest_size=16)
    made.update(msgspec.json.encode([kept, generation.top_logprobs], order="sorted"))
    return made.hexdigest()


class Stage(enum.Enum):
    WAITING = "waiting"
    TRIAL = "trial"
    # Its trial took too long: others go on beside it, and nothing is known of it.
    OVERDUE = "overdue"
    PROVEN = "proven"


@dataclass(slots=True)
class Turn:
    """One request from arrival to end. `needed`: the age, in seconds, at which an output proves it. `brief`: that is
    less than the engine lived under it before, so it may be the killer still.
    """

    generation: Generation
    since: float
    stage: Stage = Stage.WAITING
    needed: float = 0.0
    alone: bool = False
    brief: bool = False
    # Made when it is first asked for: in quiet times nobody does.
    known: str = ""

    @property
    def fingerprint(self) -> str:
        if not self.known:
            self.known = fingerprint(self.generation)
        return self.known


@dataclass(slots=True)
class Death:
    """`ages` in seconds, by fingerprint. `convict` is the fingerprint that explains it; `caught`: found at this very
    death, so that whoever was there too remains as the other explanation. `tried`: the only stranger on trial.
    """

    at: float
    ages: dict[str, float] = field(default_factory=dict)
    convict: str = ""
    caught: bool = False
    tried: str = ""


@dataclass(frozen=True, slots=True)
class TrialDecision:
    """`refusal` is None for a request that begins now."""

    uid: str
    refusal: ServingError | None = None


class Suspects:
    def __init__(self) -> None:
        # By uid, in order of arrival.
        self._turns: dict[str, Turn] = {}
        self._line: deque[str] = deque()
        self._deaths: deque[Death] = deque(maxlen=DEATHS_KEPT)
        # Until when each fingerprint is refused; and when each suspect passed its last trial.
        self._refused: OrderedDict[str, float] = OrderedDict()
        self._passed: dict[str, float] = {}

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return sum(turn.stage is not Stage.WAITING for turn in self._turns.values())

    def arrive(self, uid: str, generation: Generation, now: float) -> None:
        self._turns[uid] = Turn(generation, now)
        self._line.append(uid)

    def settle(self, now: float, *, moving: bool = True) -> list[TrialDecision]:
        """Who begins now, who is refused. To be asked after every event, and often while anyone waits. `moving`: the
        engine works; a trial gives way to others only then, as they would hang with it.
        """
        self._forget(now)
        if moving:
            self._hurry(now)
        decisions = []
        while self._line:
            turn = self._turns.get(self._line[0])
            if turn is not None and turn.stage is Stage.WAITING:
                refusal = self._refusal(turn, now)
                if refusal is None and not self._begin(turn, now):
                    break
                if refusal is not None:
                    del self._turns[self._line[0]]
                decisions.append(TrialDecision(self._line[0], refusal))
            self._line.popleft()
        return decisions

    def on_trial(self, uid: str) -> bool:
        turn = self._turns.get(uid)
        return turn is not None and turn.stage is Stage.TRIAL

    def output(self, uid: str, now: float) -> bool:
        """The engine has answered something. True if that ended a trial: others may begin."""
        turn = self._turns.get(uid)
        if turn is None or turn.stage is Stage.PROVEN or now - turn.since < turn.needed:
            return False
        self._pass(turn, now)
        return True

    def leave(self, uid: str, now: float, *, served: bool) -> None:
        """The request has ended in whatever way; unknown uids are ignored. `served`: by the engine, to its own end."""
        turn = self._turns.pop(uid, None)
        if turn is not None and served:
            self._pass(turn, now)

    def died(self, now: float) -> str:
        """The engine has: whoever was in it is recorded and gone, and so are those that waited. Returns the
        fingerprint that is refused from now on, "" if none was found.
        """
        turns = [turn for turn in self._turns.values() if turn.stage is not Stage.WAITING]
        death = Death(now)
        for turn in turns:
            age = now - turn.since
            death.ages[turn.fingerprint] = min(age, death.ages.get(turn.fingerprint, age))
        self._turns.clear()
        self._line.clear()
        self._deaths.append(death)
        self._forget(now)
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
        """Whether the engine has died too often for no request's fault."""
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
                    # Somebody else was taken for the killer, while this one had passed a trial that was too short.
                    self._refused.pop(death.convict, None)
                death.convict = known

    def _forget(self, now: float) -> None:
        while self._deaths and now - self._deaths[0].at >= WINDOW:
            self._deaths.popleft()
        self._refused = OrderedDict((known, until) for known, until in self._refused.items() if now < until)
        self._passed = {known: at for known, at in self._passed.items() if now - at < WINDOW}

    def _hurry(self, now: float) -> None:
        for turn in self._turns.values():
            if turn.stage is Stage.TRIAL and now - turn.since >= TRIAL_SECONDS:
                turn.stage = Stage.OVERDUE

    def _room(self) -> int | None:
        """How many may be on trial at a time; None where there are no trials."""
        level = sum(bool(death.ages) and not death.convict for death in self._deaths)
        if any(death.convict for death in self._deaths):
            # Whoever sent it once sends another.
            level += 2
        return None if level < 2 else GROUP if level == 2 else 1

    def _refusal(self, turn: Turn, now: float) -> ServingError | None:
        if self._refused:
            until = self._refused.get(turn.fingerprint)
            if until is not None:
                left = max(1.0, until - now)
                return RequestQuarantined(
                    f"the engine died of this request: it is refused; retry in {left:.0f} s", retry_after=left
                )
        if now - turn.since >= WAIT_SECONDS:
            return EngineUnavailable(
                "the engine starts requests one by one, to find the one that kills it; retry in 5 s", retry_after=5.0
            )
        return None

    def _begin(self, turn: Turn, now: float) -> bool:
        room = self._room()
        if room is None:
            turn.stage = Stage.PROVEN
            turn.since = now
            return True
        ages = self._suspicion(turn.fingerprint)
        trials = [other for other in self._turns.values() if other.stage is Stage.TRIAL]
        if len(trials) >= (1 if ages else room) or any(other.alone for other in trials):
            return False
        if ages and any(other.stage is Stage.PROVEN and self._fresh(other, now) for other in self._turns.values()):
            return False
        again = turn.fingerprint in self._passed
        lived = min(ages) + MARGIN if ages else STRANGER_SECONDS
        turn.needed = min(lived, TRIAL_SECONDS if again else SUSPECT_SECONDS)
        turn.alone = bool(ages)
        turn.brief = lived > turn.needed and not again
        turn.stage = Stage.TRIAL
        turn.since = now
        return True

    def _fresh(self, turn: Turn, now: float) -> bool:
        return not turn.alone and now - turn.since < SETTLED_SECONDS

    def _suspicion(self, known: str) -> list[float]:
        """A suspect's ages at the deaths that it was there for, after its last trial; empty for others."""
        passed = self._passed.get(known)
        deaths = [
            death
            for death in self._deaths
            if known in death.ages and (death.caught or not death.convict) and (passed is None or death.at > passed)
        ]
        suspected = len(deaths) >= 2 or any(passed is not None or death.tried == known for death in deaths)
        return [death.ages[known] for death in deaths] if suspected else []

    def _pass(self, turn: Turn, now: float) -> None:
        if turn.alone:
            self._passed[turn.fingerprint] = now
        turn.stage = Stage.PROVEN
