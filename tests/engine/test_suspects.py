"""Who is taken for the killer of the engine, who is served all the same, and when the engine is given up."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_k2_serving.core.errors import EngineUnavailable, RequestQuarantined
from kimi_k2_serving.engine.port import Generation
from kimi_k2_serving.engine.suspects import (
    CRASHES,
    GROUP,
    REFUSED_SECONDS,
    TRIAL_SECONDS,
    WAIT_SECONDS,
    WINDOW,
    Suspects,
    fingerprint,
)

KILLER = 666


def generation(content: int, uid: str = "u") -> Generation:
    return Generation(uid, [1, content], {"temperature": 1.0}, stream=True)


@dataclass(slots=True)
class World:
    """An engine that dies `after` seconds under a request whose content is in `killers`; others end after `length`."""

    killers: dict[int, float]
    length: float = 2.0
    now: float = 0.0
    deaths: int = 0
    suspects: Suspects = field(default_factory=Suspects)
    running: dict[str, tuple[int, float]] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    served: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    put_off: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    count: int = 0
    longest_wait: float = 0.0
    arrivals: dict[str, float] = field(default_factory=dict)

    def send(self, content: int) -> None:
        uid = str(self.count)
        self.count += 1
        self.suspects.arrive(uid, generation(content, uid), self.now)
        self.waiting[uid] = content
        self.arrivals[uid] = self.now
        self.settle()

    def settle(self) -> None:
        for decision in self.suspects.settle(self.now):
            content = self.waiting.pop(decision.uid)
            self.longest_wait = max(self.longest_wait, self.now - self.arrivals[decision.uid])
            match decision.refusal:
                case None:
                    self.running[decision.uid] = (content, self.now)
                case RequestQuarantined():
                    self.refused.append(content)
                case EngineUnavailable():
                    self.put_off.append(content)

    def step(self, seconds: float = 0.25) -> None:
        self.now += seconds
        self.settle()
        for _, (content, since) in list(self.running.items()):
            if content in self.killers and self.now - since >= self.killers[content]:
                self.die()
                return
        for uid, (content, since) in list(self.running.items()):
            self.suspects.output(uid, self.now)
            if self.now - since >= self.length:
                del self.running[uid]
                self.suspects.leave(uid, self.now, served=True)
                self.served.append(content)
        self.settle()

    def die(self) -> None:
        self.lost += [content for content, _ in self.running.values()] + list(self.waiting.values())
        self.running.clear()
        self.waiting.clear()
        self.suspects.died(self.now)
        self.deaths += 1
        self.now += 10

    def until_quiet(self) -> None:
        while self.running or self.waiting:
            self.step()


def lives_of(world: World, contents: list[int], tries: int) -> None:
    """Clients that send their request again, `tries` times at most, until it is served or refused as the killer."""
    left = dict.fromkeys(range(len(contents)), tries)
    for _ in range(tries):
        for client in list(left):
            if contents[client] in world.served or contents[client] in world.refused:
                del left[client]
            else:
                world.send(contents[client])
        world.until_quiet()


@pytest.mark.parametrize("after", [0.0, 0.25, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("innocents", [0, 1, 5, 30])
def test_a_killer_sent_again_and_again_is_the_one_that_is_refused(after: float, innocents: int) -> None:
    world = World({KILLER: after}, length=12.0)
    lives_of(world, [KILLER, *range(innocents)], tries=12)
    assert set(world.refused) == {KILLER}
    assert set(world.served) == set(range(innocents))
    assert not world.suspects.given_up(world.now)
    assert world.deaths <= CRASHES


def test_a_killer_alone_on_the_engine_costs_three_deaths() -> None:
    world = World({KILLER: 0.5})
    lives_of(world, [KILLER], tries=4)
    assert (world.deaths, world.refused) == (3, [KILLER])


def test_killers_of_ever_new_content_do_not_spend_the_budget() -> None:
    world = World({1000 + number: 0.25 for number in range(60)})
    for number in range(60):
        for innocent in range(4):
            world.send(number * 10 + innocent)
        world.send(1000 + number)
        world.until_quiet()
        assert not world.suspects.given_up(world.now), number
    assert world.deaths == 60


def test_several_killers_at_once_are_all_found() -> None:
    world = World({KILLER + number: 0.25 * number for number in range(4)})
    lives_of(world, [KILLER, 1, KILLER + 1, 2, KILLER + 2, 3, KILLER + 3], tries=20)
    assert set(world.refused) == set(world.killers)
    assert set(world.served) == {1, 2, 3}
    assert not world.suspects.given_up(world.now)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12),
    st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=10, max_size=10),
)
@settings(max_examples=200, deadline=None)
def test_whoever_comes_the_innocent_are_served_and_never_refused(
    clients: list[tuple[int, bool]], afters: list[float]
) -> None:
    """Killers that kill before or at their first outputs: whatever company they come in."""
    world = World({100 + number: after for number, after in enumerate(afters)})
    contents = [100 + number if kills else number for number, kills in clients]
    lives_of(world, contents, tries=40)
    assert set(world.served) == {each for each in contents if each < 100}
    assert set(world.refused) <= {each for each in contents if each >= 100}
    assert not world.suspects.given_up(world.now)
    assert world.longest_wait <= WAIT_SECONDS + 0.25


def test_deaths_with_nobody_in_the_engine_count() -> None:
    suspects = Suspects()
    for number in range(CRASHES):
        assert not suspects.given_up(number)
        assert suspects.died(number) == ""
    assert suspects.given_up(CRASHES)
    assert not suspects.given_up(WINDOW + CRASHES)


def test_deaths_under_requests_that_were_there_once_count() -> None:
    """Nobody is on trial when the engine dies of something else: those in it have all passed."""
    world = World({})
    for number in range(CRASHES):
        for other in range(3):
            world.send(number * 10 + other)
        for _ in range(3):
            world.step(0.5)
        assert world.running
        world.die()
    assert world.suspects.given_up(world.now)


def test_in_quiet_times_nobody_waits_and_nothing_is_computed() -> None:
    world = World({})
    for number in range(100):
        world.send(number)
    assert len(world.running) == 100
    assert not any(turn.known for turn in world.suspects._turns.values())


def test_after_two_deaths_a_group_begins_at_a_time_and_after_three_one() -> None:
    for deaths, most in ((1, 20), (2, GROUP), (3, 1)):
        world = World({})
        for number in range(deaths):
            world.send(1000 + number)
            world.step(0.25)
            if deaths == 3 and number == 2:
                world.send(2000)  # two on trial: nobody is convicted
            world.die()
        for number in range(20):
            world.send(number)
        assert len(world.running) == most


def test_a_refusal_ends_with_its_time() -> None:
    world = World({KILLER: 0.0})
    lives_of(world, [KILLER], tries=4)
    assert world.refused == [KILLER]
    world.now += REFUSED_SECONDS
    world.killers.clear()
    world.send(KILLER)
    world.until_quiet()
    assert world.served == [KILLER]


def test_a_request_that_gets_no_output_holds_the_others_up_for_a_bounded_time() -> None:
    suspects = Suspects()
    for number in range(2):
        suspects.arrive("k", generation(KILLER), number)
        suspects.settle(number)
        suspects.died(number)
    suspects.arrive("k", generation(KILLER), 10)
    suspects.arrive("other", generation(1), 10)
    assert [each.uid for each in suspects.settle(10)] == ["k"]
    assert suspects.settle(10 + TRIAL_SECONDS - 1) == []
    # While nothing moves at all, beginning would be of no use to anyone.
    assert suspects.settle(10 + TRIAL_SECONDS, moving=False) == []
    assert [each.uid for each in suspects.settle(10 + TRIAL_SECONDS)] == ["other"]


def test_whoever_waits_too_long_is_told_to_come_again() -> None:
    suspects = Suspects()
    for number in range(2):
        suspects.arrive("k", generation(KILLER), number)
        suspects.settle(number)
        suspects.died(number)
    suspects.arrive("k", generation(KILLER), 10)
    suspects.arrive("other", generation(1), 10)
    suspects.settle(10)
    (decision,) = suspects.settle(10 + WAIT_SECONDS, moving=False)
    assert isinstance(decision.refusal, EngineUnavailable)


def test_a_stranger_on_trial_when_the_engine_dies_is_a_suspect_and_not_refused_yet() -> None:
    world = World({})
    for number in range(4):
        world.send(100 + number)
        world.die()
    assert not world.suspects.given_up(world.now)
    world.send(103)
    world.until_quiet()
    assert (world.refused, world.served) == ([], [103])


def test_who_was_taken_for_a_killer_that_had_passed_as_a_stranger_is_cleared_once_that_is_found() -> None:
    after = 4.0
    world = World({KILLER: after}, length=20.0)
    for number in (7, 100, 7):
        world.send(number)
        world.die()
    world.send(KILLER)
    while world.now - world.arrivals[str(world.count - 1)] < after - 0.25:
        world.step()
    world.send(7)  # a suspect on trial while the other kills
    world.until_quiet()
    world.send(7)
    assert world.refused == [7]
    world.send(KILLER)
    world.until_quiet()
    world.send(KILLER)
    world.until_quiet()
    world.send(KILLER)
    world.send(7)
    world.until_quiet()
    assert (world.refused, world.served) == ([7, KILLER], [7])
    assert not world.suspects.given_up(world.now)


def test_a_retry_under_another_uid_seed_or_length_is_the_same_request() -> None:
    first = Generation("a", [1, 2], {"max_new_tokens": 5, "sampling_seed": 1, "top_p": 0.5}, stream=True)
    again = Generation("b", (1, 2), {"top_p": 0.5, "stream_interval": 9}, stream=False, priority=3, cache_salt="x")
    assert fingerprint(first) == fingerprint(again)
    others = (
        Generation("a", [1, 2], {"top_p": 0.6}, stream=True),
        Generation("a", [2, 1], {"top_p": 0.5}, stream=True),
        Generation("a", [1, 2], {"top_p": 0.5}, stream=True, top_logprobs=3),
    )
    assert len({fingerprint(each) for each in (first, *others)}) == 4


def test_memory_is_bounded() -> None:
    suspects = Suspects()
    for number in range(5000):
        suspects.arrive("k", generation(number), number)
        suspects.settle(number)
        suspects.died(number)
    assert len(suspects._deaths) <= 64
    assert len(suspects._refused) <= 1024
    assert not suspects._turns
    assert not suspects._queue
