"""The throttle's controller on simulated targets: it goes down at once, up slowly, and comes to rest."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.model.throttling import Reading, judged, stopping, unreadable
from segue.ports import Pace
from segue.rows.throttle import LEAST, STALE, Bounds, Controller, Window, statistic

# Given the load (workers times duty) and the seconds since the beginning, the application's latency in milliseconds.
Plant = Callable[[float, float], float]
BUDGET = 10.0
FREE_READING = judged("lag", 0, "bytes", 64e6, "no lag")


def load_of(pace: Pace, workers: int) -> float:
    return pace.duty * (pace.workers or workers)


def simulate(plant: Plant, seconds: float, *, workers: int = 4, noise: float = 0.1) -> list[tuple[float, float]]:
    """Run a budget of p95 = 10 ms against a plant; return load and latency, two a second."""
    dice = random.Random(7)
    controller, window, history = Controller(Bounds(wanted=workers), gently=True), Window(), []
    controller.feed(0.0, [])
    for tick in range(int(seconds * 2)):
        now = tick / 2
        load = load_of(controller.pace(now), workers)
        took = plant(load, now) * dice.uniform(1 - noise, 1 + noise)
        window.add(now, took)
        p95 = window.statistic("p95", now, controller.eased)
        words = "p95 is being measured" if p95 is None else f"p95 {p95:.1f} ms"
        reading = (
            judged("latency", p95, "ms", BUDGET, words) if p95 else Reading("latency", None, "ms", 10, "ok", words)
        )
        controller.feed(now, [reading])
        history.append((load, took))
    return history


def share_over(history: list[tuple[float, float]]) -> float:
    return sum(took > BUDGET for _, took in history) / len(history)


@pytest.mark.parametrize(
    "plant",
    [lambda load, now: 4 + 4 * load, lambda load, now: 4 / (1 - min(0.99, load / 3))],
    ids=["linear", "queueing"],
)
def test_a_latency_that_grows_with_load_comes_to_rest_under_the_budget(plant: Plant) -> None:
    late = simulate(plant, 200)[120:]
    assert share_over(late) < 0.05
    loads = [load for load, _ in late]
    assert max(loads) <= 1.1 * min(loads)
    assert min(loads) >= 0.9


def test_a_latency_that_does_not_depend_on_us_is_left_alone_under_the_budget() -> None:
    assert simulate(lambda load, now: 3.0, 60)[-1][0] == 4


def test_noise_makes_it_careful_and_not_restless() -> None:
    late = simulate(lambda load, now: 3 + 4 * load, 300, noise=0.4)[120:]
    assert share_over(late) < 0.05
    assert len({round(load, 1) for load, _ in late}) <= 3


def test_a_step_up_is_answered_within_seconds_and_a_step_down_with_patience() -> None:
    history = simulate(lambda load, now: 3 + load * (20 if 60 < now < 120 else 2), 240)
    assert history[115][0] > 2
    assert min(load for load, _ in history[121:125]) == 0  # within two seconds after the step
    assert share_over(history[160:240]) < 0.05
    assert history[280][0] < history[320][0] < history[-1][0]
    assert history[-1][0] > 2


def test_a_latency_over_the_budget_without_us_leaves_a_trickle() -> None:
    late = simulate(lambda load, now: 13.0, 120)[60:]
    assert {round(load, 3) for load, _ in late} == {LEAST}


def test_a_replica_that_cannot_keep_up_sets_the_pace_and_is_never_lost() -> None:
    controller, lag, worked, worst = Controller(Bounds(wanted=2)), 0.0, 0.0, 0.0
    controller.feed(0.0, [])
    for tick in range(600):
        load = load_of(controller.pace(tick / 2), 2)
        lag = max(0.0, lag + (load * 20e6 - 15e6) / 2)  # it replays 15 MB/s of 20 MB/s for each worker
        controller.feed(tick / 2, [judged("replica", lag, "bytes", 64e6, "behind", slow=0.5, stop=1)])
        worked, worst = worked + load / 600, max(worst, lag)
    assert worst < 64e6
    assert 0.6 < worked <= 0.8


def test_a_stop_holds_until_the_signal_is_clearly_better() -> None:
    controller = Controller()
    states = []
    for lag in (10, 70, 60, 55, 50, 47, 10):
        controller.feed(len(states) * 1.0, [judged("lag", lag, "MB", 64, f"{lag} MB behind", slow=0.5, stop=1)])
        states.append(controller.pace(len(states) * 1.0).duty > 0)
    assert states == [True, False, False, False, False, True, True]


def test_the_reason_is_the_signals_own_words() -> None:
    controller = Controller()
    pace = controller.feed(0.0, [stopping("replica b", 'replica "b" is not connected'), unreadable("x", "x is hidden")])
    assert pace == Pace(0.0, None, 'replica "b" is not connected; x is hidden')
    pace = controller.feed(1.0, [judged("latency", 14.2, "ms", 10, "p95 14.2 ms over the budget of 10 ms")])
    assert pace.reason == "p95 14.2 ms over the budget of 10 ms"
    pace = controller.feed(9.0, [FREE_READING])
    assert pace.reason == "slower since p95 14.2 ms over the budget of 10 ms"


def test_without_a_recent_look_nothing_goes_on() -> None:
    controller = Controller()
    assert controller.pace(0.0).duty == 0
    controller.feed(0.0, [FREE_READING])
    assert controller.pace(STALE).duty == 1
    assert controller.pace(STALE + 1) == Pace(0.0, None, "the target's signals have not been read for 6 s")


def test_fewer_workers_come_before_a_lower_duty() -> None:
    controller = Controller(Bounds(wanted=8), gently=True)
    assert controller.feed(0.0, [FREE_READING]) == Pace(1.0, 2, controller.reason)


def test_bounds_hold_also_at_full_speed() -> None:
    controller = Controller(Bounds(duty=0.5, workers=3, wanted=8))
    assert controller.feed(0.0, [FREE_READING]) == Pace(0.5, 3, "held to 50% of the time")


looks = st.lists(
    st.tuples(
        st.floats(0.1, 4.0),
        st.one_of(
            st.floats(0, 200).map(lambda value: judged("load", value, "", 50, f"{value}")),
            st.just(stopping("load", "gone")),
            st.just(unreadable("other", "hidden")),
        ),
    ),
    max_size=60,
)
bounds = st.builds(
    Bounds,
    duty=st.floats(0.01, 1),
    workers=st.one_of(st.none(), st.integers(1, 40)),
    wanted=st.integers(1, 32),
)


@given(bounds, looks)
def test_a_pace_is_within_its_bounds_stops_when_told_and_recovers(
    limits: Bounds, history: list[tuple[float, Reading]]
) -> None:
    controller, now = Controller(limits), 0.0
    for seconds, reading in history:
        now += seconds
        pace = controller.feed(now, [reading])
        assert 0 <= pace.duty <= limits.duty
        assert pace.workers is None or 1 <= pace.workers <= max(limits.most, limits.workers or 0)
        assert (pace.duty == 0) == (controller.state == "stopped")
        if reading.state in ("stop", "unknown"):
            assert pace.duty == 0
        assert pace.reason or pace.duty == limits.duty
    for _ in range(400):
        now += 1.0
        pace = controller.feed(now, [judged("load", 0, "", 50, "nothing")])
    assert (pace.duty, pace.workers) == (limits.duty, limits.workers)


def test_a_window_forgets_what_is_old_and_waits_for_enough() -> None:
    window = Window()
    for second in range(30):
        window.add(second, 100 if second < 10 else 1)
    assert window.statistic("max", 29) == 1
    assert window.statistic("max", 29, since=27) is None
    assert window.statistic("avg", 29, pending=1.5) == pytest.approx(1, abs=0.1)
    assert window.statistic("max", 29, pending=500) == 500


@pytest.mark.parametrize(("kind", "value"), [("p50", 50), ("p95", 95), ("p99", 99), ("avg", 50.5), ("max", 100)])
def test_statistics_are_values_that_were_measured(kind: str, value: float) -> None:
    assert statistic(kind, list(range(1, 101))) == value


def test_a_limit_of_nothing_stops_at_anything() -> None:
    assert judged("waiters", 0, "", 0, "").state == "ok"
    assert judged("waiters", 1, "", 0, "").pressure == math.inf
    assert judged("waiters", 1, "", 0, "").state == "stop"
