"""What others do to the tables of a change, or to its triggers, is noticed before anything is swapped."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import run_sql, value
from psycopg.conninfo import make_conninfo

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
#: What others do meanwhile, and what is said of it.
DONE = {
    "create or replace view few as select id from t where id < 5": "view few is not as it was",
    "grant select on others to public": "view others is not as it was",
    "drop view gone": "view gone is gone",
    "create table history (r t)": "column r of table history is new",
    "alter table t alter v set not null": "column v of table t was integer, and is integer not null",
    "create publication theirs for table t": "publication of table t in publication theirs is new",
    FUNCTION.replace("count(*)", "max(v)"): "function used() is not as it was",
    "revoke execute on function called() from public": "function called() is not as it was",
}
ALONE = {"unseen": UNSEEN, "off": LEFT_OFF}


def meanwhile(monkeypatch: pytest.MonkeyPatch, database: str, *statements: str) -> None:
    """Have others do something right before the swap."""
    swap = PostgresChange._swap

    def between(self: PostgresChange, *args: object) -> object:
        run_sql(database, *statements)
        return swap(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresChange, "_swap", between)


@pytest.mark.parametrize("what", ALONE)
def test_writes_that_went_past_the_triggers_stop_the_swap(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run_sql(database, *TABLE)
    shops.open("shop", database)
    meanwhile(monkeypatch, database, ALONE[what])
    with pytest.raises(StepFailed, match="writes may have been missed"):
        shops.run(shops.add(PLAN))
    assert value(database, "select pg_typeof(v)::text from t limit 1") == "integer"


@pytest.mark.parametrize("done", [[*DONE], ["drop view few"]], ids=["all", "gone"])
def test_what_others_do_before_the_swap_stops_it_and_is_named(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    run_sql(database, *TABLE, FUNCTION, FUNCTION.replace("used", "called"))
    run_sql(database, "create view others as table t", "create view gone as table t")
    shops.open("shop", database)
    meanwhile(monkeypatch, database, *done)
    with pytest.raises(StepFailed, match="somebody has changed the tables") as stopped:
        shops.run(shops.add(PLAN))
    said = {line.replace("public.", "") for line in stopped.value.details}
    assert said >= {DONE.get(one, "view few is gone") for one in done}
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


def test_subscription_that_begins_meanwhile_stops_the_swap(
    logical_server: Server, shops: Shops, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, other = logical_server.database(), logical_server.database()
    run_sql(database, *TABLE)
    run_sql(other, TABLE[0], "create publication theirs for table t")
    source = make_conninfo(other)
    shops.open("shop", database)
    begun = (
        f"create subscription arriving connection '{source}' publication theirs "
        "with (create_slot = false, enabled = false, copy_data = false)"
    )
    meanwhile(monkeypatch, database, begun)
    with pytest.raises(StepFailed, match="somebody has changed the tables") as stopped:
        shops.run(shops.add(PLAN))
    run_sql(database, "alter subscription arriving set (slot_name = none)", "drop subscription arriving")
    assert "subscription arriving is new" in stopped.value.details
