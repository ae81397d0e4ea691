from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kimi_k2_serving.core.errors import Overloaded
from kimi_k2_serving.engine.admission import Admission, Capacity


def admission(requests: int = 2, prompt_tokens: int = 100, queue: int = 3, queue_seconds: float = 10.0) -> Admission:
    return Admission(Capacity(requests, prompt_tokens, queue, queue_seconds))


def join(door: Admission, prompt_tokens: int = 1, priority: int = 0, now: float = 0.0) -> int:
    ticket = door.arrive()
    door.join(ticket, prompt_tokens, priority, now)
    return ticket


def granted(door: Admission, now: float = 0.0) -> list[int]:
    return [decision.ticket for decision in door.settle(now) if decision.refusal is None]


def test_requests_over_the_limit_wait_and_go_on_when_one_leaves() -> None:
    door = admission()
    first, second, third = join(door), join(door), join(door)
    assert granted(door) == [first, second]
    door.leave(first, 1.0)
    assert granted(door) == [third]


def test_prompt_tokens_in_flight_stay_under_their_limit() -> None:
    door = admission(requests=10)
    first, second = join(door, 60), join(door, 60)
    assert granted(door) == [first]
    door.leave(first, 0.0)
    assert granted(door) == [second]
    assert door.prompt_tokens == 60


def test_a_prompt_over_the_whole_limit_goes_alone() -> None:
    door = admission()
    small, huge, after = join(door, 1), join(door, 1000), join(door, 1)
    assert granted(door) == [small]
    door.leave(small, 0.0)
    assert granted(door) == [huge]
    door.leave(huge, 0.0)
    assert granted(door) == [after]


def test_nobody_passes_the_one_whose_turn_it_is() -> None:
    door = admission(requests=10, queue=10)
    working, large, small = join(door, 90), join(door, 50), join(door, 1)
    assert granted(door) == [working]
    assert (door.waiting, door.granted) == (2, 1)
    door.leave(working, 0.0)
    assert granted(door) == [large, small]


def test_a_higher_priority_goes_first_and_equals_go_in_order() -> None:
    door = admission(requests=1, queue=10)
    working = join(door)
    assert granted(door) == [working]
    low, first, high, second = join(door, 1, -5), join(door), join(door, 1, 7), join(door)
    order = []
    for _ in range(4):
        door.leave(working, 0.0)
        (working,) = granted(door)
        order.append(working)
    assert order == [high, first, second, low]


def test_a_full_queue_refuses_at_once_with_a_time_to_retry() -> None:
    door = admission(requests=1, queue=1)
    join(door)
    granted(door)
    join(door)
    with pytest.raises(Overloaded, match="1 requests with 1 prompt tokens in flight, 1 waiting; retry in 1 s"):
        door.arrive()


def test_a_waiting_request_is_refused_when_its_time_is_up_and_not_before() -> None:
    door = admission(requests=1)
    working, waiting = join(door), join(door)
    assert granted(door) == [working]
    assert door.settle(9.9) == []
    (decision,) = door.settle(10.0)
    assert decision.ticket == waiting
    assert decision.refusal is not None
    assert door.waiting == 0


def test_the_time_to_retry_follows_the_rate_of_endings() -> None:
    door = admission(requests=1, queue=1)
    now = 0.0
    for _ in range(5):
        ticket = join(door, now=now)
        granted(door, now)
        now += 4.0
        door.leave(ticket, now)
    join(door, now=now)
    granted(door, now)
    join(door, now=now)
    with pytest.raises(Overloaded) as caught:
        door.arrive()
    assert caught.value.retry_after == 8.0


def test_without_a_queue_what_fits_is_still_granted() -> None:
    door = admission(requests=1, queue=0)
    ticket = join(door)
    assert granted(door) == [ticket]


def test_a_queue_that_filled_up_meanwhile_refuses_what_would_wait_and_forgets_it() -> None:
    door = admission(requests=2, queue=1)
    working, late = join(door, 100), door.arrive()
    assert granted(door) == [working]
    waiting = join(door)
    with pytest.raises(Overloaded, match="1 waiting"):
        door.join(late, 1, 0, 0.0)
    assert door.waiting == 1
    door.arrive()
    with pytest.raises(Overloaded):
        door.arrive()
    door.leave(working, 0.0)
    assert granted(door) == [waiting]


def test_without_a_queue_what_does_not_fit_is_refused() -> None:
    door = admission(requests=2, queue=0)
    join(door, 60)
    granted(door)
    with pytest.raises(Overloaded):
        join(door, 60)
    join(door, 40)
    assert (len(granted(door)), door.prompt_tokens) == (1, 100)


def test_who_leaves_while_waiting_or_unread_is_never_granted_and_frees_the_place() -> None:
    door = admission(requests=1, queue=1)
    working = join(door)
    granted(door)
    gone = join(door)
    door.leave(gone, 0.0)
    door.leave(door.arrive(), 0.0)
    door.leave(12345, 0.0)
    following = join(door)
    assert door.waiting == 1
    door.leave(working, 0.0)
    assert granted(door) == [following]


def test_who_waited_too_long_frees_the_place() -> None:
    door = admission(requests=1, queue=1)
    join(door)
    granted(door)
    join(door)
    assert len(door.settle(10.0)) == 1
    door.arrive()


def test_the_time_to_retry_is_at_most_a_minute_and_takes_two_endings() -> None:
    for endings, expected in (((0.0,), 1.0), ((0.0, 8.0), 16.0), ((0.0, 8.0, 16.0), 16.0), ((0.0, 500.0), 60.0)):
        door = admission(requests=1, queue=1)
        for now in endings:
            ticket = join(door, now=now)
            granted(door, now)
            door.leave(ticket, now)
        join(door, now=endings[-1])
        granted(door, endings[-1])
        join(door, now=endings[-1])
        with pytest.raises(Overloaded, match=f"retry in {expected:.0f} s$") as caught:
            door.arrive()
        assert caught.value.retry_after == expected


def test_the_time_to_retry_looks_at_the_last_32_endings() -> None:
    door = admission(requests=1, queue=0)
    for now in (0.0, *(1000.0 + i * 31 for i in range(32))):
        ticket = join(door, now=now)
        granted(door, now)
        door.leave(ticket, now)
    join(door, now=now)
    granted(door, now)
    with pytest.raises(Overloaded) as caught:
        door.arrive()
    assert caught.value.retry_after == 31.0


class Door(RuleBasedStateMachine):
    """Against a model: sets of tickets by state, and the limits."""

    @initialize(requests=st.integers(1, 4), prompt_tokens=st.integers(1, 50), queue=st.integers(0, 4))
    def open(self, requests: int, prompt_tokens: int, queue: int) -> None:
        self.capacity = Capacity(requests, prompt_tokens, queue, 5.0)
        self.door = Admission(self.capacity)
        self.now = 0.0
        self.reading: list[int] = []
        self.sizes: dict[int, int] = {}
        self.waiting: set[int] = set()
        self.working: set[int] = set()

    @rule()
    def arrive(self) -> None:
        full = len(self.reading) + len(self.waiting) + len(self.working) >= self.capacity.requests + self.capacity.queue
        try:
            self.reading.append(self.door.arrive())
            assert not full
        except Overloaded:
            assert full

    @rule(size=st.integers(1, 80), priority=st.integers(-2, 2))
    def join(self, size: int, priority: int) -> None:
        if not self.reading:
            return
        ticket = self.reading.pop(0)
        try:
            self.door.join(ticket, size, priority, self.now)
        except Overloaded:
            return
        self.sizes[ticket] = size
        self.waiting.add(ticket)
        self.settle()

    @rule(pick=st.integers(0, 10))
    def leave(self, pick: int) -> None:
        present = sorted(self.waiting | self.working) + self.reading
        if present:
            ticket = present[pick % len(present)]
            self.door.leave(ticket, self.now)
            self.waiting.discard(ticket)
            self.working.discard(ticket)
            self.reading = [each for each in self.reading if each != ticket]
            self.settle()

    @rule(seconds=st.floats(0, 6))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.settle()

    def settle(self) -> None:
        for decision in self.door.settle(self.now):
            self.waiting.remove(decision.ticket)
            if decision.refusal is None:
                self.working.add(decision.ticket)

    @invariant()
    def limits_hold_and_nobody_is_forgotten(self) -> None:
        if not hasattr(self, "door"):
            return
        tokens = sum(self.sizes[ticket] for ticket in self.working)
        assert (self.door.granted, self.door.waiting) == (len(self.working), len(self.waiting))
        assert self.door.prompt_tokens == tokens
        assert len(self.working) <= self.capacity.requests
        assert tokens <= self.capacity.prompt_tokens or len(self.working) == 1
        assert len(self.waiting) <= max(self.capacity.queue, 0)
        assert self.working or not self.waiting


TestDoor = Door.TestCase
