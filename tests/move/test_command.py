"""`segue move` as a user meets it: from `create` to `complete`, and resumed after kill -9 at every phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fix_crash import Crasher
from fix_process import Segue
from fix_standbys import Server
from fix_targets import run_sql, until
from fix_wandering import LATER, TABLES, Moved, made, rogue_writes, traffic

CREATE = ("move", "create", "shop", "--from", "old", "--to", "new", *(word for t in TABLES for word in ("-t", t)))


@pytest.fixture
def moved(moving_server: Server, segue: Segue) -> Iterator[Moved]:
    """Give two environments, "old" with tables and "new" with the same ones empty, and the move "shop" between them."""
    with made(moving_server, moving_server, "shop") as found:
        run_sql(found.pair.target.url, LATER)
        for name, side in (("old", found.pair.source), ("new", found.pair.target)):
            segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": side.url}).expect(0)
        segue(*CREATE).expect(0)
        yield found


def test_a_move_from_create_to_complete_under_traffic(segue: Segue, moved: Moved) -> None:
    with traffic(moved, seed=5) as seen:
        started = segue("move", "start", "shop", "--json").expect(0).json
        assert set(started["tables"]) == {f"public.{table}" for table in TABLES}
        for verb in ("switch", "reverse", "switch"):
            done = segue("move", verb, "shop", "--budget", "20s", "--json").expect(0).json
            moved.open = seen.live = getattr(moved.pair, done["open"])
            assert done["open"] == ("source" if verb == "reverse" else "target")
            assert done["pause_ms"] > 0
            until(lambda mark=seen.acknowledged: seen.acknowledged > mark + 20)
        assert segue("move", "status", "shop", "--json").expect(0).json["open"] == "target"
        assert segue("move", "verify", "shop", "--json").expect(0).json["ok"]
    moved.level()
    assert seen.errors == []
    assert seen.wanted() == moved.content(moved.open) == moved.content(moved.closed)
    segue("move", "cancel", "shop", "--yes").expect(3)
    segue("move", "complete", "shop", "--yes").expect(0)
    assert moved.remains() == []
    assert "completed" in segue("ledger", "list", "--json").expect(0).stdout


#: Points of each phase in their order, and which side is open in the end.
PHASES = [
    ("start", ("move-armed", "move-published", "move-slot", "move-subscribed", "move-following"), "source"),
    ("switch", ("move-locked", "move-fenced"), "target"),
    ("reverse", ("move-drained", "move-fenced"), "source"),
]


def test_each_phase_is_resumed_by_a_new_process(
    segue: Segue, moved: Moved, new_crasher: Callable[..., Crasher]
) -> None:
    crasher = new_crasher(**segue.env)
    for verb, points, opened in PHASES:
        command = ["move", verb, "shop", *(["--budget", "20s"] if verb != "start" else [])]
        for point in points:
            killed = crasher(*command, kill=(point, 1))
            assert killed["status"] == -9, killed
        if verb != "start":
            assert crasher("move", "status", "shop")["status"] == 5
        again = crasher(*command)
        assert again["status"] == 0, again
        moved.open = getattr(moved.pair, opened)
        run_sql(moved.open.url, "UPDATE item SET n = n + 1")
    assert rogue_writes(moved) == []
    moved.level()
    assert moved.content(moved.open) == moved.content(moved.closed)
    crasher("move", "cancel", "shop", "--yes", kill=("move-removed", 1))
    segue("move", "cancel", "shop", "--yes").expect(0)
    assert moved.remains() == []


@pytest.mark.slow
def test_an_interrupted_switch_can_be_undone(segue: Segue, moved: Moved, new_crasher: Callable[..., Crasher]) -> None:
    segue("move", "start", "shop").expect(0)
    new_crasher(**segue.env)("move", "switch", "shop", "--budget", "20s", kill=("move-fenced", 1))
    assert segue("move", "switch", "shop", "--undo", "--json").expect(0).json["open"] == "source"
    run_sql(moved.open.url, "INSERT INTO item (code) VALUES ('later')")


def test_bad_moves_are_refused_before_anything_is_made(segue: Segue, moved: Moved) -> None:
    segue(*CREATE).expect(2)
    segue("move", "create", "other", "--from", "old", "--to", "old", "-t", "item").expect(64)
    segue("move", "start", "nosuch").expect(2)
    run_sql(moved.pair.target.url, "INSERT INTO item (id) VALUES (1)")
    refused = segue("move", "start", "shop", "--json").expect(2)
    assert "has rows" in refused.stdout
    assert moved.remains() == []
    segue("move", "status", "shop").expect(0)
