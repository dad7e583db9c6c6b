"""Segue's schema goes when nobody needs it, with its history kept elsewhere, and nothing else goes with it."""

from __future__ import annotations

from typing import Any

import pytest
from fix_targets import Open, apply, fill, run_sql, value

from segue.databases.postgresql.cleaning import clean
from segue.errors import Blocked, Busy

GONE = "SELECT to_regnamespace('segue') IS NULL"


def keep(into: list[dict[str, Any]]) -> Any:
    return into.extend


def test_everything_goes_and_the_history_is_exported(any_database: str, open_target: Open) -> None:
    run_sql(any_database, "CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t VALUES (1, 1)")
    target = open_target(any_database, "first")
    apply(target, "ALTER TABLE t ADD COLUMN m int")
    fill(target, "t", set={"m": "n"})
    target.close()
    history: list[dict[str, Any]] = []
    assert clean(any_database, holder="tester", export=keep(history)).schema
    assert value(any_database, GONE)
    assert {row["step"] for row in history} == {"step", "fill"}
    assert value(any_database, "SELECT m FROM t") == 1
    assert not clean(any_database, holder="tester", export=keep(history)).schema


def test_a_held_target_is_not_cleaned(any_database: str, open_target: Open) -> None:
    target = open_target(any_database, "first", holder="ann")
    with pytest.raises(Busy, match="ann"):
        clean(any_database, holder="tester", export=keep([]))
    target.alive()
    apply(target, "CREATE TABLE t (id int)")


def test_nothing_goes_when_the_history_could_not_be_kept(database: str, open_target: Open) -> None:
    open_target(database).close()

    def refuse(rows: list[dict[str, Any]]) -> None:
        raise OSError("the ledger's disk is full")

    with pytest.raises(OSError, match="full"):
        clean(database, holder="tester", export=refuse)
    assert not value(database, GONE)
    assert clean(database, holder="tester", export=keep([])).schema


@pytest.mark.parametrize(
    "command",
    [
        "CREATE VIEW theirs AS SELECT * FROM segue.history",
        "CREATE TABLE theirs (n int DEFAULT segue.f())",
    ],
)
def test_what_somebody_elses_object_needs_stays(database: str, open_target: Open, command: str) -> None:
    open_target(database).close()
    run_sql(database, "CREATE FUNCTION segue.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", command)
    with pytest.raises(Blocked) as caught:
        clean(database, holder="tester", export=keep([]))
    assert any("theirs" in line for line in caught.value.details)
    assert value(database, "SELECT to_regclass('segue.chunk') IS NOT NULL")


def test_a_trigger_on_the_applications_table_is_in_the_way(database: str, open_target: Open) -> None:
    open_target(database).close()
    run_sql(
        database,
        "CREATE TABLE t (id int)",
        "CREATE FUNCTION segue.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION segue.f()",
    )
    with pytest.raises(Blocked, match="triggers"):
        clean(database, holder="tester", export=keep([]))
    run_sql(database, "DROP TRIGGER g ON t")
    assert clean(database, holder="tester", export=keep([])).schema


def test_after_a_cleaning_work_begins_afresh(database: str, open_target: Open) -> None:
    open_target(database).close()
    assert clean(database, holder="tester", export=keep([])).schema
    target = open_target(database)
    assert target.fence == 1
    apply(target, "CREATE TABLE t (id int)")


def test_what_segue_did_not_make_is_not_dropped(database: str, open_target: Open) -> None:
    open_target(database).close()
    # As psql would make it for a role named "segue", whose search_path begins with the schema of its name.
    run_sql(database, "CREATE TABLE segue.precious AS SELECT 1 AS n")
    with pytest.raises(Blocked) as caught:
        clean(database, holder="tester", export=keep([]))
    assert caught.value.details == ["segue.precious"]
    assert value(database, "SELECT n FROM segue.precious") == 1
    run_sql(database, "ALTER TABLE segue.precious SET SCHEMA public")
    assert clean(database, holder="tester", export=keep([])).schema
    assert value(database, "SELECT n FROM public.precious") == 1
