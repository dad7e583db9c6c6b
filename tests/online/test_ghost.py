"""The capture through a replication slot: what it finds, what it waits for, and what it survives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from fix_online import CHANGE, PATIENCE, Assemble, replica_role
from fix_standbys import Server
from fix_targets import Background, drop_role, make_role, rows, run_sql, session, terminate, until, value
from fix_wal import ITEMS, NEW_ITEMS, Followed, member_of, no_standby, writing
from psycopg import conninfo

from segue.databases.postgresql.lease import Lease
from segue.databases.postgresql.locking import NotThisTime
from segue.databases.postgresql.online import ghost, slots
from segue.databases.postgresql.online.drain import Drainer, drain
from segue.errors import FenceLost, LockNotGranted, SlotLost, StepFailed

Follow = Callable[..., Followed]

#: For what no version of the server does otherwise.
here = pytest.mark.parametrize("any_logical", ["embedded"], indirect=True)

WRITES = """
    INSERT INTO items SELECT g, 'c' || g, g, NULL FROM generate_series(1, 5) AS g;
    UPDATE items SET n = NULL WHERE id = 2;
    UPDATE items SET id = 20 WHERE id = 3;
    DELETE FROM items WHERE id = 4;
"""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a reader look after its slot often, and nobody wait long for a session that nobody ends."""
    monkeypatch.setattr(ghost, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(slots, "STALE_SECONDS", 0.1)


@pytest.fixture
def items(any_logical: Server, follow: Follow) -> Followed:
    """Give a table `items` that is followed, empty."""
    found = follow(any_logical, ITEMS, items=NEW_ITEMS)
    found.begin()
    return found


def insert(url: str, *ids: int) -> None:
    run_sql(url, *(f"INSERT INTO items VALUES ({number})" for number in ids))


# -- what is found


def test_every_touched_key_comes_old_and_new(items: Followed) -> None:
    reader = items.reader()
    run_sql(items.url, WRITES)
    reader.barrier(10)
    assert items.keys() == [1, 2, 3, 4, 5, 20]
    run_sql(items.url, "TRUNCATE items")
    reader.barrier(10)
    assert items.keys() == [1, 2, 3, 4, 5, 20, None]


@here
def test_what_is_rolled_back_does_not_come(items: Followed) -> None:
    reader = items.reader()
    run_sql(items.url, "BEGIN; INSERT INTO items VALUES (1); ROLLBACK")
    run_sql(
        items.url,
        "BEGIN; INSERT INTO items VALUES (2); SAVEPOINT a; INSERT INTO items VALUES (3); ROLLBACK TO a; "
        "SAVEPOINT b; INSERT INTO items VALUES (4); RELEASE b; COMMIT",
    )
    reader.barrier(10)
    assert items.keys() == [2, 4]


@here
def test_the_transaction_of_an_entry_is_the_one_that_committed_it(items: Followed) -> None:
    reader = items.reader()
    with psycopg.connect(items.url) as connection:
        connection.execute("SAVEPOINT a")
        connection.execute("INSERT INTO items VALUES (1)")
        xid = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
    reader.barrier(10)
    assert xid is not None
    assert value(items.url, f"SELECT xid::text FROM {items.hand.log}") == xid[0]


@here
def test_keys_of_every_kind_come_as_they_are_whatever_the_defaults(any_logical: Server, follow: Follow) -> None:
    odd = '("a b" text COLLATE "C", at timestamptz, f double precision, b bytea, i interval, n numeric'
    found = follow(
        any_logical,
        f'CREATE TABLE odd {odd}, PRIMARY KEY ("a b", at, f, b, i, n))',
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET DateStyle = ''SQL, DMY''', current_database()); "
        "EXECUTE format('ALTER DATABASE %I SET IntervalStyle = sql_standard', current_database()); "
        "EXECUTE format('ALTER DATABASE %I SET extra_float_digits = -15', current_database()); "
        "EXECUTE format('ALTER DATABASE %I SET bytea_output = escape', current_database()); "
        "EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Kathmandu''', current_database()); END $$",
        odd=f"{odd})",
    )
    found.begin()
    reader = found.reader()
    run_sql(
        found.url,
        r"INSERT INTO odd VALUES (E'tab\t \\ line\n é', '2024-02-01 03:04:05.678901+09', 0.1 + 0.2, '\x005c0aff', "
        "'-1 year 2 days -3.25 hours', 1.00), ('', 'infinity', 'NaN', '', '0', 'NaN'), (E'\\\\N', '-infinity', -0.0, "
        r"'\x', '1 mon', 1.0)",
    )
    reader.barrier(10)
    texts = "SELECT array[{}::text] FROM {} ORDER BY 1"
    logged = texts.format("::text, ".join(f"segue_k{n}" for n in range(1, 7)), found.hand.log)
    kept = texts.format('"a b"::text, at::text, f::text, b::text, i::text, n', "odd")
    assert value(found.url, f"SELECT array({logged})") == value(found.url, f"SELECT array({kept})")


@here
def test_one_slot_follows_several_tables(any_logical: Server, follow: Follow) -> None:
    found = follow(
        any_logical,
        ITEMS,
        "CREATE TABLE parts (b integer, item bigint REFERENCES items ON DELETE CASCADE ON UPDATE CASCADE, "
        "a text, PRIMARY KEY (a, b))",
        items=NEW_ITEMS,
        parts="(b integer, item bigint, a text)",
    )
    found.begin()
    reader = found.reader()
    run_sql(
        found.url,
        "INSERT INTO items SELECT g FROM generate_series(1, 3) AS g",
        "INSERT INTO parts SELECT g, g, 'x' FROM generate_series(1, 3) AS g",
        "DELETE FROM items WHERE id = 2",
        "TRUNCATE items CASCADE",
    )
    reader.barrier(10)
    assert found.keys() == [1, 2, 3, None]
    assert found.hands[1].touched() == [("x", 1), ("x", 2), ("x", 3), (None, None)]
    assert value(found.url, "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'segue%'") == 1


@pytest.fixture
def parted(any_logical: Server, follow: Follow) -> Followed:
    """Give a partitioned table that is followed; a partition has its columns in another order."""
    found = follow(
        any_logical,
        "CREATE TABLE days (id bigint, day integer, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE days_2 (note text, day integer NOT NULL, id bigint NOT NULL, PRIMARY KEY (id, day))",
        "ALTER TABLE days ATTACH PARTITION days_2 FOR VALUES FROM (10) TO (20)",
        days="(id bigint, day integer, note text)",
    )
    found.begin()
    return found


@here
def test_partitions_are_followed_whichever_is_written(parted: Followed) -> None:
    reader = parted.reader()
    run_sql(
        parted.url,
        "INSERT INTO days VALUES (1, 1), (2, 11)",
        "INSERT INTO days_2 (id, day) VALUES (3, 12)",
        "UPDATE days SET day = 13 WHERE id = 1",
    )
    reader.barrier(10)
    assert parted.hand.touched() == [(1, 1), (1, 13), (2, 11), (3, 12)]


def test_emptying_a_single_partition_is_told(parted: Followed) -> None:
    reader = parted.reader()
    run_sql(parted.url, "INSERT INTO days VALUES (1, 1), (2, 11)", "TRUNCATE days_2")
    reader.barrier(10)
    assert parted.hand.touched() == [(1, 1), (2, 11), (None, None)]


@here
def test_a_partition_that_comes_later_is_followed(parted: Followed) -> None:
    reader = parted.reader()
    run_sql(
        parted.url,
        "CREATE TABLE days_3 PARTITION OF days FOR VALUES FROM (20) TO (30)",
        "INSERT INTO days_3 VALUES (5, 25)",
    )
    reader.barrier(10)
    assert parted.hand.touched() == [(5, 25)]


@here
def test_sessions_that_pass_triggers_are_followed(items: Followed) -> None:
    reader = items.reader()
    with replica_role(items.url) as connection:
        connection.execute(WRITES.encode())
    reader.barrier(10)
    assert items.keys() == [1, 2, 3, 4, 5, 20]


@here
def test_what_a_subscription_writes_is_followed(any_logical: Server, items: Followed) -> None:
    source = any_logical.database()
    name = f"sub_{value(source, 'SELECT current_database()')}"
    run_sql(
        source,
        ITEMS,
        "CREATE PUBLICATION source FOR TABLE items",
        f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')",
    )
    run_sql(
        items.url,
        f"CREATE SUBSCRIPTION {name} CONNECTION '{source}' PUBLICATION source "
        f"WITH (create_slot = false, slot_name = '{name}', copy_data = false)",
    )
    reader = items.reader()
    run_sql(source, WRITES)
    until(lambda: value(items.url, "SELECT count(*) FROM items") == 4)
    reader.barrier(10)
    assert items.keys() == [1, 2, 3, 4, 5, 20]
    run_sql(items.url, f"DROP SUBSCRIPTION {name}")


def test_a_prepared_transaction_comes_when_it_is_committed(items: Followed) -> None:
    reader = items.reader()
    name = f"p_{value(items.url, 'SELECT current_database()')}"
    with psycopg.connect(items.url) as connection:
        connection.execute("INSERT INTO items VALUES (1)")
        xid = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
    try:
        reader.barrier(10)
        before = items.keys()
    finally:
        run_sql(items.url, f"COMMIT PREPARED '{name}'")
    reader.barrier(10)
    assert (before, items.keys()) == ([], [1])
    assert xid is not None
    assert value(items.url, f"SELECT xid::text FROM {items.hand.log}") == xid[0]


# -- commits that are late


def test_a_barrier_brings_commits_that_were_not_written_to_the_disk(items: Followed) -> None:
    reader = items.reader()
    items.hand.site.lease.pause()  # whose sign of life is a commit that is written
    missed = 0
    with psycopg.connect(items.url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for number in range(20):
            connection.execute("INSERT INTO items VALUES (%s)", [number])
            missed += number not in items.keys()  # noqa: SIM118  of the log, and without a barrier
            reader.barrier(10)
            assert items.keys()[-1] == number
    assert missed


def test_what_is_delivered_before_it_is_visible_is_taken_when_it_is(items: Followed, any_logical: Server) -> None:
    writer, reader = delivered(items, any_logical)
    with no_standby(any_logical):
        write = Background(writer)
        until(lambda: items.keys() == [1])
        assert items.drain(reader).keys == 0
        assert items.keys() == [1]
        assert write.is_alive()
    write.result()
    assert items.drain(reader, compare=True).keys == 1
    assert items.hand.differences() == []
    assert items.keys() == []


@here
def test_what_is_delivered_before_it_is_visible_is_lost_when_it_is_taken_at_once(
    items: Followed, any_logical: Server
) -> None:
    writer, reader = delivered(items, any_logical)
    with no_standby(any_logical):
        write = Background(writer)
        until(lambda: items.keys() == [1])
        assert drain(items.hand.site, items.drainer, None).keys == 1
    write.result()
    reader.barrier(10)
    assert len(items.hand.differences()) == 2


def delivered(items: Followed, server: Server) -> tuple[Callable[[], None], ghost.Reader]:
    """Settle a table of one row, and return what changes the row, with a reader that follows it."""
    run_sql(items.url, "INSERT INTO items VALUES (1, 'a', 1)")
    items.settle()
    reader = items.reader()
    items.drain(reader)
    assert items.keys() == []
    return (lambda: run_sql(items.url, "UPDATE items SET n = 2")), reader


def test_a_slot_is_not_begun_before_who_was_neither_in_it_nor_visible_is(any_logical: Server, follow: Follow) -> None:
    items = follow(any_logical, ITEMS, items=NEW_ITEMS)
    with session(items.url, "SELECT pg_current_xact_id()") as older:
        begin = Background(items.begin)
        until(lambda: blocked_by(items.url, older))
        with session(items.url, "SELECT pg_current_xact_id()") as younger:
            older.rollback()
            until(lambda: blocked_by(items.url, younger))
            with no_standby(any_logical):
                write = Background(lambda: insert(items.url, 777))
                until(lambda: waits_for_standby(items.url, "INSERT%"))
                younger.rollback()
                until(lambda: items.slot("confirmed_flush_lsn"))
                until(lambda: "wrote to the tables when the slot was made" in "".join(items.notes))
                # A copy that began now would never hear of it: this is why one that does not wait loses rows.
                assert value(items.url, "SELECT count(*) FROM items") == 0
                assert begin.is_alive()
    write.result()
    begin.result()
    items.settle()
    reader = items.reader()
    reader.barrier(10)
    assert items.keys() == []
    assert items.hand.differences() == []


def blocked_by(url: str, connection: psycopg.Connection[object]) -> bool:
    return bool(
        value(
            url,
            "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))",
            connection.info.backend_pid,
        )
    )


def waits_for_standby(url: str, query: str) -> bool:
    return bool(
        value(url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE %s", query)
    )


# -- beginning and ending


@here
def test_a_slot_that_waits_says_for_whom_and_gives_up_leaving_none(any_logical: Server, follow: Follow) -> None:
    items = follow(any_logical, ITEMS, items=NEW_ITEMS)
    with session(any_logical.cluster.url("postgres"), "SELECT pg_current_xact_id()") as older:
        with pytest.raises(LockNotGranted) as raised:
            items.begin(work=1)
        pid = f"pid {older.info.backend_pid} "
    assert [line for line in raised.value.details if line.startswith(pid)]
    assert [note for note in items.notes if "older transactions of the whole server" in note and pid in note]
    assert items.slot("slot_name") is None


@here
def test_a_beginning_that_was_interrupted_goes_on_with_its_slot(items: Followed) -> None:
    insert(items.url, 1)
    before = items.slot("confirmed_flush_lsn")
    items.begin()
    assert items.slot("confirmed_flush_lsn") == before
    items.reader().barrier(10)
    assert items.keys() == [1]


@here
def test_a_slot_without_its_publication_is_made_anew(items: Followed) -> None:
    run_sql(items.url, f"DROP PUBLICATION {ghost.slot_name(items.blueprint)}")
    with pytest.raises(SlotLost, match="publication"):
        items.reader()
    before = items.slot("catalog_xmin::text::bigint")
    insert(items.url, 1)
    items.begin()
    assert items.slot("catalog_xmin::text::bigint") > before
    insert(items.url, 2)
    items.reader().barrier(10)
    assert items.keys() == [2]


@here
def test_nothing_is_left_at_the_end_even_of_a_reader_that_nobody_stopped(items: Followed) -> None:
    assert items.left() == (1, 1)
    reader = items.reader()
    ghost.end(items.hand.site, items.blueprint)
    assert items.left() == (0, 0)
    ghost.end(items.hand.site, items.blueprint)
    assert isinstance(until(lambda: reader._error), SlotLost)


# -- what a reader survives


def hold_back(items: Followed, *ids: int) -> ghost.Reader:
    """Return a reader that was killed by the server with entries that it could not write yet."""
    reader = items.reader()
    with session(items.url, f"LOCK TABLE {items.hand.log} IN SHARE MODE"):
        insert(items.url, *ids)
        until(lambda: waits_for_lock(items.url, "COPY%"))
        kill(items.url, reader)
    return reader


def kill(url: str, reader: ghost.Reader) -> None:
    """End both of a reader's sessions."""
    sessions = [connection for connection in (reader._wal, reader._db) if connection is not None]
    pids = [connection.info.backend_pid for connection in sessions]
    run_sql(url, *(f"SELECT pg_terminate_backend({pid}, 5000)" for pid in pids))


def waits_for_lock(url: str, query: str) -> bool:
    return bool(
        value(url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation' AND query ILIKE %s", query)
    )


def test_entries_that_were_not_written_come_once_more(items: Followed) -> None:
    reader = hold_back(items, 1, 2)
    insert(items.url, 3)
    reader.barrier(20)
    assert items.keys() == [1, 2, 3]


@here
def test_entries_that_were_confirmed_before_they_were_written_are_lost(
    items: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ghost.Reader._write

    def hasty(self: ghost.Reader) -> None:
        self._safe = self._decoder.safe
        self._decoder.entries, kept = [], self._decoder.entries
        self._confirm()
        self._decoder.entries = kept
        write(self)

    monkeypatch.setattr(ghost.Reader, "_write", hasty)
    reader = hold_back(items, 1, 2)
    insert(items.url, 3)
    reader.barrier(20)
    assert 1 not in items.keys()  # noqa: SIM118


@here
def test_a_reader_that_is_stopped_and_begun_again_misses_nothing(items: Followed) -> None:
    items.reader().stop()
    insert(items.url, 1)
    first = items.reader()
    insert(items.url, 2)
    first.stop()
    insert(items.url, 3)
    items.reader().barrier(10)
    assert items.keys() == [1, 2, 3]


def test_a_server_that_crashes_in_mid_stream_loses_no_entry(items: Followed, any_logical: Server) -> None:
    reader = items.reader()
    insert(items.url, *range(20))
    any_logical.cluster.kill()
    any_logical.cluster.start()
    insert(items.url, 20)
    reader.barrier(30)
    assert items.keys() == list(range(21))


@here
def test_a_reader_whose_lease_was_taken_over_writes_no_more(items: Followed) -> None:
    reader = items.reader()
    assert reader._wal is not None
    pid = reader._wal.info.backend_pid
    terminate(items.url, "segue:%:lease")
    other = Lease(items.url, execution="other", holder="somebody else", wait=10)
    try:
        assert isinstance(until(lambda: reader._error), FenceLost)
        with pytest.raises(FenceLost):
            reader.check()
        assert value(items.url, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid) == 0
    finally:
        other.close()


@here
def test_a_slot_that_the_server_dropped_is_said_to_be_lost_and_made_anew(items: Followed) -> None:
    with limited(items.url, "48MB"):
        insert(items.url, 1)
        for _ in range(6):
            run_sql(items.url, "SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(false, 'x', 'x')")
        run_sql(items.url, "CHECKPOINT")
        assert items.slot("wal_status") == "lost"
        with pytest.raises(SlotLost, match="invalidated"):
            items.reader()
        items.begin()
        insert(items.url, 2)
        items.reader().barrier(10)
    assert items.keys() == [2]


@here
def test_a_slot_that_will_be_lost_is_said_to_be_beforehand_with_the_reason(items: Followed) -> None:
    with limited(items.url, "64MB"), session(items.url, "INSERT INTO items VALUES (1)") as holder:
        pid = holder.info.backend_pid
        reader = items.reader()
        for _ in range(12):
            run_sql(items.url, "SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(false, 'x', 'x')")
            if items.slot("safe_wal_size") < 16 * 2**20:
                break
        error = until(lambda: reader._error)
        assert items.slot("wal_status") != "lost"
    assert isinstance(error, StepFailed)
    assert f"pid {pid} " in error.message


class limited:  # noqa: N801  reads as a word in a with statement
    """Limit what slots may keep back of the log."""

    def __init__(self, url: str, most: str) -> None:
        self.url, self.most = url, most

    def __enter__(self) -> None:
        run_sql(self.url, f"ALTER SYSTEM SET max_slot_wal_keep_size = '{self.most}'", "SELECT pg_reload_conf()")
        until(lambda: value(self.url, "SHOW max_slot_wal_keep_size") == self.most)

    def __exit__(self, *_: object) -> None:
        run_sql(self.url, "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


@here
def test_a_slot_that_keeps_back_too_much_is_given_up(items: Followed) -> None:
    with session(items.url, "INSERT INTO items VALUES (1)"):
        run_sql(items.url, "SELECT pg_switch_wal()")
        reader = items.reader(retained=2**33)
        insert(items.url, 2)
        reader.barrier(10)
        reader._limit = 1000
        with pytest.raises(SlotLost, match="given up"):
            until(reader.check)
    assert items.left()[0] == 0


@here
@pytest.mark.parametrize("identity", ["FULL", "USING INDEX items_other", "NOTHING"])
def test_an_identity_that_changes_ends_the_capture_and_frees_the_application(items: Followed, identity: str) -> None:
    run_sql(
        items.url,
        "ALTER TABLE items ALTER n SET NOT NULL",
        "CREATE UNIQUE INDEX items_other ON items (n)",
        "INSERT INTO items VALUES (1, 'a', 1)",
    )
    reader = items.reader()
    run_sql(items.url, f"ALTER TABLE items REPLICA IDENTITY {identity}")
    assert isinstance(until(lambda: reader._error), SlotLost)
    run_sql(items.url, "UPDATE items SET note = 'b'")
    with pytest.raises(StepFailed) as raised:
        items.begin()
    assert "REPLICA IDENTITY DEFAULT" in raised.value.details[0]


# -- barriers and drains


def test_a_barrier_comes_through_while_the_table_is_locked_for_the_swap(items: Followed) -> None:
    reader = items.reader()
    insert(items.url, 1)
    with items.hand.site.transaction() as connection:
        connection.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        reader._looked -= ghost.LOOK_SECONDS
        reader.barrier(5)
        assert connection.execute(f"SELECT count(*) FROM {items.hand.log}".encode()).fetchone() == (1,)


@here
def test_a_barrier_says_when_the_log_is_behind(items: Followed) -> None:
    reader = items.reader()
    with session(items.url, f"LOCK TABLE {items.hand.log} IN SHARE MODE"):
        insert(items.url, 1)
        with pytest.raises(ghost.ReaderBehind):
            reader.barrier(0.3)
    reader.barrier(10)


@here
def test_a_drain_takes_so_many_entries_and_says_whether_more_are_left(items: Followed) -> None:
    items.settle()
    reader = items.reader()
    run_sql(items.url, "INSERT INTO items SELECT g FROM generate_series(1, 25) AS g")
    taken = [(drained.keys, drained.left) for drained in (items.drain(reader, 10) for _ in range(3))]
    assert taken == [(10, 10), (10, 10), (5, 0)]
    assert items.keys() == []
    assert items.hand.differences() == []


@here
def test_a_drain_without_a_barrier_leaves_what_is_not_in_the_log_yet(
    items: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A value moved between two rows, of which the log has the one already and not the other.
    items.settle()
    run_sql(items.url, "INSERT INTO items VALUES (1, 'a'), (2, NULL)")
    reader = items.reader()
    items.drain(reader)
    run_sql(items.url, f"CREATE UNIQUE INDEX ON {items.hand.into} (code)")
    monkeypatch.setattr(ghost, "GATHER_SECONDS", 3600.0)
    run_sql(
        items.url, "BEGIN; UPDATE items SET code = NULL WHERE id = 1; UPDATE items SET code = 'a' WHERE id = 2; END"
    )
    with monkeypatch.context() as patch:
        patch.setattr(ghost.Reader, "barrier", lambda self, timeout: None)
        assert items.drain(reader).keys == 0
        assert len(items.hand.differences()) == 4
    assert items.drain(reader, compare=True).keys == 2
    assert items.hand.differences() == []


@here
def test_an_emptied_table_begins_the_copy_anew(items: Followed) -> None:
    items.settle()
    insert(items.url, 1)
    reader = items.reader()
    run_sql(items.url, "TRUNCATE items", "INSERT INTO items VALUES (2)")
    assert items.drain(reader).emptied
    assert ghost.drain(items.hand.site, reader, items.drainer, None, anew=True).emptied
    assert items.hand.differences() == []
    assert items.keys() == []


def test_a_transaction_that_is_open_over_the_copy_is_brought_over_when_it_ends(items: Followed) -> None:
    run_sql(items.url, "INSERT INTO items SELECT g, 'c' || g, g FROM generate_series(1, 30) AS g")
    with psycopg.connect(items.url) as long:
        long.execute("UPDATE items SET n = NULL WHERE id < 10")
        long.execute("SAVEPOINT a; DELETE FROM items WHERE id > 25; ROLLBACK TO a; DELETE FROM items WHERE id = 20")
        long.execute("SAVEPOINT b; UPDATE items SET id = id + 100 WHERE id BETWEEN 11 AND 15; RELEASE b")
        items.settle()
        reader = items.reader()
        assert items.drain(reader, compare=True).differing == 0
        assert items.hand.differences() == []
    drained = items.drain(reader, compare=True)
    assert (drained.keys, drained.differing) == (9 + 1 + 10, 0)
    assert items.hand.differences() == []


# -- what is refused beforehand


def test_a_server_whose_log_is_not_logical_is_refused(any_database: str, assemble: Assemble) -> None:
    run_sql(any_database, ITEMS)
    hand = assemble(any_database, "items", NEW_ITEMS, capture=False)
    (line,) = ghost.problems(hand.site, [member_of(hand)])
    assert 'wal_level is "replica"' in line


@here
def test_a_table_that_can_be_followed_has_no_problems(items: Followed, parted: Followed) -> None:
    for found in (items, parted):
        assert ghost.problems(found.hand.site, found.blueprint.members) == []


@pytest.mark.parametrize(
    ("setup", "why"),
    [
        ("CREATE TABLE t (id int NOT NULL UNIQUE)", "no primary key"),
        ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, o int NOT NULL UNIQUE)", "a deferrable primary key"),
        ("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY FULL", "another replica identity"),
        ("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING", "another replica identity"),
        (
            "CREATE TABLE t (id int PRIMARY KEY, o int NOT NULL UNIQUE); "
            "ALTER TABLE t REPLICA IDENTITY USING INDEX t_o_key",
            "another replica identity",
        ),
        ("CREATE UNLOGGED TABLE t (id int PRIMARY KEY)", "not a permanent, logged table"),
        ("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child () INHERITS (t)", "use the strategy shadow-table"),
        ("CREATE TABLE t (a int, id int GENERATED ALWAYS AS (a) STORED PRIMARY KEY)", "id of t is generated"),
    ],
    ids=["unkeyed", "deferrable", "full", "nothing", "index", "unlogged", "inherited", "generated"],
)
def test_a_table_whose_rows_the_log_does_not_name_is_refused(
    logical_server: Server, follow: Follow, setup: str, why: str
) -> None:
    found = follow(logical_server, setup, t="(id int, o int, a int)")
    problems = ghost.problems(found.hand.site, found.blueprint.members)
    assert [line for line in problems if why in line]
    with pytest.raises(StepFailed) as raised:
        found.begin()
    assert raised.value.details == problems
    assert found.left() == (0, 0)


@here
def test_a_walk_by_another_key_than_the_primary_one_is_refused(items: Followed) -> None:
    (member,) = items.blueprint.members
    other = member.forward.key[0].model_copy(update={"name": "n"})
    walked = member.model_copy(update={"forward": member.forward.model_copy(update={"key": (other,)})})
    (line,) = ghost.problems(items.hand.site, [walked])
    assert "the primary key of items (id) is not the key that is walked (n)" in line


def test_a_role_without_replication_is_refused_and_told_why(any_logical: Server, assemble: Assemble) -> None:
    url = any_logical.database()
    run_sql(url, ITEMS)
    role = make_role(url, f"ALTER DATABASE {value(url, 'SELECT current_database()')} OWNER TO {{role}}")
    run_sql(url, f"ALTER TABLE items OWNER TO {conninfo.conninfo_to_dict(role)['user']}")
    hand = assemble(role, "items", NEW_ITEMS, capture=False)
    (line,) = ghost.problems(hand.site, [member_of(hand)])
    assert "replication" in line
    run_sql(url, f"ALTER ROLE {conninfo.conninfo_to_dict(role)['user']} REPLICATION")
    assert ghost.problems(hand.site, [member_of(hand)]) == []
    hand.site.lease.close()
    drop_role(url, role)


@pytest.mark.parametrize(
    ("names", "ours"),
    [
        ("", False),
        ("*", True),
        ("FIRST 2 (a, *)", True),
        ("ANY 1 (*)", True),
        ('ANY 1 (a, "Segue:E1:4")', True),
        ("a, b", False),
        ('1 ("*x")', False),
    ],
)
def test_names_of_standbys_that_mean_the_reader_are_recognised(names: str, ours: bool) -> None:
    assert slots._is_standby("segue:e1:4", names) is ours


# -- all of it at once


def swap(items: Followed, reader: ghost.Reader) -> int:
    """Put the shadow in place of the table as a change does; return how many rows differed under the lock."""
    hand = items.hand
    under = Drainer(hand.site.work, hand.flow, hand.log, CHANGE, hand.member, hand.direction)
    differing: list[int] = []

    def act(connection: psycopg.Connection[Any], _until: float) -> None:
        try:
            reader.barrier(1.0)
        except ghost.ReaderBehind as error:
            raise NotThisTime from error
        under.drain(None)
        differing[:] = [
            connection.execute(query.encode()).fetchall()[0][0]
            for query in (
                f"SELECT count(*) FROM {hand.log}",
                f"SELECT count(*) FROM (TABLE items EXCEPT ALL TABLE {hand.into}) AS d",
                f"SELECT count(*) FROM (TABLE {hand.into} EXCEPT ALL TABLE items) AS d",
            )
        ]
        connection.execute(f"ALTER TABLE items RENAME TO b; ALTER TABLE {hand.into} SET SCHEMA public".encode())

    hand.site.in_slices([("public.items", "ACCESS EXCLUSIVE")], PATIENCE, items.notes.append, act)
    return sum(differing)


def test_nothing_is_lost_between_eight_writers_and_a_reader_that_is_killed(items: Followed) -> None:
    with writing(items.url, seed=1) as writers:
        reader = items.reader()
        items.hand.copy(size=40, largest=40, boundary=lambda: None)
        kill(items.url, reader)
        items.hand.index()
        assert [items.drain(reader, 50).left for _ in range(3)]
        items.drain(reader)
        run_sql(items.url, f"CREATE UNIQUE INDEX ON {items.hand.into} (code)")
        kill(items.url, reader)
        assert [items.drain(reader, compare=True).differing for _ in range(5)] == [0] * 5
        assert swap(items, reader) == 0
    assert [writer.failed for writer in writers] == [[]] * 8
    wanted = {key: row for writer in writers for key, row in writer.rows.items()}
    assert {row[0]: row[1:] for row in rows(items.url, "TABLE items")} == wanted


def test_without_barriers_the_same_writers_lose_rows(
    logical_server: Server, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = follow(logical_server, ITEMS, items=NEW_ITEMS)
    items.begin()
    monkeypatch.setattr(ghost.Reader, "barrier", lambda self, timeout: None)
    # One write is enough that came while the log was a little behind.
    monkeypatch.setattr(ghost, "GATHER_SECONDS", 1.0)
    with writing(items.url, seed=1):
        reader = items.reader()
        items.settle()
        items.drain(reader)
        assert swap(items, reader) > 0
