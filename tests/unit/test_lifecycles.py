"""The lifecycles hang together: every word can be reached, and what must not follow does not."""

from __future__ import annotations

from typing import Any

import pytest

from segue.model import lifecycles
from segue.model.lifecycles import Lifecycle, LifecycleError

ALL: dict[str, Lifecycle[Any]] = {
    name: value for name, value in vars(lifecycles).items() if isinstance(value, Lifecycle)
}


def test_there_is_one_for_every_status() -> None:
    assert len(ALL) == 16
    assert len({life.noun for life in ALL.values()}) == len(ALL)


@pytest.mark.parametrize("life", ALL.values(), ids=ALL.keys())
def test_every_word_can_be_reached(life: Lifecycle[Any]) -> None:
    reached = set(life.initial)
    while more := {there for here in reached for there in life.after[here]} - reached:
        reached |= more
    assert reached == set(life.words)


@pytest.mark.parametrize("life", ALL.values(), ids=ALL.keys())
def test_nothing_follows_itself(life: Lifecycle[Any]) -> None:
    assert set(life.after) == set(life.words)
    assert all(here not in there for here, there in life.after.items())


ENDS = {
    "PLAN": set(),
    "EXECUTION": {"rolled-back"},
    "STEP_RUN": set(),
    "JOB": {"completed", "cancelled"},
    "BATCH": {"completed"},
    "ONLINE_CHANGE": {"rolled-back"},
    "SHADOW_SYNC": set(),
    "DEPLOYMENT": set(),
    "DEPRECATION": set(),
    "RECOVERY": {"completed"},
    "INCIDENT": set(),
    "INCIDENT_ACTION": {"completed"},
    "SUITE": set(),
    "SUITE_RUN": {"passed", "failed", "cancelled"},
    "APPROVAL": {"revoked"},
    "WORKER": {"stopped"},
}


def test_the_ends_are_ends() -> None:
    assert {name: {str(word) for word in life.words if life.terminal(word)} for name, life in ALL.items()} == ENDS


@pytest.mark.parametrize(
    ("here", "there", "allowed"),
    [
        ("pending", "running", True),
        ("pending", "completed", False),
        ("running", "paused", True),
        ("paused", "completed", False),
        ("failed", "running", True),
        ("completed", "running", True),  # a rollback begins
        ("completed", "failed", False),
        ("cancelled", "running", True),  # a rollback begins
        ("rolled-back", "running", False),
    ],
)
def test_an_execution_may(here: str, there: str, allowed: bool) -> None:
    assert lifecycles.EXECUTION.allows(here, there) is allowed


def test_a_refusal_says_what_may_follow() -> None:
    with pytest.raises(LifecycleError, match='the job cannot go from "completed" to "running"') as refused:
        lifecycles.JOB.check("completed", "running")
    assert refused.value.hint == 'after "completed" may come: nothing'
    with pytest.raises(LifecycleError, match="the plan cannot go") as refused:
        lifecycles.PLAN.check("draft", "completed")
    assert refused.value.hint == 'after "draft" may come: approved, executing'


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(LifecycleError, match='"dnoe" is not a status of the plan'):
        lifecycles.PLAN.check("draft", "dnoe")
