"""What others do to the tables of a change, or to its triggers, is noticed before anything is swapped."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from fix_shops import Shops
from fix_targets import run_sql, value

from segue.databases.postgresql.online import change
from segue.databases.postgresql.online.change import PostgresChange
from segue.errors import PrivilegeMissing, StepFailed

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
FUNCTION = "create or replace function used() returns bigint language sql begin atomic select count(*) from t; end"
#: What is said of each.
WORDS = {
    "view": "view few is not as it was",
    "grant": "view few is not as it was",
    "row type": "column r of table history is new",
    "column": "column v of table t was integer, and is integer not null",
    "publication": "publication of table t in publication theirs is new",
    "function": "function used() is not as it was",
    "function's rights": "function used() is not as it was",
    "gone": "view few is gone",
}
MEANWHILE = {
    "unseen": (UNSEEN, "writes may have been missed"),
    "off": (LEFT_OFF, "writes may have been missed"),
    "view": ("create or replace view few as select id from t where id < 5", "somebody has changed"),
    "grant": ("grant select on few to public", "somebody has changed"),
    "row type": ("create table history (r t)", "somebody has changed"),
    "column": ("alter table t alter v set not null", "somebody has changed"),
    "gone": ("drop view few", "somebody has changed"),
    "publication": ("create publication theirs for table t", "somebody has changed"),
    "function": (FUNCTION.replace("count(*)", "count(*) + 1"), "somebody has changed"),
    "function's rights": ("revoke execute on function used() from public", "somebody has changed"),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_others_do_before_the_swap_stops_it(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    statement, said = MEANWHILE[what]
    run_sql(database, *TABLE, FUNCTION)
    shops.open("shop", database)
    swap = PostgresChange._swap

    def between(self: PostgresChange, *args: object) -> object:
        run_sql(database, statement)
        return swap(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresChange, "_swap", between)
    with pytest.raises(StepFailed, match=said) as stopped:
        shops.run(shops.add(PLAN))
    if what in WORDS:
        assert WORDS[what] in [line.replace("public.", "") for line in stopped.value.details]
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


def test_a_right_that_is_taken_away_is_noticed_before_everything_is_compared(
    ordinary: str, administered: str, shops: Shops, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = psycopg.conninfo.conninfo_to_dict(ordinary)["user"]
    run_sql(administered, "CREATE SCHEMA theirs", f"GRANT USAGE, CREATE ON SCHEMA theirs TO {role}")
    run_sql(ordinary, *(statement.replace(" t ", " theirs.t ") for statement in TABLE[:2]))
    shops.open("shop", ordinary)
    copied, verify, compared = PostgresChange.copied, PostgresChange.verify, []

    def revoke(self: PostgresChange) -> None:
        copied(self)
        run_sql(administered, f"REVOKE CREATE ON SCHEMA theirs FROM {role}")

    def compare(self: PostgresChange, *args: Any) -> Any:
        compared.append(args)
        return verify(self, *args)

    monkeypatch.setattr(change, "WATCH_SECONDS", 0)
    monkeypatch.setattr(PostgresChange, "copied", revoke)
    monkeypatch.setattr(PostgresChange, "verify", compare)
    plan = shops.add(PLAN.replace("table: t,", "table: theirs.t,"))
    with pytest.raises(PrivilegeMissing) as stopped:
        shops.run(plan)
    assert "GRANT CREATE ON SCHEMA theirs" in stopped.value.details[0]
    assert not compared
    run_sql(administered, f"GRANT CREATE ON SCHEMA theirs TO {role}")
    shops.run(plan)
    assert value(ordinary, "SELECT pg_typeof(v)::text FROM theirs.t LIMIT 1") == "bigint"
