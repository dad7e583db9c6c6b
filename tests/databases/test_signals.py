"""What the signals read on real servers: with ordinary privileges, and never nothing for what is hidden."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from fix_standbys import Server
from fix_targets import Background, drop_role, make_role, run_sql, session, terminate, until, value

from segue.databases.postgresql import signals
from segue.databases.postgresql.signals import Gauge
from segue.errors import SegueError, StepFailed
from segue.model.throttling import Reading, Signals, settings_of


class Look:
    """A gauge on a database, and what it reads."""

    def __init__(self, url: str) -> None:
        self.gauge = Gauge(url, application="segue:test:1", schema="public")

    def all(self, *replicas: str, **limits: object) -> Signals:
        return self.gauge.signals(settings_of(limits), replicas)

    def one(self, name: str, *replicas: str, **limits: object) -> Reading:
        (found,) = [reading for reading in self.all(*replicas, **limits).readings if reading.name == name]
        return found


@pytest.fixture
def look(any_database: str) -> Iterator[Look]:
    found = Look(any_database)
    yield found
    found.gauge.close()


@pytest.fixture
def own(own_server: Server) -> Iterator[Look]:
    found = Look(own_server.database())
    yield found
    found.gauge.close()


def test_a_quiet_server_is_read_as_such(look: Look) -> None:
    found = look.all()
    assert {reading.name for reading in found.readings} >= {"sessions", "lock waits", "blocked by us"}
    assert found.unseen == {}
    assert [reading.words for reading in found.readings if reading.state == "stop"] == []


def test_an_ordinary_role_is_told_what_it_cannot_see(ordinary: str) -> None:
    with psycopg.connect(ordinary) as connection:
        hidden = signals.visible(connection)
    assert [name for name, why in hidden.items() if why is None] == [
        *("slot-backlog", "archive-backlog", "wal-rate", "lock-waiters", "blocked-sessions")
    ]
    assert "GRANT pg_monitor TO" in str(hidden["active-sessions"])
    assert hidden["statements"] == "the extension pg_stat_statements is not installed in this database"


def test_a_hidden_signal_is_named_and_stops_only_who_asked_for_it(ordinary: str) -> None:
    found = Look(ordinary)
    assert list(found.all().unseen) == ["sessions"]
    asked = found.one("sessions", active_sessions=50)
    assert asked.state == "unknown"
    assert "hidden; GRANT pg_monitor" in asked.words
    found.gauge.close()


def test_a_member_of_pg_monitor_sees_everything(any_database: str) -> None:
    role = make_role(any_database, "GRANT pg_monitor TO {role}")
    with psycopg.connect(role) as connection:
        assert {name for name, why in signals.visible(connection).items() if why} == {"statements"}
    drop_role(any_database, role)


def test_who_waits_for_a_lock_is_counted_and_who_waits_for_ours(ordinary: str) -> None:
    run_sql(ordinary, "CREATE TABLE t (id int)")
    found = Look(ordinary)
    with psycopg.connect(ordinary, application_name="segue:other:1") as ours:
        ours.execute("LOCK TABLE t")
        waiting = Background(lambda: run_sql(ordinary, "SELECT FROM t"))
        behind = until(lambda: (it := found.one("blocked by us", blocked_sessions=0)).value and it)
        assert (behind.value, behind.state) == (1, "stop")
        assert found.one("lock waits").value == 1
        ours.rollback()
    waiting.result()
    assert found.one("lock waits").words == "0 sessions wait for locks"
    found.gauge.close()


def test_a_short_wait_is_none(look: Look, any_database: str) -> None:
    run_sql(any_database, "CREATE TABLE t (id int)")
    with session(any_database, "LOCK TABLE t"):
        waiting = Background(lambda: run_sql(any_database, "SELECT FROM t"))
        until(lambda: value(any_database, "SELECT count(*) FROM pg_locks WHERE NOT granted"))
        assert look.one("blocked by us", blocked_sessions=0).value == 0  # it is not Segue that holds the lock
    waiting.result()


def test_sessions_at_work_have_the_servers_own_limit(look: Look, any_database: str) -> None:
    with psycopg.connect(any_database, autocommit=True) as other:
        working = Background(lambda: other.execute("SELECT pg_sleep(0.7)"))
        busy = until(lambda: (it := look.one("sessions")).value and it)
        assert busy.limit == 160  # of 200 connections
        assert look.one("sessions", active_sessions=0).state == "stop"
        working.result()


def test_a_limit_of_none_is_not_looked_at(look: Look) -> None:
    names = {reading.name for reading in look.all(lock_waiters="none", blocked_sessions="none").readings}
    assert names.isdisjoint({"lock waits", "blocked by us"})


def test_a_replica_that_is_expected_and_not_there_stops(look: Look) -> None:
    reading = look.one("replica standby1", "standby1")
    assert (reading.state, reading.words) == ("stop", 'replica "standby1" is not connected')
    assert look.all("standby1", replica_lag="none", replica_delay="none").readings != []
    assert "replica standby1" not in {
        one.name for one in look.all("standby1", replica_lag="none", replica_delay="none").readings
    }


def test_an_unused_slot_that_holds_back_wal_stops(own: Look, own_server: Server) -> None:
    own_server.run("SELECT pg_create_physical_replication_slot('left_behind', true)")
    own_server.run("CREATE TABLE wal AS SELECT g, repeat('x', 500) FROM generate_series(1, 2000) g", "DROP TABLE wal")
    assert own.one("slot left_behind").state == "ok"
    reading = own.one("slot left_behind", slot_backlog="100kB")
    assert reading.state == "stop"
    assert reading.words.startswith('replication slot "left_behind" holds back ')
    own_server.run("SELECT pg_drop_replication_slot('left_behind')")


def test_a_slot_may_keep_half_of_what_the_server_lets_it(own: Look, own_server: Server) -> None:
    own_server.run(
        "SELECT pg_create_physical_replication_slot('kept', true)",
        "ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'",
        "SELECT pg_reload_conf()",
    )
    until(lambda: own.one("slot kept").limit == 2**29)
    own_server.run(
        "ALTER SYSTEM RESET max_slot_wal_keep_size",
        "SELECT pg_reload_conf()",
        "SELECT pg_drop_replication_slot('kept')",
    )


def test_an_archive_that_does_not_keep_up_is_seen(own: Look, own_server: Server) -> None:
    write = ("CREATE TABLE wal AS SELECT 1 AS n", "SELECT pg_switch_wal()", "DROP TABLE wal")
    own_server.run(*write)
    until(lambda: [one.value for one in own.all().readings if one.name == "archive"] == [0])
    own_server.run("ALTER SYSTEM SET archive_command = 'false'", "SELECT pg_reload_conf()")
    for _ in range(3):
        own_server.run(*write)
    behind = until(lambda: (it := own.one("archive", archive_backlog="40MB")).state == "stop" and it)
    assert behind.words.startswith("50.3 MB of WAL wait to be archived")
    own_server.run("ALTER SYSTEM RESET archive_command", "SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("current", "archived", "behind"),
    [
        ("000000010000000000000005", "000000010000000000000004", 0),
        ("000000010000000100000000", "0000000100000000000000FD", 2),
        ("000000010000000000000005", "000000010000000000000003.00000028.backup", 1),
        ("000000020000000000000005", "000000010000000000000004", None),
        ("000000010000000000000005", None, None),
        ("000000010000000000000005", "00000002.history", None),
    ],
)
def test_files_that_wait_for_the_archive_are_counted_by_name(
    current: str, archived: str | None, behind: int | None
) -> None:
    assert signals._segments(current, archived, 2**24) == behind


def test_the_rate_of_wal_is_read_over_some_seconds(own: Look, own_server: Server) -> None:
    own.all()
    own_server.run("CREATE TABLE wal AS SELECT g, repeat('x', 500) FROM generate_series(1, 9000) g", "DROP TABLE wal")
    busy = until(lambda: next((one for one in own.all(wal_rate="1kB/s").readings if one.name == "WAL"), None))
    assert busy.state == "stop"


def test_checkpoints_that_volume_forces_are_timed(own: Look, own_server: Server) -> None:
    own.all()
    for _ in range(2):
        own_server.run("CREATE TABLE wal AS SELECT 1 AS n", "DROP TABLE wal", "CHECKPOINT")
        until(own.all)
    gap = until(
        lambda: next((one for one in own.all(checkpoint_gap="10m").readings if one.name == "checkpoints"), None)
    )
    assert gap.state == "stop"


def test_statements_are_the_applications_alone(own: Look, own_server: Server) -> None:
    url = own.gauge._url
    assert own.gauge.statements_missing() == "the extension pg_stat_statements is not installed in this database"
    run_sql(url, "CREATE EXTENSION pg_stat_statements", "CREATE TABLE t (id int)")
    assert own.gauge.statements_missing() is None
    own.gauge.statements()
    with psycopg.connect(url, autocommit=True, application_name="segue:other:1") as ours:
        ours.execute("SELECT pg_sleep(0.3), count(*) FROM t")
        assert own.gauge.statements() is None
        ours.execute("SELECT pg_sleep(0.3), count(*) FROM t")
        assert own.gauge.statements() is None
    run_sql(url, "SELECT pg_sleep(0.05) FROM generate_series(1, 2)")
    took = until(own.gauge.statements)
    assert 90 < took < 290


def test_statements_of_another_role_count_though_their_text_is_hidden(own_server: Server) -> None:
    url = own_server.database()
    run_sql(url, "CREATE EXTENSION pg_stat_statements")
    role = make_role(url)
    found = Look(role)
    assert found.gauge.statements() is None
    run_sql(url, "SELECT pg_sleep(0.1)")
    assert until(found.gauge.statements) > 20
    found.gauge.close()


def test_a_probe_reads_and_does_nothing_else(look: Look, any_database: str) -> None:
    run_sql(any_database, "CREATE TABLE t (id int)")
    assert look.gauge.time("SELECT count(*) FROM t WHERE id::text LIKE '5%'") < 1000
    assert look.gauge.time(None) > 0
    for bad, said in (
        ("INSERT INTO t VALUES (1)", "read-only"),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SELECT nothing", '"nothing" does not exist'),
    ):
        with pytest.raises(StepFailed, match=said):
            look.gauge.time(bad)


def test_a_gauge_that_lost_its_sessions_opens_new_ones(look: Look, any_database: str) -> None:
    look.all()
    look.gauge.time(None)
    assert terminate(any_database, "segue:test:1") == 2
    assert look.all().readings
    assert look.gauge.sample().round_trip_ms > 0
    assert look.gauge.time(None) > 0


def test_a_gauge_ends_what_it_is_asking_when_it_is_closed(any_database: str) -> None:
    found = Look(any_database)
    asking = Background(lambda: found.gauge.time("SELECT pg_sleep(4)"))
    until(lambda: value(any_database, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'segue:test:1'"))
    found.gauge.close()
    with pytest.raises(SegueError):
        asking.result(3)
    until(
        lambda: not value(any_database, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'segue:%'")
    )


def test_a_function_that_was_taken_away_hides_its_signals_and_stops_for_replicas(own_server: Server) -> None:
    url = own_server.database()
    role = make_role(url, "GRANT pg_monitor TO {role}")
    run_sql(url, "REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM PUBLIC")
    found = Look(role)
    readings = {one.name: one for one in found.all("standby1", slot_backlog="1GB").readings}
    assert readings["replica standby1"].words == 'replica "standby1" cannot be seen'
    assert (readings["replica standby1"].state, readings["slot backlog"].state) == ("unknown", "unknown")
    assert "permission denied" in readings["slot backlog"].words
    assert {"replica lag", "wal rate", "active sessions"} <= set(found.all().unseen)
    assert "lock waits" in readings
    found.gauge.close()
    drop_role(url, role)
