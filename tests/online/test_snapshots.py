"""Who keeps a snapshot of before the swap is waited for: it would see an empty table."""

from __future__ import annotations

import psycopg
import pytest
from fix_shops import Shops
from fix_targets import Background, rows, run_sql, until

from segue.errors import NotFound


def noted(shops: Shops) -> str:
    try:
        return " ".join(shops.noted())
    except NotFound:
        return ""


PLAN = """
plan: reshape
version: 1.0.0
description: Give a table another shape
steps:
  - {name: reshape, kind: online-change, strategy: shadow-table, table: t, alter: [ALTER v TYPE bigint]}
"""


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_swap_waits_for_a_transaction_whose_snapshot_is_older(database: str, shops: Shops, level: str) -> None:
    run_sql(database, "create table t (id int primary key, v int)", "insert into t values (1, 1)", "create table o ()")
    shops.open("shop", database)
    plan = shops.add(PLAN)
    with psycopg.connect(database, autocommit=True) as old, psycopg.connect(database, autocommit=True) as ordinary:
        old.execute(f"begin isolation level {level}".encode())
        old.execute("select from o")
        ordinary.execute("begin")
        ordinary.execute("select from o")
        change = Background(lambda: shops.run(plan))
        until(lambda: "a snapshot of before the swap" in noted(shops).partition("waiting for locks")[2])
        assert "in 0 of 3 tries" in noted(shops)
        assert old.execute("select count(*) from t").fetchone() == (1,)
        old.execute("commit")
        change.result()
        ordinary.execute("rollback")
    assert rows(database, "select pg_typeof(v)::text from t") == [("bigint",)]


def test_old_snapshot_is_ended_where_its_application_may_be(database: str, shops: Shops) -> None:
    run_sql(database, "create table t (id int primary key, v int)", "insert into t values (1, 1)", "create table o ()")
    shops.open("shop", database)
    with psycopg.connect(database, application_name="reports", autocommit=True) as old:
        old.execute("begin isolation level repeatable read")
        old.execute("select from o")
        shops.run(shops.add(PLAN.replace("table: t,", "table: t, cancel_blockers: [reports],")))
        with pytest.raises(psycopg.OperationalError):
            old.execute("select from o")
    assert rows(database, "select pg_typeof(v)::text from t") == [("bigint",)]
    assert "ended: " in noted(shops)
