"""The live view fits any terminal, shows what is at work, and says what changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.cli import _picture, _watch, output
from segue.cli._picture import Line, Look, draw, signs

NOW = datetime(2026, 11, 29, 2, 0, 10, tzinfo=UTC)
JOB = {
    "status": "running",
    "percent": 25.0,
    "total_rows": 2000,
    "processed_rows": 500,
    "rows_per_second": 100.0,
    "batches_done": 5,
    "batches_open": 2,
    "batches_total": 20,
}
THROTTLE = {
    "state": "slowed",
    "duty": 0.25,
    "workers": 2,
    "reason": "p95 12 ms over the budget of 10 ms",
    "latency": {"source": "probe", "budget": "p95=10ms", "p50": 1.0, "p95": 12.0, "p99": 20.0},
    "readings": [
        {"name": "replica two", "value": 9e6, "state": "slow", "words": 'replica "two" is 9.0 MB behind'},
        {"name": "lock waits", "value": 3, "state": "ok", "words": "3 sessions wait for locks"},
    ],
}


def step(number: int, name: str, status: str, **more: Any) -> dict[str, Any]:
    """Return a step as a description has it."""
    ended = status in ("completed", "failed", "skipped")
    begun = {"started_at": NOW - timedelta(seconds=5), "seconds": 1.5 if ended else None}
    return {"number": number, "name": name, "kind": "backfill", "status": status, **begun, **more}


def item(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the description of an execution that runs."""
    return {
        "execution": "tz4a98",
        "plan": "add-names",
        "environment": "shop",
        "number": 1,
        "status": "running",
        "direction": "forward",
        "driven_by": "ada@host pid 7",
        "worker": "w1",
        "helpers": [{"worker": "w2", "host": "h", "step": "fill", "slots": 2}],
        "abandoned": False,
        "handed_over": True,
        "waiting_for": None,
        "due_at": None,
        "fenced_at": None,
        "fenced_until": None,
        "requested": None,
        "next": None,
        "steps_completed": 1,
        "steps_total": len(steps),
        "started_at": NOW - timedelta(seconds=10),
        "seconds": None,
        "error": None,
        "metrics": {"throttle": THROTTLE, "lock_waits": 2, "lock_wait_ms": 40, "wal_bytes": 5_000_000},
        "steps": list(steps),
        **more,
    }


def look(content: dict[str, Any], *messages: str) -> Look:
    lines = [{"at": NOW, "level": "info", "step": None, "message": words} for words in messages]
    return Look(content, lines, NOW, 0.0)


def text(lines: list[Line]) -> str:
    return "\n".join("".join(piece for piece, _ in line).rstrip() for line in lines)


RUNNING = item(step(1, "add", "completed"), step(2, "fill", "running", job=JOB), step(3, "index", "pending"))


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_screen_shows_all_that_goes_on(width: int) -> None:
    shown = " ".join(text(draw(look(RUNNING, "slowed down"), 1.0, width=width, height=24)).split())
    for words in (
        "add-names in shop running 11.0 s",
        "worker w1",
        "✓ add",
        "25 %",
        "500 of about 2,000 rows, 100 rows/s, 15.0 s left",
        "5 of about 20 batches",
        "helped by w2 (fill, 2 slots)",
        "pace 25% of the time, 2 workers: p95 12 ms over the budget of 10 ms",
        "p50 1 ms, p95 12 ms, p99 20 ms (probe, budget p95=10ms)",
        'replicas replica "two" is 9.0 MB behind',
        "lock waits 2 (40 ms); 3 sessions wait for locks",
        "02:00:10Z slowed down",
        "Ctrl-C leaves",
    ):
        assert words in shown


CHANGE = {
    "phase": "copying-data",
    "strategy": "shadow-table",
    "percent": 31.5,
    "rows_copied": 2000,
    "rows_compared": None,
    "total_rows": 4000,
    "rows_per_second": 1000.0,
    "estimated_completion": None,
    "conflicts": 0,
    "waiting": None,
    "blockers": [],
    "slowed": None,
}
SWAPPING = {
    **CHANGE,
    "phase": "swapping",
    "percent": 98.0,
    "conflicts": 3,
    "waiting": "the swap waits for `segue change cutover`",
    "blockers": ["pid 7 (reports, active for 90 s) holds ACCESS SHARE on orders"],
}


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_screen_shows_an_online_change(width: int) -> None:
    content = item(step(1, "change", "running", change={**CHANGE, "slowed": "replica two is behind"}))
    shown = " ".join(text(draw(look(content), 0.0, width=width, height=24)).split())
    assert "31 %" in shown
    assert "copying rows, 2,000 of about 4,000 rows, 1,000 rows/s" in shown
    assert "slowed down: replica two is behind" in shown


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_screen_says_what_a_swap_waits_for(width: int) -> None:
    shown = " ".join(
        text(draw(look(item(step(1, "change", "running", change=SWAPPING))), 0.0, width=width, height=24)).split()
    )
    for words in ("98 %", "3 rows do not fit", "`segue change cutover`", "in the way: pid 7 (reports, active"):
        assert words in shown


def test_lines_tell_phases_tenths_and_what_comes_in_the_way() -> None:
    told: dict[str, int] = {}
    running = item(step(1, "change", "running", change=CHANGE))
    assert "31 %, copying rows" in " ".join(_watch.changes(None, running, told))
    assert _watch.changes(running, running, told) == []
    swapping = item(step(1, "change", "running", change=SWAPPING))
    said = " ".join(_watch.changes(running, swapping, told))
    assert "98 %, swapping" in said
    assert "in the way: pid 7" in said
    ended = item(step(1, "change", "completed", change={**CHANGE, "phase": "reversible"}))
    assert any("the old table is kept current" in line for line in _watch.changes(swapping, ended, told))


STATUSES = st.sampled_from(["completed", "running", "failed", "waiting", "pending", "skipped", "warned"])
WORDS = st.text(max_size=80)


@given(
    width=st.integers(20, 200),
    height=st.integers(4, 60),
    statuses=st.lists(st.tuples(STATUSES, st.booleans(), WORDS), min_size=1, max_size=40),
    words=WORDS,
)
def test_no_line_is_wider_and_no_screen_higher_than_the_terminal(
    width: int, height: int, statuses: list[tuple[str, bool, str]], words: str
) -> None:
    steps = [
        step(number, name or "x", status, **({"job": JOB} if filled else {}))
        for number, (status, filled, name) in enumerate(statuses, 1)
    ]
    lines = draw(look(item(*steps, next=words, plan=words), words, words), 9.0, width=width, height=height)
    assert len(lines) == height
    assert all(output.width_of("".join(piece for piece, _ in line)) <= width for line in lines)


def test_what_is_at_work_is_shown_however_many_steps_there_are() -> None:
    done = [step(number, f"done-{number}", "completed") for number in range(1, 30)]
    later = [step(number, f"later-{number}", "pending") for number in range(31, 60)]
    shown = text(draw(look(item(*done, step(30, "busy", "running", job=JOB), *later)), 1.0, width=80, height=16))
    assert "▸ busy" in shown
    assert "5 of about 20 batches" in shown
    assert "more above: 2" in shown
    assert "more below: 2" in shown


def test_nothing_a_message_says_moves_the_cursor() -> None:
    waiting = {"kind": "approval", "message": "evil\x1b[2J\r\nwords", "hint": "", "step": None}
    content = item(step(1, "a", "waiting"), status="waiting", waiting_for=waiting)
    shown = text(draw(look(content, "evil\x1b[2J\r\nwords"), 1.0, width=80, height=24))
    assert "\x1b" not in shown
    assert "\r" not in shown


def test_a_terminal_without_the_signs_gets_others() -> None:
    shown = text(draw(look(RUNNING), 1.0, width=80, height=24, signs=signs("ascii")))
    assert shown.isascii()
    assert "> fill" in shown
    assert signs("utf-8") is _picture.SIGNS


def test_a_store_that_keeps_silent_is_said() -> None:
    assert "no news for 42.0 s" in text(draw(look(RUNNING), 42.0, width=80, height=24))
    assert "not there" in text(draw(look(RUNNING), 2.0, width=80, height=24, missed="not there"))


# -- lines


def test_a_line_is_said_for_each_change_and_for_nothing_else() -> None:
    told: dict[str, int] = {}
    assert _watch.changes(None, RUNNING, told) == [
        "add-names in shop, execution tz4a98",
        "add: completed in 1.5 s",
        "fill: running, 25 %, 500 of about 2,000 rows, 100 rows/s, 15.0 s left",
        "data work: slowed",
        "running, driven by worker w1",
    ]
    assert _watch.changes(RUNNING, RUNNING, told) == []
    further = {**JOB, "percent": 31.0, "processed_rows": 620}
    later = item(step(1, "add", "completed"), step(2, "fill", "running", job=further), step(3, "index", "pending"))
    assert _watch.changes(RUNNING, later, told) == ["fill: 31 %, 620 of about 2,000 rows, 100 rows/s, 13.8 s left"]
    ended = item(
        step(1, "add", "completed"),
        step(2, "fill", "failed", job=further),
        step(3, "index", "pending"),
        status="failed",
        driven_by=None,
        error={"message": "no space left", "hint": "make room"},
    )
    assert _watch.changes(later, ended, told) == [
        "fill: failed in 1.5 s, 620 rows",
        "failed: no space left (make room)",
    ]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rates = _watch.Rates()
    seen = {}
    for second in range(0, 40, 2):
        job = {**JOB, "processed_rows": min(second, 20) * 100}
        moment = Look(item(step(1, "fill", "running", job=job)), [], NOW + timedelta(seconds=second), 0.0)
        seen[second] = rates.of(moment).get("fill")
    assert (seen[2], seen[10], seen[20], seen[38]) == (None, 100.0, 100.0, 0.0)
