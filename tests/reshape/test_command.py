"""`segue move --shape` as a user meets it, and resumed after kill -9 at every phase."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fix_crash import Crasher
from fix_process import Segue
from fix_targets import run_sql
from fix_unlike import SHAPE, Reshaped

Make = Callable[..., Reshaped]
CREATE = ("move", "create", "shop", "--from", "old", "--to", "new", "--shape", "shape.yaml")


@pytest.fixture
def move(reshape: Make, segue: Segue) -> Reshaped:
    """Give two environments, "old" and "new", and a move between their shapes, which is created."""
    found = reshape()
    for name, url in (("old", found.source), ("new", found.target)):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": url}).expect(0)
    (segue.folder / "shape.yaml").write_text(SHAPE)
    segue(*CREATE).expect(0)
    return found


def test_a_move_from_create_to_complete(segue: Segue, move: Reshaped) -> None:
    assert segue("move", "start", "shop", "--json").expect(0).json["tables"]["public.customers"] == 300
    run_sql(move.source, "UPDATE users SET last = 'new' WHERE id < 10", "DELETE FROM notes WHERE id < 10")
    assert segue("move", "status", "shop", "--json").expect(0).json["lag_rows"] == 18
    assert segue("move", "follow", "shop", "--once", "--json").expect(0).json["entries"] == 18
    standing = segue("move", "status", "shop", "--json").expect(0).json
    assert (standing["lag_seconds"], standing["lag_rows"]) == (0, 0)
    assert segue("move", "verify", "shop", "--json").expect(0).json["ok"]
    run_sql(move.source, "UPDATE countries SET code = 'XX' WHERE id = 1")
    found = segue("move", "verify", "shop", "--settle", "1s", "--report", "found.json").expect(1)
    assert "is different in country_code" in found.stdout
    run_sql(move.source, "UPDATE countries SET code = 'DE' WHERE id = 1")
    for verb, opened in (("switch", "target"), ("reverse", "source"), ("switch", "target")):
        done = segue("move", verb, "shop", "--budget", "20s", "--json").expect(0).json
        assert done["open"] == opened
        table = "customers SET born = '1999-01-01'" if opened == "target" else "users SET born = '1998-01-01'"
        run_sql(move.url(opened), f"UPDATE {table}")
    segue("move", "cancel", "shop", "--yes").expect(3)
    segue("move", "follow", "shop", "--once").expect(0)
    assert move.content("source") == move.content("target")
    segue("move", "complete", "shop", "--yes").expect(0)
    assert move.remains() == []


#: Points of each phase in their order, and which side is open in the end.
PHASES = [
    (
        "start",
        ("reshape-captured", "reshape-moment", "reshape-copied", "reshape-applied"),
        "source",
    ),
    ("follow", ("reshape-applied", "reshape-turned"), "source"),
    ("switch", ("move-locked", "move-fenced"), "target"),
    ("reverse", ("reshape-applied", "move-drained", "move-fenced"), "source"),
]


def test_each_phase_is_resumed_by_a_new_process(
    segue: Segue, move: Reshaped, new_crasher: Callable[..., Crasher]
) -> None:
    crasher = new_crasher(**segue.env)
    more = {"follow": ["--once"], "switch": ["--budget", "20s"], "reverse": ["--budget", "20s"]}
    opened = "source"
    for verb, points, after in PHASES:
        command = ["move", verb, "shop", *more.get(verb, [])]
        for point in points:
            change = "users SET first = first || '.'" if opened == "source" else "customers SET full_name = 'a b'"
            run_sql(move.url(opened), f"UPDATE {change} WHERE {'id' if opened == 'source' else 'customer_id'} < 50")
            killed = crasher(*command, kill=(point, 1))
            assert killed["status"] == -9, (point, killed)
        if verb in ("switch", "reverse"):
            assert crasher("move", "status", "shop")["status"] == 5
        again = crasher(*command)
        assert again["status"] == 0, again
        opened = after
    move.level()
    assert move.content("source") == move.content("target")
    crasher("move", "cancel", "shop", "--yes", kill=("reshape-removed", 1))
    segue("move", "cancel", "shop", "--yes").expect(0)
    assert move.remains() == []
