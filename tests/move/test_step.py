"""A live move as steps of a plan: run, gone on with after a crash, and rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fix_crash import Crasher
from fix_process import Segue
from fix_standbys import Server
from fix_targets import run_sql, until
from fix_wandering import LATER, TABLES, Moved, made, traffic

PLAN = f"""\
plan: shop
version: 1.0.0
description: Move the shop
steps:
  - name: copy
    kind: move
    action: start
    move: shop
    to: new
    tables: [{", ".join(TABLES)}]
  - name: over
    kind: move
    action: switch
    move: shop
    budget: 20s
    needs: [copy]
"""

#: What every run leaves on its target: the history.
OWN = [("schema", "segue")]


@pytest.fixture
def moved(moving_server: Server, segue: Segue) -> Iterator[Moved]:
    """Give two environments, "old" with tables and "new" with the same ones empty, and a plan that moves them."""
    with made(moving_server, moving_server, "shop") as found:
        run_sql(found.pair.target.url, LATER)
        for name, side in (("old", found.pair.source), ("new", found.pair.target)):
            segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": side.url}).expect(0)
        Path(segue.folder, "plan.yaml").write_text(PLAN)
        yield found


def test_a_plan_moves_tables_under_traffic_and_its_rollback_brings_them_back(segue: Segue, moved: Moved) -> None:
    with traffic(moved, seed=8) as seen:
        segue("run", "plan.yaml", "--env", "old").expect(0)
        moved.open = seen.live = moved.pair.target
        until(lambda mark=seen.acknowledged: seen.acknowledged > mark + 20)
        assert segue("move", "status", "shop", "--json").expect(0).json["open"] == "target"
        segue("run", "plan.yaml", "--env", "old").expect(0)
        segue("rollback").expect(0)
        moved.open = seen.live = moved.pair.source
        until(lambda mark=seen.acknowledged: seen.acknowledged > mark + 20)
    moved.level()
    assert seen.errors == []
    assert seen.wanted() == moved.content(moved.pair.source)
    segue("move", "cancel", "shop", "--yes").expect(0)
    assert moved.remains() == OWN


def test_promise_5_a_plan_killed_within_a_move_goes_on(
    segue: Segue, moved: Moved, new_crasher: Callable[..., Crasher]
) -> None:
    crasher = new_crasher(**segue.env)
    command = ("run", segue.folder / "plan.yaml", "--env", "old")
    for point in ("move-slot", "move-following", "move-fenced"):
        killed = crasher(*command, kill=(point, 1))
        assert killed["status"] == -9, killed
    assert crasher(*command)["status"] == 0
    assert crasher("rollback", kill=("move-opened", 1))["status"] == -9
    assert crasher("rollback")["status"] == 0
    assert crasher("move", "cancel", "shop", "--yes")["status"] == 0
    assert moved.remains() == OWN


def test_a_start_that_was_not_switched_is_given_up_by_a_rollback(segue: Segue, moved: Moved) -> None:
    path = Path(segue.folder, "plan.yaml")
    path.write_text(PLAN[: PLAN.index("  - name: over")])
    segue("run", "plan.yaml", "--env", "old").expect(0)
    segue("rollback").expect(0)
    assert moved.remains() == OWN


def test_a_completed_move_cannot_be_taken_back_by_its_plan(segue: Segue, moved: Moved) -> None:
    segue("run", "plan.yaml", "--env", "old").expect(0)
    segue("move", "complete", "shop", "--yes").expect(0)
    assert "was completed" in segue("rollback").expect(3).stderr


def test_a_move_does_not_look_like_drift(segue: Segue, moved: Moved) -> None:
    first, other = Path(segue.folder, "first.yaml"), Path(segue.folder, "other.yaml")
    text = "plan: {}\nversion: 1.0.0\ndescription: x\nsteps:\n"
    text += "  - {{name: one, kind: sql, sql: CREATE TABLE {} (), reverse: DROP TABLE {}}}\n"
    first.write_text(text.format("first", "t1", "t1"))
    other.write_text(text.format("other", "t2", "t2"))
    segue("run", "first.yaml", "--env", "old").expect(0)
    words = (word for table in TABLES for word in ("-t", table))
    segue("move", "create", "shop", "--from", "old", "--to", "new", *words).expect(0)
    segue("move", "start", "shop").expect(0)
    segue("run", "other.yaml", "--env", "old").expect(0)
    segue("move", "cancel", "shop", "--yes").expect(0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("    to: new\n", ""), "`start` needs `to` and `tables`"),
        (("move: shop\n    to", "move: The shop\n    to"), "cannot name a move"),
        (("    move: shop\n    budget: 20s", "    move: shop\n    workers: 2"), "`workers` has no meaning"),
    ],
)
def test_a_plan_that_cannot_move_is_refused_with_its_place(segue: Segue, change: tuple[str, str], told: str) -> None:
    Path(segue.folder, "plan.yaml").write_text(PLAN.replace(*change))
    assert told in segue("plan", "validate", "plan.yaml").expect(2).stderr
