"""A row that gets another key keeps, on the other side, the values of columns that this side has not."""

from __future__ import annotations

import pytest
from fix_online import CHANGE, Assemble, HandMade, relations_of
from fix_shops import Shops
from fix_targets import rows, run_sql

from segue.databases.postgresql.online import moves

PLAN = """
plan: narrow
version: 1.0.0
description: Drop a column
steps:
  - {name: narrow, kind: online-change, strategy: shadow-table, table: t, alter: [DROP gone]}
"""


def followed(url: str, assemble: Assemble) -> HandMade:
    """Give the way back of a change that dropped a column, with its rows."""
    run_sql(url, "CREATE TABLE t (id int PRIMARY KEY, code text)")
    change = assemble(url, "t", "(id int PRIMARY KEY, code text, gone text DEFAULT 'none')", kept=("gone",))
    relations = [each.model_copy(update={"goes_to": "public"}) for each in relations_of(url, change.flow.source)]
    moves.install(change.site, relations, change.flow, change.log, CHANGE)
    for line in moves.enable_sql(relations, change.flow, CHANGE):
        change.site.work.execute(line)
    run_sql(
        url,
        f"INSERT INTO {change.into} SELECT g, 'c' || g, 'old ' || g FROM generate_series(1, 9) AS g",
        f"INSERT INTO t SELECT id, code FROM {change.into}",
        f"DELETE FROM {change.log}",
    )
    return change


#: What is written between two drains, and which rows there are then, by where they were at first.
WRITTEN = {
    "one": (["UPDATE t SET id = 20 WHERE id = 2"], {20: 2}),
    "a chain": (["UPDATE t SET id = id + 10 WHERE id = 2", "UPDATE t SET id = 2 WHERE id = 12"], {2: 2}),
    "two chains": (["UPDATE t SET id = 12 WHERE id = 2", "UPDATE t SET id = 2 WHERE id = 3"], {12: 2, 2: 3}),
    "a place anew": (["UPDATE t SET id = 12 WHERE id = 2", "INSERT INTO t VALUES (2, 'new')"], {12: 2, 2: None}),
    "a place twice": (
        ["UPDATE t SET id = 12 WHERE id = 2", "UPDATE t SET id = 13 WHERE id = 12", "INSERT INTO t VALUES (12, 'x')"],
        {13: 2, 12: None},
    ),
    "all by one": (["UPDATE t SET id = id - 1", "UPDATE t SET id = id - 1"], {-1: 1, 0: 2, 3: 5, 7: 9}),
    "a key that goes": (["UPDATE t SET id = 12 WHERE id = 2", "DELETE FROM t WHERE id = 12"], {}),
    "a whole transaction": (
        ["BEGIN; UPDATE t SET id = 0 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; "
         "UPDATE t SET id = 2 WHERE id = 0; COMMIT"],
        {1: 2, 2: 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRITTEN)
def test_values_move_with_their_row(database: str, assemble: Assemble, what: str) -> None:
    check(followed(database, assemble), what)


def test_values_move_with_their_row_on_an_older_server(debian_database: str, assemble: Assemble) -> None:
    check(followed(debian_database, assemble), "all by one")


def check(change: HandMade, what: str) -> None:
    statements, wanted = WRITTEN[what]
    run_sql(change.url, *statements)
    change.drain(compare=True)
    found = dict(rows(change.url, f"SELECT id, gone FROM {change.into}"))
    assert {id_: found.get(id_) for id_ in wanted} == {
        id_: "none" if was is None else f"old {was}" for id_, was in wanted.items()
    }
    assert change.differences() == []
    assert change.drain(compare=True).keys == 0
    assert rows(change.url, f"SELECT * FROM {moves.place_of(change.log)}") == []


def test_values_move_through_a_conflict(database: str, assemble: Assemble) -> None:
    change = followed(database, assemble)
    run_sql(database, f"ALTER TABLE {change.into} ADD CHECK (code <> 'bad')")
    run_sql(database, "UPDATE t SET code = 'bad', id = 12 WHERE id = 2")
    assert change.drain().refused == 1
    run_sql(database, "UPDATE t SET id = 13 WHERE id = 12")
    assert change.drain().refused == 1
    run_sql(database, "UPDATE t SET code = 'good' WHERE id = 13")
    change.drain()
    assert rows(database, f"SELECT gone FROM {change.into} WHERE id IN (2, 12, 13)") == [("old 2",)]


def test_a_dropped_column_comes_back_with_rows_whose_key_has_changed(debian_database: str, shops: Shops) -> None:
    run_sql(
        debian_database,
        "CREATE TABLE t (id int PRIMARY KEY, code text, gone text)",
        "INSERT INTO t SELECT g, 'c' || g, 'old ' || g FROM generate_series(1, 200) AS g",
    )
    shops.open("shop", debian_database)
    shops.run(shops.add(PLAN))
    run_sql(
        debian_database, "UPDATE t SET id = id + 1000, code = 'moved' WHERE id % 2 = 0", "DELETE FROM t WHERE id = 5"
    )
    shops.rollback()
    assert rows(debian_database, "SELECT count(*) FROM t WHERE gone = 'old ' || (id % 1000)") == [(199,)]
    assert rows(debian_database, "SELECT count(*) FROM pg_class WHERE relname LIKE '%moves'") == [(0,)]
