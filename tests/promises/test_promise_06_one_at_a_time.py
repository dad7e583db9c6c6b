"""Promise 6: a target has one holder; whoever lost the lease cannot write, and a killed one stands in nobody's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from fix_targets import Background, Open, apply, fill, rows, run_sql, terminate, until, value

from segue.databases.postgresql import lease as leases
from segue.databases.postgresql.lease import Lease
from segue.errors import Busy, FenceLost, PrivilegeMissing, SegueError

TESTS = str(Path(__file__).parents[1])

#: Takes the lease, and adds rows under it until it may not any more.
HOLDER = """
import sys
sys.path.insert(0, {tests!r})
from fix_targets import apply, fill
from segue.databases.postgresql.target import PostgresTarget
target = PostgresTarget({url!r}, execution="first", holder="ann", schema="public")
print("held", flush=True)
fill(target, "t", set={{"n": "n + 1"}}, batch={{"size": 1, "max": 1}}, pause=0.02)
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Give a function that starts a process which holds a target and backfills the table t row by row."""
    started: list[subprocess.Popen[str]] = []

    def begin(url: str) -> subprocess.Popen[str]:
        program = HOLDER.format(tests=TESTS, url=url)
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n", process.communicate()[1]
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def written(url: str) -> int:
    return int(value(url, "SELECT count(*) FROM t WHERE n > 0"))


def test_a_second_run_is_refused_with_the_holders_name(any_database: str, open_target: Open) -> None:
    open_target(any_database, "first", holder="ann on laptop")
    with pytest.raises(Busy, match='"ann on laptop" \\(execution first\\)'):
        open_target(any_database, "second")


def test_the_same_execution_cannot_run_twice(database: str, open_target: Open) -> None:
    open_target(database, "first", holder="ann")
    with pytest.raises(Busy, match="ann"):
        open_target(database, "first", holder="bob")


def test_of_many_takers_at_once_one_wins(database: str) -> None:
    gate = threading.Barrier(6)

    def take(number: int) -> Lease:
        gate.wait()
        return Lease(database, execution=f"e{number}", holder=f"h{number}", wait=0)

    takers = [Background(lambda number=number: take(number)) for number in range(6)]  # type: ignore[misc]
    held, refused = [], []
    for taker in takers:
        try:
            held.append(taker.result())
        except Busy as error:
            refused.append(error)
    assert (len(held), len(refused)) == (1, 5)
    held[0].close()


def test_a_lease_given_back_is_free_and_its_fence_grows(database: str, open_target: Open) -> None:
    fences = []
    for name in ("first", "second", "second"):
        target = open_target(database, name)
        fences.append(target.fence)
        target.close()
    assert fences == [1, 2, 3]


def test_a_killed_holders_lease_is_free_at_once(database: str, start: Start, open_target: Open) -> None:
    run_sql(
        database, "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)", "INSERT INTO t SELECT generate_series(1, 500)"
    )
    process = start(database)
    until(lambda: written(database) > 5)
    process.kill()
    target = open_target(database, "second")
    before = written(database)
    assert target.fence == 2
    assert value(database, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'segue:first:%'") == 0
    fill(target, "t", set={"n": "n + 1"})
    assert rows(database, "SELECT n, count(*) FROM t GROUP BY n ORDER BY n") == [(1, 500 - before), (2, before)]


def test_a_stopped_holder_is_taken_over_and_cannot_write_when_it_wakes(
    database: str, start: Start, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(
        database, "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)", "INSERT INTO t SELECT generate_series(1, 500)"
    )
    process = start(database)
    until(lambda: written(database) > 5)
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)

    target = until(lambda: _taken(open_target, database))
    stood = written(database)
    assert any("ann, silent" in who for who in target.taken_over)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(20) != 0
    assert written(database) == stood


def _taken(open_target: Open, url: str) -> object:
    try:
        return open_target(url, "second")
    except Busy:
        return None


def test_a_holder_that_works_is_not_taken_over(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.2)
    target = open_target(database, "first")
    # Its heartbeat goes on while a statement of its own runs long.
    long = Background(lambda: apply(target, "DO $$ BEGIN PERFORM pg_sleep(2.5); END $$"))
    for _ in range(3):
        with pytest.raises(Busy):
            Lease(database, execution="second", holder="bob", wait=0.5)
    long.result()


def test_takers_of_a_silent_holders_lease_do_not_end_each_other(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.5)
    open_target(database, "first").lease.pause()
    until(
        lambda: value(database, "SELECT clock_timestamp() - at > interval '1 s' FROM segue.lease WHERE role = 'fence'")
    )

    reached, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        # The first taker has the lock, and has not yet written that it has it.
        if name == "lease-locked" and not reached.is_set():
            reached.set()
            go_on.wait(10)

    monkeypatch.setattr(leases.journal, "point", hold)
    first = Background(lambda: Lease(database, execution="second", holder="bob", wait=5))
    assert reached.wait(10)
    with pytest.raises(Busy):
        Lease(database, execution="third", holder="eve", wait=1)
    go_on.set()
    won = first.result()
    won.alive()
    assert value(database, "SELECT execution FROM segue.lease WHERE role = 'fence'") == "second"
    won.close()


def test_a_lost_lease_stops_effects_and_chunks(database: str, open_target: Open) -> None:
    run_sql(
        database, "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)", "INSERT INTO t SELECT generate_series(1, 10)"
    )
    target = open_target(database, "first")
    # As after a takeover whose attempt to end this holder's sessions did not reach them.
    run_sql(database, "UPDATE segue.lease SET fence = fence + 1, execution = 'second' WHERE role = 'fence'")
    for work in (
        lambda: apply(target, "ALTER TABLE t ADD COLUMN m int"),
        lambda: apply(target, "CREATE INDEX CONCURRENTLY t_n ON t (n)", step="index"),
        lambda: fill(target, "t", set={"n": "n + 1"}),
    ):
        with pytest.raises(FenceLost):
            work()
    assert value(database, "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0") == 2
    assert value(database, "SELECT sum(n) FROM t") == 0
    assert value(database, "SELECT to_regclass('t_n') IS NULL")


def test_after_a_lost_connection_the_same_lease_goes_on(database: str, open_target: Open) -> None:
    target = open_target(database, "first")
    fence = target.fence
    terminate(database)
    target.recover(10)
    target.alive()
    assert target.fence == fence
    apply(target, "CREATE TABLE t (id int)")
    age = "SELECT extract(epoch FROM clock_timestamp() - at) FROM segue.lease WHERE role = 'heartbeat'"
    assert value(database, age) < leases.LEASE_SECONDS


def test_a_recovered_lease_is_heard_of_at_once(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = open_target(database, "first")
    run_sql(database, "UPDATE segue.lease SET at = at - interval '1 hour' WHERE role = 'heartbeat'")
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 60)
    terminate(database)
    target.recover(10)
    with pytest.raises(Busy, match=r"last heard of [01] s ago"):
        Lease(database, execution="second", holder="bob", wait=0.5)


def test_a_lease_taken_over_meanwhile_cannot_be_recovered(database: str, open_target: Open) -> None:
    target = open_target(database, "first")
    terminate(database)
    second = open_target(database, "second", holder="bob")
    second.close()
    with pytest.raises(FenceLost, match="bob"):
        target.recover(5)
    target.close()
    open_target(database, "third")  # it does not keep the lock that it was refused


def test_a_holder_elsewhere_is_busy_also_for_a_recovery(database: str, open_target: Open) -> None:
    target = open_target(database, "first")
    terminate(database)
    open_target(database, "second", holder="bob")
    with pytest.raises(SegueError) as caught:
        target.recover(1)
    assert isinstance(caught.value, FenceLost | Busy)
    assert "bob" in caught.value.message


def test_a_schema_made_beforehand_serves(database: str, open_target: Open) -> None:
    run_sql(database, "CREATE SCHEMA segue")
    target = open_target(database)
    assert target.fence == 1


def test_somebody_elses_schema_of_that_name_is_left_alone(database: str, open_target: Open) -> None:
    run_sql(database, "CREATE SCHEMA segue", "CREATE TABLE segue.songs (id int)")
    with pytest.raises(SegueError, match='schema "segue"'):
        open_target(database)
    assert value(database, "SELECT obj_description('segue'::regnamespace, 'pg_namespace') IS NULL")


def test_the_lease_is_by_database(new_database: Callable[[], str], open_target: Open) -> None:
    one, other = new_database(), new_database()
    open_target(one, "first").alive()
    second = open_target(other, "first")
    second.alive()
    with psycopg.connect(one) as connection:
        assert connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone()
    assert second.taken_over == []


def test_a_role_that_may_not_end_an_older_session_says_so(any_database: str, ordinary: str, open_target: Open) -> None:
    with (
        psycopg.connect(any_database, application_name="segue:old:1", autocommit=True),
        pytest.raises(PrivilegeMissing, match="segue:old:1") as caught,
    ):
        open_target(ordinary)
    assert "pg_signal_backend" in caught.value.hint
