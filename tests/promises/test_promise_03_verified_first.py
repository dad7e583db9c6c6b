"""Promise 3, verified before it counts: no swap before every row was compared, and a difference blocks it."""

from __future__ import annotations

from typing import Any

import pytest
from fix_shops import Shops
from fix_targets import rows, run_sql, value

from segue.databases.postgresql.online.change import PostgresChange
from segue.errors import StepFailed

PLAN = """
plan: widen
version: 1.0.0
description: Give a column room
steps:
  - {name: widen, kind: online-change, strategy: shadow-table, table: t, alter: [ALTER v TYPE bigint]}
"""
SHADOW = "SELECT format('%%I.t', nspname) FROM pg_namespace WHERE nspname LIKE 'segue%%new'"


@pytest.fixture
def spoilt(database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that has something happen to the new table once all rows are copied into it."""
    run_sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, v int, note text)",
        "INSERT INTO t SELECT g, g, 'note ' || g FROM generate_series(1, 2000) g",
    )
    shops.open("shop", database)
    settle = PostgresChange.settle

    def spoil(*statements: str) -> None:
        def after(self: PostgresChange, *args: Any) -> Any:
            done = settle(self, *args)
            shadow = value(database, SHADOW.replace("%%", "%"))
            run_sql(database, *(statement.format(shadow=shadow) for statement in statements))
            return done

        monkeypatch.setattr(PostgresChange, "settle", after)

    return spoil


def test_what_was_spoilt_in_the_new_table_is_found_and_repaired_before_the_swap(
    database: str, shops: Shops, spoilt: Any
) -> None:
    spoilt(
        "UPDATE {shadow} SET note = 'spoilt' WHERE id IN (7, 1999)",
        "DELETE FROM {shadow} WHERE id = 12",
        "INSERT INTO {shadow} VALUES (-1, 0, 'nobody wrote this')",
    )
    before = rows(database, "SELECT id, v, note FROM t ORDER BY id")
    shops.run(shops.add(PLAN))
    assert rows(database, "SELECT id, v, note FROM t ORDER BY id") == before
    assert value(database, "SELECT pg_typeof(max(v))::text FROM t") == "bigint"


def test_a_difference_that_comes_again_blocks_the_swap(database: str, shops: Shops, spoilt: Any) -> None:
    spoilt(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := ''spoilt''; RETURN NEW; END'",
        "CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON {shadow} FOR EACH ROW EXECUTE FUNCTION spoil()",
        "ALTER TABLE {shadow} ENABLE ALWAYS TRIGGER spoil",
        "UPDATE {shadow} SET v = v WHERE id = 7",
    )
    with pytest.raises(StepFailed):
        shops.run(shops.add(PLAN))
    assert value(database, "SELECT pg_typeof(max(v))::text FROM t") == "integer"
    assert value(database, "SELECT count(*) FROM t WHERE note = 'spoilt'") == 0
