"""Statements that run outside a transaction leave nothing INVALID behind, whatever interrupts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from fix_hostile import administrator
from fix_targets import Background, Open, apply, rows, run_sql, session, terminate, until, value

from segue.databases.postgresql import target as targets
from segue.errors import Busy, CannotTell, OutcomeUnknown, SegueError, StepFailed, TargetUnreachable

TABLE = ("CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t SELECT n, n FROM generate_series(1, 100) n")


def indexes(url: str, table: str = "t") -> dict[str, bool]:
    """Return a table's indexes but the primary key, with whether they are valid."""
    query = (
        "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = %s::regclass AND NOT i.indisprimary"
    )
    return dict(rows(url, query, table))


def leave_invalid(url: str, command: str) -> None:
    """Cancel a statement that waits for a transaction that is older than itself."""
    old = session(url, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT * FROM pg_class LIMIT 1")
    with old, psycopg.connect(url, autocommit=True) as builder:
        builder.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            builder.execute(command.encode())


CREATES = [
    "CREATE INDEX CONCURRENTLY i ON t (n)",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (n)",
    "CREATE UNIQUE INDEX CONCURRENTLY i ON t (n)",
]


@pytest.mark.parametrize("command", CREATES)
def test_an_invalid_index_left_behind_is_rebuilt(any_database: str, open_target: Open, command: str) -> None:
    run_sql(any_database, *TABLE)
    leave_invalid(any_database, command)
    assert indexes(any_database) == {"i": False}
    run = apply(open_target(any_database), command)
    assert indexes(any_database) == {"i": True}
    assert any("INVALID" in note for note in run.notes)


NAMES = [
    ("public", "Orders Of.Day", 'Day "Index".1'),
    ("Other Schema", "t", "i"),
    ("other", "order", "select"),
    ("other", 'a"b', "ünïcödé"),
    ("other", "t" * 63, "i" * 63),
]


@pytest.mark.parametrize(("schema", "table", "index"), NAMES)
def test_names_of_all_shapes_are_found(database: str, open_target: Open, schema: str, table: str, index: str) -> None:
    from psycopg import sql

    named = {"schema": sql.Identifier(schema), "table": sql.Identifier(schema, table), "index": sql.Identifier(index)}
    with psycopg.connect(database, autocommit=True) as connection:

        def text(query: str) -> str:
            return sql.SQL(query).format(**named).as_string(connection)  # type: ignore[arg-type]

        connection.execute(text("CREATE SCHEMA IF NOT EXISTS {schema}").encode())
        connection.execute(text("CREATE TABLE {table} (id int PRIMARY KEY, n int)").encode())
        # The same name where the search_path looks first must not be taken for it.
        if schema != "public":
            connection.execute(b"CREATE TABLE decoy (n int)")
            connection.execute(text("CREATE INDEX {index} ON decoy (n)").encode())
        create = text("CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} (n)")
        drop = text("DROP INDEX CONCURRENTLY {schema}.{index}")
    leave_invalid(database, create)
    target = open_target(database)
    quoted = f'"{schema}"."{table.replace(chr(34), chr(34) * 2)}"'
    apply(target, create)
    assert indexes(database, quoted) == {index: True}
    apply(target, drop, step="drop")
    assert indexes(database, quoted) == {}
    if schema != "public":
        assert indexes(database, "decoy") == {index: True}


def test_a_unique_index_that_meets_duplicates_leaves_nothing(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLE, "INSERT INTO t VALUES (101, 7)")
    target = open_target(any_database)
    command = "CREATE UNIQUE INDEX CONCURRENTLY i ON t (n)"
    with pytest.raises(StepFailed, match="could not create unique index") as caught:
        apply(target, command)
    assert any("(n)=(7)" in line for line in caught.value.details)
    assert indexes(any_database) == {}
    run_sql(any_database, "DELETE FROM t WHERE id = 101")
    apply(target, command)
    assert indexes(any_database) == {"i": True}


def test_an_index_that_stands_already_is_an_error_and_stays(database: str, open_target: Open) -> None:
    run_sql(database, *TABLE, "CREATE INDEX i ON t (n)")
    with pytest.raises(StepFailed, match="already exists"):
        apply(open_target(database), "CREATE INDEX CONCURRENTLY i ON t (id)")
    assert indexes(database) == {"i": True}


def test_an_invalid_index_of_another_table_is_not_touched(database: str, open_target: Open) -> None:
    run_sql(database, *TABLE, "CREATE TABLE other (n int)")
    leave_invalid(database, "CREATE INDEX CONCURRENTLY i ON other (n)")
    with pytest.raises(StepFailed, match="other"):
        apply(open_target(database), "CREATE INDEX CONCURRENTLY i ON t (n)")
    assert indexes(database, "other") == {"i": False}


def test_an_index_that_another_role_is_building_is_not_dropped(
    any_database: str, ordinary: str, open_target: Open
) -> None:
    run_sql(ordinary, *TABLE)
    target = open_target(ordinary)
    other = administrator(any_database)
    with session(other, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT * FROM pg_class LIMIT 1"):
        builder = Background(lambda: run_sql(other, "CREATE INDEX CONCURRENTLY i ON t (n)"))
        until(lambda: indexes(other) == {"i": False})
        with pytest.raises(Busy, match="building"):
            apply(target, "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (n)")
    builder.result()
    assert indexes(other) == {"i": True}


POINTS = ["effect-begun", "effect-ran"]


@pytest.mark.parametrize("where", [*POINTS, "inside"])
@pytest.mark.parametrize("command", CREATES[:2])
def test_a_build_that_lost_its_connection_ends_as_one_valid_index(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch, where: str, command: str
) -> None:
    run_sql(database, *TABLE)
    target = open_target(database)
    lose(database, target, monkeypatch, where, lambda: apply(target, command), indexes)
    target.recover(10)
    apply(target, command)
    assert indexes(database) == {"i": True}
    assert rows(database, "SELECT state FROM segue.history") == [("done",)]


def lose(
    url: str,
    target: Any,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    work: Callable[[], Any],
    look: Callable[[str], dict[str, bool]],
) -> None:
    """Run the work and end its sessions at a journal point, or while the statement waits."""
    if where == "inside":
        with session(url, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT * FROM pg_class LIMIT 1"):
            before = look(url)
            running = Background(work)
            until(lambda: look(url) != before or _waits(url))
            terminate(url)
            with pytest.raises(TargetUnreachable):
                running.result()
        return
    with monkeypatch.context() as patched:
        patched.setattr(targets.journal, "point", lambda name: terminate(url) if name == where else None)
        with pytest.raises(TargetUnreachable):
            work()


def _waits(url: str) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'segue:%' AND wait_event_type = 'Lock'"
    return bool(value(url, query))


@pytest.mark.parametrize("where", [*POINTS, "inside"])
def test_a_drop_that_lost_its_connection_is_finished(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run_sql(database, *TABLE, "CREATE INDEX i ON t (n)")
    target = open_target(database)
    command = "DROP INDEX CONCURRENTLY i"
    with session(database, "SELECT * FROM t") if where == "inside" else session(database):
        lose(database, target, monkeypatch, where, lambda: apply(target, command), indexes)
    target.recover(10)
    apply(target, command)
    assert indexes(database) == {}


@pytest.mark.parametrize("command", ["REINDEX INDEX CONCURRENTLY i", "REINDEX TABLE CONCURRENTLY t"])
def test_what_an_interrupted_rebuild_left_is_removed(any_database: str, open_target: Open, command: str) -> None:
    run_sql(any_database, *TABLE, "CREATE INDEX i ON t (n)")
    leave_invalid(any_database, command)
    assert [name for name, valid in indexes(any_database).items() if not valid]
    run = apply(open_target(any_database), command)
    assert indexes(any_database) == {"i": True}
    assert any("INVALID" in note for note in run.notes)


def test_a_build_that_takes_too_long_is_stopped_and_leaves_nothing(database: str, open_target: Open) -> None:
    run_sql(database, *TABLE)
    target = open_target(database)
    old = session(database, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT * FROM pg_class LIMIT 1")
    with old, pytest.raises(StepFailed, match="stopped after"):
        apply(target, "CREATE INDEX CONCURRENTLY i ON t (n)", work=0.5)
    assert indexes(database) == {}
    assert rows(database, "SELECT * FROM segue.history") == []


def test_a_removal_that_cannot_be_had_now_is_left_to_the_next_run(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "CLEARING_SECONDS", 0.3)
    run_sql(database, *TABLE)
    target = open_target(database)
    command = "CREATE INDEX CONCURRENTLY i ON t (n)"
    # A writer stands in the way of the build, and of the removal of what it leaves.
    with session(database, "UPDATE t SET n = n WHERE id = 1"), pytest.raises(StepFailed):
        apply(target, command, work=0.5)
    apply(target, command)
    assert indexes(database) == {"i": True}


def test_a_statement_that_shows_nowhere_needs_a_person(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_target(database)
    command = "ALTER SYSTEM SET segue.test = 'x'"
    with monkeypatch.context() as patched:
        patched.setattr(targets.journal, "point", lambda name: terminate(database) if name == "effect-begun" else None)
        with pytest.raises(OutcomeUnknown):
            apply(target, command)
    target.recover(10)
    with pytest.raises(CannotTell, match="ALTER SYSTEM"):
        apply(target, command)


def test_a_statement_that_the_server_refused_can_be_sent_again(database: str, open_target: Open) -> None:
    target = open_target(database)
    for _ in range(2):  # not: "cannot tell"
        with pytest.raises(SegueError, match="does not exist"):
            apply(target, "DROP DATABASE nowhere_to_be_found")


def test_a_detach_that_was_interrupted_is_finished(database: str, open_target: Open) -> None:
    run_sql(
        database,
        "CREATE TABLE p (day int) PARTITION BY RANGE (day)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (2)",
    )
    target = open_target(database)
    command = "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY"
    with session(database, "SELECT * FROM p"):
        running = Background(lambda: apply(target, command))
        until(lambda: value(database, "SELECT bool_or(inhdetachpending) FROM pg_inherits"))
        terminate(database)
        with pytest.raises(TargetUnreachable):
            running.result()
    target.recover(10)
    apply(target, command)
    assert rows(database, "SELECT * FROM pg_inherits") == []


def test_nobody_builds_beside_a_build_that_still_runs(database: str, open_target: Open, new_database: Any) -> None:
    """A killed client's back-end lives on inside its statement: the next holder ends it before it begins again."""
    run_sql(database, *TABLE)
    first = open_target(database, "e1")
    with session(database, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT * FROM pg_class LIMIT 1"):
        running = Background(lambda: apply(first, "CREATE INDEX CONCURRENTLY i ON t (n)"))
        until(lambda: indexes(database) == {"i": False})
        # Only the lease's session dies, as when a machine loses one of its connections.
        terminate(database, "segue:e1:lease")
        second = open_target(database, "e1")
        with pytest.raises(TargetUnreachable):
            running.result()
    apply(second, "CREATE INDEX CONCURRENTLY i ON t (n)")
    assert indexes(database) == {"i": True}
