"""Two tables are compared row by row while both are written to: nothing that differs is missed, nothing is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fix_online import CHANGE, Assemble, HandMade
from fix_targets import rows, run_sql

from segue.databases.postgresql.online.verify import Verifier
from segue.model.online import Verified
from segue.ports import Pace

ITEMS = (
    "CREATE TABLE items (id int PRIMARY KEY, code text UNIQUE, n numeric, note text)",
    "INSERT INTO items SELECT g * 10, 'c' || g, g, CASE WHEN g % 3 > 0 THEN 'note ' || g END "
    "FROM generate_series(1, 300) g",
)
SHAPE = "(id bigint NOT NULL, code text, n numeric, note text)"


def settling(change: HandMade) -> Callable[[], None]:
    """Return what drains a change in a session of its own."""
    return lambda: None if change.drain().emptied else None


def verifier(change: HandMade, **settings: Any) -> Verifier:
    """Return a comparison of an assembled change, in small ranges."""
    settings = {"settle": settling(change), "seconds": 0.3, "largest": 40, **settings}
    return Verifier(change.site, change.flow, change.log, CHANGE, change.member, change.direction, **settings)


def verify(change: HandMade, *, workers: int = 1, boundary: Callable[[], None] = lambda: None, **more: Any) -> Verified:
    """Compare an assembled change."""
    return verifier(change, **more).run(workers=workers, pace=Pace, note=lambda _: None, boundary=boundary)


@pytest.fixture
def items(any_database: str, assemble: Assemble) -> HandMade:
    """Give a table of three hundred rows and its other side, brought up to date."""
    run_sql(any_database, *ITEMS)
    change = assemble(any_database, "items", SHAPE)
    change.settle()
    return change


def test_equal_tables_are_the_same_and_the_record_says_how_that_was_seen(items: HandMade) -> None:
    seen = verify(items, workers=2)
    assert (seen.rows, seen.rows_new, seen.differing, seen.ranges) == (300, 300, 0, 8)
    assert seen.digest_old == seen.digest_new != "0"
    assert seen.methods == {
        "id": "hash",
        "code": "hash",
        "n": "text (equal values of numeric may differ)",
        "note": "hash",
    }
    ranges = rows(
        items.url,
        "SELECT after, until, rows_old, rows_new, digest_old = digest_new, snapshot ~ '^\\d+:' FROM segue.verified "
        "ORDER BY (after[1])::int NULLS FIRST",
    )
    assert ranges[0] == (None, ["400"], 40, 40, True, True)
    assert ranges[-1] == (["2800"], None, 20, 20, True, True)


#: What is done to the other side behind our back, and the rows that are to be mended.
WRONG = {
    "a value": ("UPDATE {} SET note = 'x' WHERE id = 1550", 1),
    "a value to NULL": ("UPDATE {} SET note = NULL WHERE id = 1550", 1),
    "values of two rows": (
        "UPDATE {} SET note = CASE id WHEN 10 THEN 'note 2' ELSE 'note 1' END WHERE id IN (10, 20)",
        2,
    ),
    "a pair that is twice the same": ("UPDATE {} SET note = 'x' WHERE id IN (10, 3000)", 2),
    "the first row missing": ("DELETE FROM {} WHERE id = 10", 1),
    "the last row missing": ("DELETE FROM {} WHERE id = 3000", 1),
    "one in the middle missing": ("DELETE FROM {} WHERE id = 1000", 1),
    "all missing": ("DELETE FROM {}", 300),
    "one before the first": ("INSERT INTO {} VALUES (-5000000000, 'a', 1, 'b')", 1),
    "one after the last": ("INSERT INTO {} VALUES (5000, 'a', 1, 'b')", 1),
    "one in a gap": ("INSERT INTO {} VALUES (1005, 'a', 1, 'b')", 1),
    "one in place of another": ("UPDATE {} SET id = 1005 WHERE id = 1000", 2),
    "many in a gap": ("INSERT INTO {} SELECT 10000 + g, 'a', 1, 'b' FROM generate_series(1, 2500) g", 2500),
    "another scale": ("UPDATE {} SET n = n + 0.0 WHERE id = 1000", 1),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_was_changed_behind_our_back_is_found_and_mended(what: str, database: str, assemble: Assemble) -> None:
    run_sql(database, *ITEMS)
    change = assemble(database, "items", SHAPE)
    change.settle()
    statement, wrong = WRONG[what]
    if "5000000000" in statement:
        statement = statement.replace("5000000000", "500")  # a key that the source's type could hold
    run_sql(database, statement.format(change.into))
    assert change.differences() != []
    seen = verify(change)
    assert (seen.differing, seen.rows, seen.rows_new) == (wrong, 300, 300)
    assert change.differences() == []
