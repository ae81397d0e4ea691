"""Whatever happens to a request, in whatever order, it ends exactly once and nothing comes after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kimi_k2_serving.core.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineLost,
    Internal,
    Overloaded,
    ServingError,
    ShuttingDown,
)
from kimi_k2_serving.engine.lifecycle import Action, Lifecycle, Phase, SendChunk, SendError, SendLast, StartRun, StopRun
from kimi_k2_serving.engine.port import Chunk, End, EndReason, TokenUsage

INTERRUPTIONS = (Cancelled("x"), DeadlineExceeded("x"), ShuttingDown("x"), Overloaded("x"), Internal("x"))
LOSSES = (EngineLost("x"), Overloaded("x"), Internal("x"))


TOKEN = Chunk((1,), "a", TokenUsage())
LAST = Chunk((2,), "b", TokenUsage(), End(EndReason.STOP))
ERROR = Internal("x")
EVENTS: dict[str, Callable[[Lifecycle], list[Action]]] = {
    "admit": Lifecycle.admit,
    "token": lambda life: life.receive(TOKEN),
    "last token": lambda life: life.receive(LAST),
    "lose": lambda life: life.lose(ERROR),
    "interrupt": lambda life: life.interrupt(ERROR),
}
# What each event does in each phase, and the phase that it leads to.
TRANSITIONS: dict[tuple[Phase, str], tuple[list[Action], Phase]] = {
    (Phase.WAITING, "admit"): ([StartRun()], Phase.RUNNING),
    (Phase.WAITING, "interrupt"): ([SendError(ERROR)], Phase.ENDED),
    (Phase.RUNNING, "token"): ([SendChunk(TOKEN)], Phase.RUNNING),
    (Phase.RUNNING, "last token"): ([SendLast(LAST)], Phase.ENDED),
    (Phase.RUNNING, "lose"): ([SendError(ERROR)], Phase.ENDED),
    (Phase.RUNNING, "interrupt"): ([StopRun(), SendError(ERROR)], Phase.ENDED),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("phase", Phase)
def test_an_event_does_what_its_phase_allows_and_else_nothing(phase: Phase, event: str) -> None:
    life = Lifecycle()
    life.phase = phase
    assert (EVENTS[event](life), life.phase) == TRANSITIONS.get((phase, event), ([], phase))


class Life(RuleBasedStateMachine):
    """Every event at any time; `run` is the engine's side: none, open or over."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Lifecycle()
        self.done: list[Action] = []
        self.run = "none"

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.endings(), "something after the ending"
            match action:
                case StartRun():
                    assert self.run == "none", "submitted twice"
                    self.run = "open"
                case StopRun():
                    assert self.run == "open", "aborted what does not run"
                    self.run = "over"
            self.done.append(action)

    def endings(self) -> list[Action]:
        return [action for action in self.done if isinstance(action, SendLast | SendError)]

    @rule()
    def admit(self) -> None:
        self.perform(self.session.admit())

    @rule()
    def token(self) -> None:
        actions = self.session.receive(Chunk((1,), "a", TokenUsage()))
        assert bool(actions) == (self.run == "open")
        self.perform(actions)

    @rule(reason=st.sampled_from(EndReason))
    def last_token(self, reason: EndReason) -> None:
        actions = self.session.receive(Chunk((1,), "a", TokenUsage(), End(reason)))
        assert bool(actions) == (self.run == "open")
        if actions:
            self.run = "over"
        self.perform(actions)

    @rule(error=st.sampled_from(LOSSES))
    def crash(self, error: ServingError) -> None:
        actions = self.session.lose(error)
        assert actions == ([SendError(error)] if self.run == "open" else [])
        if actions:
            self.run = "over"
        self.perform(actions)

    @rule(error=st.sampled_from(INTERRUPTIONS))
    def interrupt(self, error: ServingError) -> None:
        ended = bool(self.endings())
        actions = self.session.interrupt(error)
        assert bool(actions) == (not ended)
        self.perform(actions)

    @invariant()
    def it_has_ended_once_if_it_has_ended(self) -> None:
        assert len(self.endings()) == (self.session.phase is Phase.ENDED)

    @invariant()
    def no_run_is_left_behind(self) -> None:
        assert self.session.phase is not Phase.ENDED or self.run != "open"

    def teardown(self) -> None:
        self.perform(self.session.interrupt(ShuttingDown("x")))
        assert len(self.endings()) == 1


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=30)


def test_a_life_without_incident_is_submitted_delivered_and_finished() -> None:
    session = Lifecycle()
    first, last = Chunk((1,), "a", TokenUsage()), Chunk((2,), "b", TokenUsage(), End(EndReason.STOP))
    assert [session.admit(), session.receive(first), session.receive(last)] == [
        [StartRun()],
        [SendChunk(first)],
        [SendLast(last)],
    ]
