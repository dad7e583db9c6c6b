"""What a strategy asks of a plan is said with its place; plans that ask for nothing are what they were."""

from __future__ import annotations

import pytest

from segue import wiring
from segue.model.fences import Downtime
from segue.planning import planfile, strategies
from segue.planning.planfile import InvalidPlan, Plan

PLAN = """\
plan: short-break
version: 1.0.0
description: Something that cannot be done while the application writes
STRATEGY
steps:
  - {name: one, kind: sql, sql: "CREATE TABLE one (id int)", reverse: DROP TABLE one}
"""


def read(strategy: str) -> Plan:
    """Read a plan with these lines in its middle."""
    parts = wiring.parts()
    text = PLAN.replace("STRATEGY", strategy)
    return planfile.read(text, source="p.yaml", kinds=parts.steps, database=parts.databases["postgresql"])


@pytest.mark.parametrize(
    ("lines", "place", "words"),
    [
        ("strategy: maintenance-window", "4:11", "needs `maintenance_window`"),
        ("maintenance_window: 5", "4:21", 'belongs to the strategy "maintenance-window"'),
        ("strategy: rolling\nmaintenance_window: 5", "5:21", 'with "rolling" the application goes on working'),
        ("fence: {tables: [a]}", "4:8", "`fence` belongs to"),
        ("strategy: maintenance-window\nmaintenance_window: 0", "5:21", "greater than or equal to 1"),
        ("strategy: maintenance-window\nmaintenance_window: 5\nfence: {close: [x]}", "6:8", "both `close` and `open`"),
        (
            "strategy: maintenance-window\nmaintenance_window: 5\nfence: {tables: [a], close: [x], open: [y]}",
            "6:8",
            "either by triggers",
        ),
        ("strategy: maintenance-window\nmaintenance_window: 5\nfence: {tables: []}", "6:17", "at least 1"),
    ],
)
def test_what_does_not_fit_the_strategy_is_named_at_its_place(lines: str, place: str, words: str) -> None:
    with pytest.raises(InvalidPlan) as caught:
        read(lines)
    (problem,) = caught.value.problems
    assert f"{problem.line}:{problem.column}" == place
    assert words in problem.message


def test_a_window_says_how_long_the_application_may_be_kept_out() -> None:
    window = "strategy: maintenance-window\nmaintenance_window: 5"
    assert strategies.downtime(read(window)) == Downtime(300)
    fenced = read(window + "\nfence: {close: [keep, out], open: [let, in], timeout: 5s}")
    assert strategies.downtime(fenced) == Downtime(300, close=["keep", "out"], open=["let", "in"], timeout=5)
    assert strategies.downtime(read("strategy: rolling")) is None


def test_a_fence_survives_the_store_and_is_part_of_what_is_approved() -> None:
    window = "strategy: maintenance-window\nmaintenance_window: 5"
    plan = read(window + "\nfence: {tables: [orders], lock_timeout: 2m}")
    stored = planfile.document(plan)
    assert stored["fence"] == {"tables": ["orders"], "lock_timeout": 120}
    again = planfile.from_document(stored, wiring.parts().steps)
    assert again == plan
    assert planfile.digest(again) != planfile.digest(read(window))


def test_plans_without_a_fence_keep_their_hash() -> None:
    assert planfile.digest(read("strategy: online")) == planfile.digest(read("# nothing is asked for"))
    assert "fence" not in planfile.document(read("strategy: rolling"))


def test_a_stored_plan_of_an_older_version_can_still_be_read() -> None:
    stored = {**planfile.document(read("")), "maintenance_window": 5}
    assert planfile.from_document(stored, wiring.parts().steps).maintenance_window == 5
