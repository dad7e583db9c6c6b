"""An application's fence: closed, it refuses every write but Segue's own; open, none; and nothing is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from fix_targets import Background, Open, apply, fill, make_role, rows, run_sql, session, traffic, until, value

from segue.databases.postgresql.cleaning import clean
from segue.databases.postgresql.target import PostgresTarget
from segue.errors import Blocked, FenceLost, LockNotGranted, PrivilegeMissing, StepFailed
from segue.model.fences import FenceState
from segue.ports import BACKWARD, FORWARD, Patience

TABLES = (
    "CREATE TABLE orders (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)",
    "INSERT INTO orders SELECT g FROM generate_series(1, 100) g",
    "CREATE TABLE lines (id serial PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE)",
    "CREATE TABLE days (at date NOT NULL) PARTITION BY RANGE (at)",
    "CREATE TABLE day_one PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')",
    "CREATE TABLE parent (id int)",
    "CREATE TABLE child () INHERITS (parent)",
    "INSERT INTO child VALUES (1)",
)
TRIGGERS = "SELECT count(*) FROM pg_trigger WHERE tgname = 'segue_fence'"


def quiet(words: str) -> None:
    """Take note of nothing."""


def close(
    target: PostgresTarget, tables: list[str] | None = None, *, direction: str = FORWARD, locks: float = 20
) -> FenceState:
    """Fence the application off."""
    fence = target.application_fence()
    fence.arm(direction, tables, Patience(locks, locks), quiet)
    fence.closing(60)
    return fence.close(tables, Patience(locks, locks), quiet)


def refused(connection: psycopg.Connection[Any], command: str) -> bool:
    """Return whether a command meets the fence; any other error is the test's."""
    try:
        connection.execute(command.encode())
    except psycopg.errors.SerializationFailure as error:
        if error.diag.constraint_name != "segue_fence":
            raise
        return True
    return False


WRITES = (
    "INSERT INTO orders VALUES (1000)",
    "UPDATE orders SET n = 1",
    "DELETE FROM lines",
    "TRUNCATE lines",
    "INSERT INTO orders VALUES (1) ON CONFLICT DO NOTHING",
    "WITH gone AS (DELETE FROM lines RETURNING 1) SELECT count(*) FROM gone",
    "COPY orders FROM PROGRAM 'true'",
    "MERGE INTO orders o USING (VALUES (1)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET n = 1",
    "INSERT INTO days VALUES ('2026-01-01')",
    "INSERT INTO day_one VALUES ('2026-01-01')",
    "UPDATE child SET id = 2",
    "SET session_replication_role = replica; UPDATE orders SET n = 1",
    "SET application_name = 'segue:other:1'; UPDATE orders SET n = 1",
    "SELECT set_config('segue.pass', 'guessed', false); UPDATE orders SET n = 1",
    "UPDATE orders SET n = 1 WHERE false",
)


def test_every_way_to_write_is_refused(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    close(target)

    def passed() -> list[str]:
        found = []
        for command in WRITES:
            with psycopg.connect(any_database, autocommit=True) as application:
                application.execute("SET search_path = public")
                application.execute("SELECT count(*) FROM orders, lines, days, child")
                if not refused(application, command):
                    found.append(command)
        return found

    assert passed() == []
    target.application_fence().open()
    assert passed() == list(WRITES)


def test_who_began_before_the_closing_is_refused_too(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    with psycopg.connect(any_database) as old, psycopg.connect(any_database) as planned:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM orders")
        planned.execute("PREPARE change AS UPDATE orders SET n = 2 WHERE id = 2")
        planned.execute("EXECUTE change")
        planned.rollback()
        planned.execute("SELECT FROM orders WHERE id = 1 FOR UPDATE")
        close(target)
        assert refused(old, "UPDATE orders SET n = 1")
        assert refused(planned, "EXECUTE change")
    assert value(any_database, "SELECT sum(n) FROM orders") == 0


def test_an_old_snapshot_takes_no_earlier_window_for_this_one(any_database: str, open_target: Open) -> None:
    """Its snapshot shows the fence of the window before, which is open."""
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    close(target)
    target.application_fence().open()
    with psycopg.connect(any_database) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM pg_class")
        close(target)
        assert refused(old, "UPDATE orders SET n = 1")
    target.application_fence().open()


def test_the_applications_own_role_meets_the_fence_and_learns_nothing(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    role = make_role(any_database, "GRANT SELECT, INSERT, UPDATE ON orders TO {role}")
    target = open_target(any_database)
    close(target)
    with psycopg.connect(role, autocommit=True) as application:
        with pytest.raises(psycopg.errors.SerializationFailure) as caught:
            application.execute("UPDATE orders SET n = 1")
        assert "Try the transaction again" in (caught.value.diag.message_hint or "")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            application.execute("SELECT pass FROM segue.fence")


def test_segues_own_sessions_pass(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database, "first")
    close(target)
    apply(target, "UPDATE orders SET n = n + 1")
    fill(target, "orders", set={"n": "n + 1"}, workers=2)
    with target.branch() as branch:
        apply(branch, "UPDATE orders SET n = n + 1", step="beside")
    joined = PostgresTarget.join(any_database, execution="first", holder="x", fence=target.fence, schema="public")
    apply(joined, "UPDATE orders SET n = n + 1", step="joined")
    joined.close()
    assert value(any_database, "SELECT min(n) FROM orders") == 4


def test_who_takes_over_finds_the_fence_closed_and_passes(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    first = open_target(any_database, "first")
    before = close(first)
    first.close()
    second = open_target(any_database, "first")
    apply(second, "UPDATE orders SET n = 1")
    assert close(second).closed_at == before.closed_at
    with psycopg.connect(any_database, autocommit=True) as application:
        assert refused(application, "UPDATE orders SET n = 2")


def test_a_process_that_lost_the_lease_opens_nothing(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    close(target)
    run_sql(any_database, "UPDATE segue.lease SET fence = fence + 1 WHERE role = 'fence'")
    with pytest.raises(FenceLost):
        target.application_fence().open()
    with psycopg.connect(any_database, autocommit=True) as application:
        assert refused(application, "UPDATE orders SET n = 2")


def test_another_execution_does_not_touch_a_standing_fence(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    first = open_target(any_database, "first")
    close(first)
    first.close()
    second = open_target(any_database, "second")
    with pytest.raises(Blocked, match=r"fenced off since .* by execution first") as caught:
        close(second)
    assert "segue resume first" in caught.value.hint


def test_closing_waits_for_who_has_written_and_names_whom(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    fence = target.application_fence()
    fence.arm(FORWARD, None, Patience(10, 10), quiet)
    with session(any_database, "SET application_name = 'slow'", "UPDATE orders SET n = 1") as writer:
        fence.closing(60)
        with pytest.raises(LockNotGranted) as caught:
            fence.close(None, Patience(0.5, 10), quiet)
        assert any("slow" in line for line in caught.value.details)
        with psycopg.connect(any_database, autocommit=True) as application:
            assert not refused(application, "INSERT INTO lines (order_id) VALUES (1)")
        closing = Background(lambda: close(target))
        time.sleep(0.3)
        assert closing.is_alive()
        writer.commit()
        assert closing.result().state == "closed"
    assert value(any_database, "SELECT sum(n) FROM orders") == 100


def test_a_table_that_appears_meanwhile_is_fenced_too(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    fence = target.application_fence()
    fence.arm(FORWARD, None, Patience(10, 10), quiet)
    run_sql(any_database, "CREATE TABLE day_two PARTITION OF days FOR VALUES FROM ('2026-01-02') TO ('2026-01-03')")
    fence.closing(60)
    fence.close(None, Patience(10, 10), quiet)
    with psycopg.connect(any_database, autocommit=True) as application:
        assert refused(application, "INSERT INTO day_two VALUES ('2026-01-02')")


def test_named_tables_only_with_what_is_below_them(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    close(target, tables=["days", "public.parent"])
    with psycopg.connect(any_database, autocommit=True) as application:
        assert refused(application, "INSERT INTO day_one VALUES ('2026-01-01')")
        assert refused(application, "INSERT INTO child VALUES (3)")
        assert not refused(application, "INSERT INTO orders VALUES (1000)")
    for name, word in (("nowhere", "not there"), ("lines_id_seq", "no table")):
        with pytest.raises(StepFailed, match=word):
            close(open_target_again(target), tables=[name])


def open_target_again(target: PostgresTarget) -> PostgresTarget:
    """Open the fence, so that it can be made for other tables."""
    target.application_fence().open()
    return target


def test_what_a_step_switches_off_is_switched_on_again(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    close(target)
    fence = target.application_fence()
    apply(target, "ALTER TABLE orders DISABLE TRIGGER USER; ALTER TABLE parent DISABLE TRIGGER ALL")
    apply(target, "ALTER TABLE parent ENABLE TRIGGER ALL", step="again")
    assert sorted(fence.hold(Patience(5, 5), quiet)) == ["orders", "parent"]
    assert fence.hold(Patience(5, 5), quiet) == []
    with psycopg.connect(any_database, autocommit=True) as application:
        assert refused(application, "UPDATE orders SET n = 1")
        assert refused(application, "SET session_replication_role = replica; INSERT INTO parent VALUES (1)")


def test_opening_waits_for_no_reader_and_the_triggers_go_later(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    close(target)
    fence = target.application_fence()
    with session(any_database, "SELECT count(*) FROM orders"):
        opened = fence.open()
        assert opened.state == "open"
        assert opened.stopped is not None
        with psycopg.connect(any_database, autocommit=True) as application:
            assert not refused(application, "INSERT INTO orders VALUES (1000)")
        assert fence.disarm(1, quiet) == ["orders"]
    assert fence.disarm(1, quiet) == []
    assert value(any_database, TRIGGERS) == 0


def test_tables_renamed_dropped_and_moved_do_not_keep_it_closed(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES, "CREATE SCHEMA attic")
    target = open_target(any_database)
    close(target)
    apply(
        target,
        "ALTER TABLE orders RENAME TO old; DROP TABLE lines; ALTER TABLE child SET SCHEMA attic; "
        "ALTER TABLE days DETACH PARTITION day_one; CREATE TABLE orders (id int)",
    )
    fence = target.application_fence()
    fence.open()
    with psycopg.connect(any_database, autocommit=True) as application:
        for table in ("old", "attic.child", "orders"):
            assert not refused(application, f"INSERT INTO {table} (id) VALUES (2000)")
    assert fence.disarm(1, quiet) == []
    assert value(any_database, TRIGGERS) == 0


def test_the_fence_is_no_drift_and_closes_again_for_the_way_back(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    target.remember("public", None)
    close(target)
    assert target.drift("public") is None
    fence = target.application_fence()
    fence.open()
    assert target.drift("public") is None
    assert close(target, direction=BACKWARD).direction == BACKWARD
    apply(target, "UPDATE orders SET n = 5")
    fence.open()
    assert fence.disarm(1, quiet) == []


def test_tables_of_others_cannot_be_left_out_unsaid(ordinary: str, any_database: str, open_target: Open) -> None:
    run_sql(any_database, "CREATE TABLE theirs (id int)")
    run_sql(ordinary, "CREATE TABLE ours (id int)")
    target = open_target(ordinary)
    with pytest.raises(PrivilegeMissing) as caught:
        close(target)
    assert caught.value.details == ["theirs"]
    assert close(target, tables=["ours"]).state == "closed"
    with psycopg.connect(any_database, autocommit=True) as application:
        assert refused(application, "INSERT INTO public.ours VALUES (1)")


def test_a_standing_fence_is_not_cleaned_away(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database, "first")
    close(target)
    target.close()
    with pytest.raises(Blocked, match="fenced off"):
        clean(any_database, holder="tester", export=lambda rows: None)
    target = open_target(any_database, "first")
    target.application_fence().open()
    target.close()
    assert clean(any_database, holder="tester", export=lambda rows: None).schema
    assert value(any_database, TRIGGERS) == 0
    run_sql(any_database, "INSERT INTO orders VALUES (1000)")


def writer(number: int, written: list[int]) -> Callable[[psycopg.Connection[Any], int], None]:
    """Return what a client does: it writes two tables in either order, and notes what was acknowledged."""
    chance = random.Random(number)

    def write(connection: psycopg.Connection[Any], turn: int) -> None:
        key = (number + 1) * 1_000_000 + turn
        commands = [
            f"INSERT INTO public.orders (id) VALUES ({key})",
            f"UPDATE public.parent SET id = id WHERE id = {number}",
        ]
        chance.shuffle(commands)
        with connection.transaction():
            for command in commands:
                connection.execute(command.encode())
        written.append(key)

    return write


def test_what_closing_meets_ends_in_nobodys_deadlock(any_database: str, open_target: Open) -> None:
    run_sql(any_database, *TABLES)
    target = open_target(any_database)
    written: list[int] = []
    with traffic() as running:
        for number in range(4):
            running.add(any_database, writer(number, written))
        until(lambda: running.done > 50)
        for _ in range(3):
            close(target)
            before = len(written)
            time.sleep(0.1)
            assert len(written) == before
            target.application_fence().open()
            target.application_fence().disarm(1, quiet)
            done = running.done
            until(lambda done=done: running.done > done + 20)
    assert {error.diag.constraint_name for error in running.errors} == {"segue_fence"}
    kept = {row[0] for row in rows(any_database, "SELECT id FROM orders WHERE id >= 1000000")}
    assert kept == set(written)
