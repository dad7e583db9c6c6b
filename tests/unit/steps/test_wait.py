"""Waits: exactly one form, what is short is slept through, what is long is waited for without a process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from segue import clock, wiring
from segue.engine.control import MustWait
from segue.errors import Interrupted
from segue.planning import planfile
from segue.planning.planfile import InvalidPlan
from segue.ports import Approved
from segue.steps.approval import STEP as APPROVAL
from segue.steps.approval import ApprovalParams
from segue.steps.wait import STEP as WAIT
from segue.steps.wait import WaitParams


class Run:
    """A run of a step that has no target: it was begun some time ago, and somebody has approved it or not."""

    def __init__(self, params: Any, *, ago: float = 0, given: Approved | None = None) -> None:
        self.params = params
        self.began_at = clock.now() - timedelta(seconds=ago)
        self.given = given
        self.notes: list[str] = []
        self.boundaries = 0

    def key(self, part: int) -> Any:
        return type("Key", (), {"plan": "the-plan"})

    def began(self) -> datetime:
        return self.began_at

    def approval(self) -> Approved | None:
        return self.given

    def boundary(self) -> None:
        self.boundaries += 1

    def note(self, message: str, **detail: Any) -> None:
        self.notes.append(message)


def wait(*, ago: float = 0, **fields: Any) -> Run:
    """Run a wait step to its end; raises MustWait when it is not over."""
    run = Run(WaitParams.model_validate({"name": "w", **fields}), ago=ago)
    WAIT.run(run)
    return run


def later(**fields: Any) -> MustWait:
    with pytest.raises(MustWait) as caught:
        wait(**fields)
    return caught.value


def seconds_to(moment: datetime | None) -> float:
    assert moment is not None
    return (moment - clock.now()).total_seconds()


def test_wait_for_a_time_counts_from_when_the_step_began() -> None:
    waiting = later(**{"for": "2h"}, ago=3600)
    assert (waiting.kind, waiting.step, waiting.whole) == ("time", "w", False)
    assert 3590 < seconds_to(waiting.due) <= 3600
    wait(**{"for": "2h"}, ago=7201)


def test_wait_that_is_nearly_over_is_slept_through_and_can_be_stopped() -> None:
    run = wait(**{"for": "1h"}, ago=3599.5)
    assert run.began_at + timedelta(hours=1) <= clock.now()
    assert run.boundaries >= 2

    def stop() -> None:
        raise Interrupted("stopped")

    run.boundary = stop
    run.began_at = clock.now() - timedelta(seconds=3599)
    with pytest.raises(Interrupted):
        WAIT.run(run)


def test_wait_until_a_moment_knows_its_zone() -> None:
    waiting = later(until="2999-07-01 02:00 Europe/Berlin")
    assert waiting.due == datetime(2999, 7, 1, 0, 0, tzinfo=UTC)
    assert "2999-07-01 00:00:00 UTC" in waiting.message
    wait(until="2001-07-01 02:00 Europe/Berlin")


def test_wait_for_a_window_ends_when_it_is_open() -> None:
    now = clock.now()
    wait(window="daily 00:00-24:00 UTC")
    day = (now + timedelta(days=2)).strftime("%A")
    waiting = later(window=f"{day} 10:00-11:00 UTC")
    assert waiting.kind == "window"
    expected = (now + timedelta(days=2)).replace(hour=10, minute=0, second=0, microsecond=0)
    assert waiting.due == expected


HEAD = "plan: p\nversion: 1.0.0\ndescription: d\nsteps:\n  - name: w\n    kind: "


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("wait", '5:5: step "w": a wait needs exactly one of for, until, window, condition'),
        ("wait\n    for: 1h\n    until: 2999-01-01 02:00 UTC", '5:5: step "w": a wait needs exactly one of'),
        ("wait\n    for: soon", '7:10: step "w": "for": "soon" is not a duration'),
        ("wait\n    until: 2999-01-01 02:00", '7:12: step "w": "until": '),
        ("wait\n    until: 2999-01-01 02:00 Europe/Berln", '7:12: step "w": "until": '),
        ("wait\n    window: Sunday", '7:13: step "w": "window": '),
        ("wait\n    for: 1h\n    every: 1s", '8:12: step "w": `every` goes with `condition` only'),
        ("wait\n    for: 1h\n    timeout: 1s", '8:14: step "w": `timeout` goes with `condition` only'),
        ("wait\n    condition:\n      query: SELECT 1", '8:7: step "w": "condition": an expected result is exactly'),
        ("wait\n    condition:\n      query: SELECT 1 FROM FROM t\n      scalar: 1", '8:28: step "w": syntax error'),
        (
            "wait\n    condition:\n      query: DELETE FROM t\n      scalar: 1",
            '8:14: step "w": `condition`: `query` must be one SELECT that only reads',
        ),
        ("approval\n    approval: true", '7:15: step "w": `approval` is what this kind of step is; leave it out'),
    ],
)
def test_wait_that_cannot_work_is_named_with_its_place(step: str, expected: str) -> None:
    parts = wiring.parts()
    with pytest.raises(InvalidPlan) as caught:
        planfile.read(HEAD + step + "\n", source="p", kinds=parts.steps, database=parts.databases["postgresql"])
    found = [f"{one.line}:{one.column}: {one.message}" for one in caught.value.problems]
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_wait_reads_back_from_its_document() -> None:
    parts = wiring.parts()
    text = HEAD + "wait\n    for: 90m\n"
    plan = planfile.read(text, source="p", kinds=parts.steps, database=parts.databases["postgresql"])
    document = planfile.document(plan)
    assert document["steps"][0]["for"] == 5400
    assert planfile.from_document(document, parts.steps) == plan


def test_approval_waits_for_a_person_and_says_why() -> None:
    run = Run(ApprovalParams(name="look", message="the totals"))
    with pytest.raises(MustWait) as caught:
        APPROVAL.run(run)
    assert (caught.value.kind, caught.value.step, caught.value.due) == ("approval", "look", None)
    assert caught.value.message == 'step "look" waits for an approval: the totals'


def test_approval_goes_on_with_somebodys_word() -> None:
    run = Run(ApprovalParams(name="look"), given=Approved("grace", "looks right", clock.now(), None))
    APPROVAL.run(run)
    assert run.notes == ["approved by grace: looks right"]
