"""What others do to the tables of a change, or to its triggers, is noticed before anything is swapped."""

from __future__ import annotations

import pytest
from fix_shops import Shops
from fix_targets import run_sql, value

from segue.databases.postgresql.online.change import PostgresChange
from segue.errors import StepFailed

TABLE = ("create table t (id int primary key, v int)", "insert into t select g, g from generate_series(1, 50) as g",
         "create view few as select id from t where id < 10")  # fmt: skip
PLAN = """
plan: reshape
version: 1.0.0
description: Give a table another shape
steps:
  - {name: reshape, kind: online-change, strategy: shadow-table, table: t, alter: [ALTER v TYPE bigint]}
"""
UNSEEN = (
    "begin; alter table t disable trigger user; update t set v = -1 where id = 1;"
    "alter table t enable trigger user; commit"
)
LEFT_OFF = "alter table t disable trigger user"
MEANWHILE = {
    "unseen": (UNSEEN, "writes may have been missed"),
    "off": (LEFT_OFF, "writes may have been missed"),
    "view": ("create or replace view few as select id from t where id < 5", "somebody has changed"),
    "grant": ("grant select on few to public", "somebody has changed"),
    "row type": ("create table history (r t)", "somebody has changed"),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_others_do_before_the_swap_stops_it(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    statement, said = MEANWHILE[what]
    run_sql(database, *TABLE)
    shops.open("shop", database)
    swap = PostgresChange._swap

    def between(self: PostgresChange, *args: object) -> object:
        run_sql(database, statement)
        return swap(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresChange, "_swap", between)
    with pytest.raises(StepFailed, match=said):
        shops.run(shops.add(PLAN))
    assert value(database, "select pg_typeof(v)::text from t limit 1") == "integer"


def test_the_way_back_is_refused_where_writes_went_past_its_log(database: str, shops: Shops) -> None:
    run_sql(database, *TABLE)
    shops.open("shop", database)
    shops.run(shops.add(PLAN))
    run_sql(database, UNSEEN)
    with pytest.raises(StepFailed, match="writes may have been missed"):
        shops.rollback()
    assert value(database, "select v from t where id = 1") == -1


@pytest.mark.parametrize("renamed", ["alter table t rename to t9", "create schema zz; alter table t set schema zz"])
def test_a_table_under_another_name_is_left_as_it_was(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch, renamed: str
) -> None:
    run_sql(database, *TABLE)
    shops.open("shop", database)
    settle = PostgresChange.settle

    def before(self: PostgresChange, *args: object) -> object:
        run_sql(database, renamed)
        return settle(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresChange, "settle", before)
    with pytest.raises(StepFailed):
        shops.run(shops.add(PLAN))
    shops.rollback()
    left = (
        "select (select count(*) from pg_trigger where tgname like 'segue%') + "
        "(select count(*) from pg_namespace where nspname like 'segue\\_%') + "
        "(select count(*) from pg_class where relname like '%\\_log\\_%' and relnamespace = 'segue'::regnamespace)"
    )
    assert value(database, left) == 0


def test_a_later_change_of_a_neighbour_closes_no_way_back(database: str, shops: Shops) -> None:
    run_sql(
        database,
        "create table t (id int primary key, v int)",
        "insert into t values (1, 1)",
        "create table lines (id int primary key, v int references t)",
        "insert into lines values (1, 1)",
    )
    shops.open("shop", database)
    one = shops.run(shops.add(PLAN)).execution
    other = PLAN.replace("plan: reshape", "plan: other").replace("table: t, alter", "table: lines, keys: false, alter")
    two = shops.run(shops.add(other.replace("ALTER v TYPE bigint", "ALTER id TYPE bigint"))).execution
    shops.rollback(two)
    shops.rollback(one)
    for table, column in (("t", "v"), ("lines", "id")):
        assert value(database, f"select pg_typeof({column})::text from {table}") == "integer"
    assert value(database, "select count(*) from pg_constraint where confrelid = 't'::regclass and convalidated") == 1
