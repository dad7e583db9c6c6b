"""Promise 7: a migration that waits for a lock never makes the application queue behind itself."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from fix_hostile import administrator
from fix_targets import (
    Background,
    Open,
    apply,
    drop_role,
    make_role,
    rows,
    run_sql,
    session,
    traffic,
    until,
    value,
)

from segue.databases.postgresql import locking
from segue.errors import LockNotGranted, SegueError, StepFailed

TABLES = (
    "CREATE TABLE parent (id int PRIMARY KEY, n int DEFAULT 0)",
    "CREATE TABLE child (id int PRIMARY KEY, parent int, n int DEFAULT 0)",
    "INSERT INTO parent SELECT generate_series(1, 50)",
    "INSERT INTO child SELECT n, n FROM generate_series(1, 50) n",
)


def read_and_write(connection: psycopg.Connection[Any], number: int) -> None:
    """Read and write both tables, and take it as an error when a statement waits for a lock longer than a slice."""
    connection.execute("SET lock_timeout = '900ms'")
    connection.execute("SELECT count(*) FROM child")
    connection.execute("UPDATE parent SET n = n + 1 WHERE id = %s", [number % 50 + 1])


def columns(url: str, table: str = "child") -> list[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    return [name for (name,) in rows(url, query, table)]


def test_the_application_goes_on_while_ddl_waits(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    with traffic() as application:
        for _ in range(3):
            application.add(any_database, read_and_write)
        with session(any_database, "SELECT count(*) FROM child"):
            ddl = Background(lambda: apply(target, "ALTER TABLE child ADD COLUMN m int", locks=30))
            until(lambda: target.waits.slices >= 5)
            before = application.done
            until(lambda: application.done > before + 20)
        ddl.result()
    assert application.errors == []
    assert "m" in columns(any_database)


def test_a_lock_that_cannot_be_had_is_given_up_with_the_blockers_named(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    with session(
        any_database, "SET application_name = 'report'", "SELECT count(*) FROM child /* of the month */"
    ) as other:
        with pytest.raises(LockNotGranted) as caught:
            apply(target, "ALTER TABLE child ADD COLUMN m int", locks=0.6)
        line = "\n".join(caught.value.details)
        assert f"pid {other.info.backend_pid} (report" in line
        assert "count(*) FROM child /* of the month */" in line
        assert "AccessShareLock on child" in line
    assert columns(any_database) == ["id", "parent", "n"]
    assert rows(any_database, "SELECT * FROM segue.history WHERE part >= 0") == []


def test_blockers_of_another_role_are_named_too(any_database: str, ordinary: str, open_target: Open) -> None:
    run_sql(ordinary, *TABLES, "GRANT SELECT ON child TO PUBLIC", "GRANT USAGE ON SCHEMA public TO PUBLIC")
    other = make_role(any_database)
    target = open_target(ordinary)
    try:
        with session(other, "SELECT count(*) FROM child") as reader:
            with pytest.raises(LockNotGranted) as caught:
                apply(target, "ALTER TABLE child ADD COLUMN m int", locks=0.5)
            assert f"pid {reader.info.backend_pid} (role_" in caught.value.details[0]
    finally:
        target.close()
        drop_role(any_database, other)


def test_a_row_that_is_waited_for_has_its_holder_named(database: str, open_target: Open) -> None:
    run_sql(database, *TABLES)
    target = open_target(database)
    with session(database, "UPDATE parent SET n = 5 WHERE id = 7") as other:
        with pytest.raises(LockNotGranted) as caught:
            apply(target, "UPDATE parent SET n = n + 1", locks=0.6)
        assert f"pid {other.info.backend_pid} " in caught.value.details[0]
        assert "UPDATE parent SET n = 5" in caught.value.details[0]
    assert value(database, "SELECT sum(n) FROM parent") == 0


def test_what_the_text_does_not_name_can_be_waited_for(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES, "CREATE INDEX child_n ON child (n)")
    target = open_target(any_database)
    block = "DO $$ BEGIN EXECUTE 'ALTER TABLE child ADD COLUMN m int'; END $$"
    with session(any_database, "SELECT count(*) FROM child") as other:
        for number, command in enumerate(("DROP INDEX child_n", block)):
            with pytest.raises(LockNotGranted) as caught:
                apply(target, command, step=f"s{number}", locks=0.5)
            assert f"pid {other.info.backend_pid} " in "\n".join(caught.value.details)
    apply(target, "DROP INDEX child_n", step="s0")
    apply(target, block, step="s1")
    assert "m" in columns(any_database)


def test_all_locks_of_a_transaction_share_one_slice(database: str, open_target: Open) -> None:
    run_sql(database, *(f"CREATE TABLE t{n} (id int)" for n in range(6)))
    target = open_target(database)
    sql = ";".join(f"ALTER TABLE t{n} ADD COLUMN m int" for n in range(6))
    with session(database, "SELECT * FROM t5"), traffic() as application:
        application.add(database, lambda connection, _: _quick(connection, "SELECT * FROM t0"))
        with pytest.raises(LockNotGranted):
            apply(target, sql, transaction=True, locks=3)
    assert application.errors == []
    assert application.done > 5


def test_the_partitions_of_a_table_share_one_slice(database: str, open_target: Open) -> None:
    run_sql(
        database,
        "CREATE TABLE p (id int) PARTITION BY LIST (id)",
        *(f"CREATE TABLE p{n} PARTITION OF p FOR VALUES IN ({n})" for n in range(13)),
    )
    target = open_target(database)

    def hold(connection: psycopg.Connection[Any], number: int, partition: int) -> None:
        with connection.transaction():
            connection.execute(f"SELECT 1 FROM p{partition}".encode())
            time.sleep(0.15 + (number * 7 + partition * 11) % 13 * 0.015)

    with traffic() as application:
        # Each partition is free soon after the one before it, and the whole table never.
        for partition in range(1, 13):
            application.add(database, lambda connection, number, n=partition: hold(connection, number, n))
            time.sleep(0.07)
        application.add(database, lambda connection, _: _quick(connection, "SELECT id FROM p"))
        with suppress(LockNotGranted):
            apply(target, "ALTER TABLE p ADD COLUMN m int", locks=3)
    assert application.errors == []


def _quick(connection: psycopg.Connection[Any], query: str) -> None:
    connection.execute("SET lock_timeout = '900ms'")
    connection.execute(query.encode())


def test_foreign_keys_lock_the_parent_first_and_cause_no_deadlock(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)

    def order(connection: psycopg.Connection[Any], number: int) -> None:
        with connection.transaction():
            connection.execute("UPDATE parent SET n = n + 1 WHERE id = %s", [number % 50 + 1])
            connection.execute("UPDATE child SET n = n + 1 WHERE id = %s", [number % 50 + 1])

    with traffic() as application:
        for _ in range(2):
            application.add(any_database, order)
        for number in range(5):
            apply(
                target,
                f"ALTER TABLE child ADD CONSTRAINT f{number} FOREIGN KEY (parent) REFERENCES parent NOT VALID",
                step=f"s{number}",
                locks=30,
            )
    assert application.errors == []
    assert (
        value(any_database, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'child'::regclass AND contype = 'f'")
        == 5
    )


def test_an_application_that_holds_the_child_and_wants_the_parent_is_not_the_victim(
    database: str, open_target: Open
) -> None:
    run_sql(database, *TABLES)
    target = open_target(database)
    with psycopg.connect(database) as application:
        application.execute("UPDATE child SET n = n + 1 WHERE id = 1")
        ddl = Background(
            lambda: apply(
                target, "ALTER TABLE child ADD CONSTRAINT f FOREIGN KEY (parent) REFERENCES parent NOT VALID", locks=30
            )
        )
        until(lambda: target.waits.slices >= 4)
        for _ in range(5):
            application.execute("UPDATE parent SET n = n + 1 WHERE id = 1")
            time.sleep(0.1)
        application.commit()
        ddl.result()
    assert value(database, "SELECT count(*) FROM pg_constraint WHERE conname = 'f'") == 1
    assert rows(database, "SELECT c.n, p.n FROM child AS c, parent AS p WHERE c.id = 1 AND p.id = 1") == [(1, 5)]


def test_an_instant_statement_that_is_not_is_cancelled_and_rolled_back(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.databases.postgresql.target.INSTANT_SECONDS", 0.5)
    run_sql(database, *TABLES)
    run_sql(
        administrator(database),
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(5); END $$",
        "CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION slow()",
    )
    target = open_target(database)
    with pytest.raises(StepFailed, match="stopped after"):
        apply(target, "ALTER TABLE child ADD COLUMN m int")
    assert columns(database) == ["id", "parent", "n"]
    assert rows(database, "SELECT * FROM segue.history") == []


def test_vacuum_full_does_not_queue_the_application(database: str, open_target: Open) -> None:
    run_sql(database, *TABLES)
    target = open_target(database)
    with session(database, "SELECT count(*) FROM child"), traffic() as application:
        application.add(database, read_and_write)
        with pytest.raises(LockNotGranted, match="VACUUM"):
            apply(target, "VACUUM FULL child", locks=2)
    assert application.errors == []
    apply(target, "VACUUM FULL child")
    assert value(database, "SELECT count(*) FROM child") == 50


def test_a_table_under_autovacuum_is_got(ordinary: str, administered: str, open_target: Open) -> None:
    # As an ordinary role, which may neither see nor cancel it: one slice outlasts the server's own patience.
    run_sql(ordinary, *TABLES, "INSERT INTO child SELECT n, 1 FROM generate_series(100, 5000) n")
    run_sql(
        ordinary,
        "ALTER TABLE child SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
        "UPDATE child SET n = 1",
    )
    naptime = "SELECT setting::int FROM pg_settings WHERE name = 'autovacuum_naptime'"
    if value(administered, naptime) > 5:
        run_sql(administered, "ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()")
    running = (
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = 'child'::regclass "
        "AND a.backend_type = 'autovacuum worker' AND l.mode = 'ShareUpdateExclusiveLock'"
    )
    try:
        until(lambda: value(administered, running), 60)
        target = open_target(ordinary)
        apply(target, "ALTER TABLE child ADD COLUMN m int", locks=20)
        assert target.waits.slices > 0
        assert all(blocker.autovacuum for blocker in target.waits.blockers)
    finally:
        run_sql(administered, "ALTER SYSTEM RESET autovacuum_naptime", "SELECT pg_reload_conf()")
    assert "m" in columns(ordinary)


def test_a_vacuum_to_prevent_wraparound_is_left_alone(database: str) -> None:
    from segue.ports import Blocker

    vacuum = Blocker(1, "autovacuum", "active", "autovacuum: VACUUM t (to prevent wraparound)", 1, "x", "t", True)
    with psycopg.connect(database, autocommit=True) as connection:
        assert locking._end_autovacuum(connection, [vacuum]) is False


def test_the_deadline_is_kept(database: str, open_target: Open) -> None:
    run_sql(database, *TABLES)
    target = open_target(database)
    with session(database, "SELECT count(*) FROM child"):
        began = time.monotonic()
        with pytest.raises(LockNotGranted):
            apply(target, "ALTER TABLE child ADD COLUMN m int", locks=2)
        assert time.monotonic() - began < 6


def test_nothing_is_left_of_an_attempt_that_failed_halfway(database: str, open_target: Open) -> None:
    run_sql(database, *TABLES)
    target = open_target(database)
    sql = "ALTER TABLE child ADD COLUMN m int; ALTER TABLE child ADD COLUMN m int"
    with pytest.raises(SegueError, match="already exists"):
        apply(target, sql, transaction=True)
    assert columns(database) == ["id", "parent", "n"]
    apply(target, "ALTER TABLE child ADD COLUMN m int")
    assert threading.active_count() < 50
