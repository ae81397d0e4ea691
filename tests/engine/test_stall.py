from __future__ import annotations

from kimi_k2_serving.engine.stall import CPU_SECONDS, SilenceDetector, StallDetector


def stalled(progress: StallDetector, now: float, *, in_flight: bool = True, stopped: bool = False) -> bool:
    return progress.stalled(now, in_flight=in_flight, stopped=stopped)


def test_no_movement_with_work_in_flight_is_a_stall_after_its_seconds_and_not_before() -> None:
    progress = StallDetector(15, 0)
    assert not stalled(progress, 14.9)
    assert stalled(progress, 15)


def test_idle_time_does_not_count() -> None:
    progress = StallDetector(15, 0)
    assert not stalled(progress, 100, in_flight=False)
    assert not stalled(progress, 114)
    assert stalled(progress, 115)


def test_outputs_and_a_busy_schedulers_news_are_movement() -> None:
    progress = StallDetector(15, 0)
    progress.output(10)
    assert not stalled(progress, 24)
    progress.scheduler(1.5, 24, busy=True)
    assert not stalled(progress, 38)
    assert stalled(progress, 39)


def test_the_same_news_again_is_no_movement() -> None:
    progress = StallDetector(15, 0)
    for second in range(16):
        progress.scheduler(1.5, second, busy=True)
    assert stalled(progress, 15)


def test_news_of_a_scheduler_without_requests_are_no_movement_while_some_are_in_flight() -> None:
    progress = StallDetector(15, 0)
    for second in range(16):
        progress.scheduler(second, second, busy=False)
    assert stalled(progress, 15)


def test_a_stopped_process_is_a_stall_although_the_others_go_on() -> None:
    progress = StallDetector(15, 0)
    for second in range(15):
        progress.output(second)
        assert not stalled(progress, second, stopped=second > 0)
    progress.output(15)
    assert stalled(progress, 15, stopped=True)


def test_cpu_time_is_movement_where_it_is_told_but_not_an_idle_processs_trickle() -> None:
    progress = StallDetector(15, 0)
    for second in range(30):
        progress.worked(second * CPU_SECONDS, second)
        assert not stalled(progress, second)
    trickle = StallDetector(15, 0)
    for second in range(16):
        trickle.worked(second * 0.01, second)
    assert stalled(trickle, 15)


def problems_until(silence: SilenceDetector, until: float, *, queued: int = 0, since: float = 0.0) -> list[str]:
    """Asked four times a second, as it is."""
    found = []
    for quarter in range(int(since * 4) + 1, int(until * 4) + 1):
        found += silence.lost(quarter / 4, queued=queued)
    return found


def test_a_request_without_output_for_so_long_is_told_once() -> None:
    silence = SilenceDetector(10, 0)
    silence.begin("a")
    assert problems_until(silence, 9.75) == []
    assert problems_until(silence, 30, since=9.75) == ["a"]


def test_outputs_ends_and_a_queue_in_the_engine_keep_a_request_from_being_told() -> None:
    silence = SilenceDetector(10, 0)
    for uid in ("a", "b", "c"):
        silence.begin(uid)
    assert problems_until(silence, 100, queued=1) == []
    assert problems_until(silence, 109, since=100) == []
    silence.output("a")
    silence.end("b")
    assert problems_until(silence, 111, since=109) == ["c"]
    assert problems_until(silence, 118.75, since=111) == []
    assert problems_until(silence, 119.25, since=118.75) == ["a"]


def test_time_in_which_nobody_asked_is_not_counted() -> None:
    silence = SilenceDetector(10, 0)
    silence.begin("a")
    assert silence.lost(500, queued=0) == []
