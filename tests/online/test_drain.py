"""Rows that are touched while a table is copied are the same on both sides in the end; naive ways lose some."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fix_online import Assemble, HandMade
from fix_standbys import Server
from fix_targets import Background, rows, run_sql, session, traffic, until, value

from segue.databases.postgresql import parse
from segue.databases.postgresql.locking import find_blockers
from segue.databases.postgresql.online import drain, refusing
from segue.errors import FenceLost, OutcomeUnknown, SegueError, StepFailed
from segue.model.online import Drained

ITEMS = (
    "CREATE TABLE items (id int PRIMARY KEY, code text UNIQUE, n int, note text, big text)",
    "ALTER TABLE items ALTER big SET STORAGE EXTERNAL",
    "INSERT INTO items SELECT g, 'c' || g, g, 'note ' || g, repeat(md5(g::text), 80) FROM generate_series(1, 60) g",
)
SHAPE = "(id bigint NOT NULL, code text, n int, note text, big text)"


@pytest.fixture
def items(database: str, assemble: Assemble) -> HandMade:
    """Give a captured table of sixty rows, not copied yet."""
    run_sql(database, *ITEMS)
    return assemble(database, "items", SHAPE)


@pytest.fixture
def settled(items: HandMade) -> HandMade:
    """Give the same once it is copied, with its key and the unique index of the old table."""
    items.settle()
    run_sql(items.url, f"CREATE UNIQUE INDEX items_code ON {items.into} (code)")
    return items


# -- races, each with what goes wrong without the rule


@contextmanager
def chunk_in_flight(change: HandMade) -> Any:
    """Copy the table in a transaction that has read it and is not committed while the block runs."""
    work = change.work()
    cut = work.cut(None, 1000)
    assert cut is not None
    with psycopg.connect(change.url) as connection:
        connection.execute(work.statement(cut))
        yield
        connection.commit()


def test_a_row_deleted_while_its_chunk_is_in_flight_stays_deleted(items: HandMade) -> None:
    with chunk_in_flight(items):
        run_sql(items.url, "DELETE FROM items WHERE id = 7", "UPDATE items SET n = -1 WHERE id = 8")
    items.index()
    assert items.drain(compare=True) == Drained(keys=2)
    assert items.differences() == []


def test_a_deleted_row_comes_back_where_entries_are_applied_during_the_copy(items: HandMade) -> None:
    items.index()
    with chunk_in_flight(items):
        run_sql(items.url, "DELETE FROM items WHERE id = 7")
        items.drain()
    assert items.drain().keys == 0
    assert [row[:2] for row in items.differences()] == [("extra", "7")]


def test_an_entry_that_commits_late_is_drained(settled: HandMade) -> None:
    # More than a page of entries: what was deleted from the first is passed over by the next drain.
    with session(settled.url, "UPDATE items SET n = -1 WHERE id = 3") as late:
        run_sql(settled.url, *["UPDATE items SET n = n + 1 WHERE id > 3"] * 6)
        while settled.drain(100).left:
            pass
        late.commit()
    run_sql(settled.url, "UPDATE items SET n = 0 WHERE id = 60")
    assert settled.drain(100).keys == 2
    assert settled.differences() == []


def test_an_entry_that_commits_late_is_lost_by_who_remembers_the_last(settled: HandMade) -> None:
    def naive(after: int) -> int:
        """Drain what is beyond the last transaction that was seen."""
        with settled.site.work.transaction() as _:
            work = settled.site.work
            work.execute(
                f"insert into {settled.drainer.table.as_string(work)} (segue_k1) "
                f"select distinct segue_k1 from {settled.log} where xid::text::bigint > {after}".encode()
            )
            settled.drainer.bring(100)
            return int(value(settled.url, f"SELECT coalesce(max(xid::text::bigint), 0) FROM {settled.log}"))

    with session(settled.url, "UPDATE items SET n = -1 WHERE id = 3") as late:
        run_sql(settled.url, "UPDATE items SET n = -1 WHERE id = 4")
        last = naive(0)
        late.commit()
    naive(last)
    assert sorted(row[1] for row in settled.differences()) == ["3", "3"]


SWAP = (
    "BEGIN",
    "UPDATE items SET code = NULL WHERE id = 1",
    "UPDATE items SET code = 'c1' WHERE id = 50",
    "UPDATE items SET code = 'c50' WHERE id = 1",
    "COMMIT",
)


def test_a_unique_value_that_moves_between_chunks_stands_twice_until_a_whole_drain(items: HandMade) -> None:
    moved: list[bool] = []

    def between() -> None:
        if not moved and value(items.url, "SELECT count(*) FROM segue.chunk") > 1:
            moved.append(True)
            run_sql(items.url, *SWAP)

    items.copy(size=5, largest=5, pause=0.05, boundary=between)
    assert moved
    unique = f"CREATE UNIQUE INDEX items_code ON {items.into} (code)"
    with pytest.raises(psycopg.errors.UniqueViolation):
        run_sql(items.url, unique)
    items.index()
    assert items.drain(compare=True) == Drained(keys=2)
    run_sql(items.url, unique)
    assert items.differences() == []


def test_a_unique_value_that_moves_is_no_conflict_when_all_is_drained_at_once(settled: HandMade) -> None:
    run_sql(settled.url, *SWAP)
    assert settled.drain(compare=True) == Drained(keys=2)
    assert (settled.conflicts(), settled.differences()) == ([], [])


def test_a_unique_value_that_moves_is_one_in_batches(settled: HandMade) -> None:
    run_sql(settled.url, *SWAP)
    run_sql(settled.url, f"DELETE FROM {settled.log} WHERE segue_k1 = 50")
    assert settled.drain().refused == 1
    assert settled.conflicts() == [(["1"], "23505", "items_code")]


def test_a_key_that_changes_leaves_no_old_row(settled: HandMade) -> None:
    run_sql(settled.url, "UPDATE items SET id = id + 1000 WHERE id IN (1, 2)", "UPDATE items SET id = 1 WHERE id = 3")
    assert settled.drain(compare=True) == Drained(keys=5)
    assert settled.differences() == []


def test_a_key_that_changes_leaves_an_old_row_where_only_the_new_key_is_logged(settled: HandMade) -> None:
    run_sql(settled.url, "UPDATE items SET id = 1001, code = 'new' WHERE id = 1")
    run_sql(settled.url, f"DELETE FROM {settled.log} WHERE segue_k1 = 1")
    settled.drain()
    assert [row[:2] for row in settled.differences()] == [("extra", "1")]


def test_null_and_values_out_of_line_come_over(settled: HandMade) -> None:
    run_sql(
        settled.url,
        "UPDATE items SET note = NULL WHERE id < 5",
        "UPDATE items SET n = 0 WHERE id = 6",  # its large value stays where it is, and is in no image of the change
        "UPDATE items SET big = NULL WHERE id = 7",
        "INSERT INTO items (id) VALUES (99)",
    )
    assert settled.drain(compare=True) == Drained(keys=7)
    assert settled.differences() == []
    assert value(settled.url, f"SELECT length(big) FROM {settled.into} WHERE id = 6") == 2560


def test_null_is_lost_by_who_replays_the_columns_that_have_a_value(settled: HandMade) -> None:
    run_sql(settled.url, "UPDATE items SET note = NULL WHERE id = 3")
    (image,) = rows(settled.url, "SELECT jsonb_strip_nulls(to_jsonb(i)) FROM items i WHERE id = 3")[0]
    assignments = ", ".join(f"{name} = (%(row)s::jsonb ->> '{name}')" for name in image if name in ("code", "note"))
    with psycopg.connect(settled.url, autocommit=True) as connection:
        connection.execute(
            f"UPDATE {settled.into} SET {assignments} WHERE id = 3".encode(), {"row": psycopg.types.json.Jsonb(image)}
        )
    assert len(settled.differences()) == 2


def test_a_table_that_was_emptied_is_copied_anew(items: HandMade) -> None:
    items.copy()
    run_sql(items.url, "TRUNCATE items", "INSERT INTO items (id) VALUES (1), (2)")
    items.index()
    assert items.drain() == Drained(emptied=True, left=1)
    assert value(items.url, f"SELECT count(*) FROM {items.into}") == 60
    assert items.drain(1).emptied
    run_sql(items.url, f"TRUNCATE {items.into}", f"DELETE FROM {items.log} WHERE segue_k1 IS NULL")
    assert items.copy(round_=2) == 2
    items.drain(compare=True)
    assert items.differences() == []


def test_a_table_that_was_emptied_is_brought_up_to_date_from_what_came_since(settled: HandMade) -> None:
    run_sql(settled.url, "DELETE FROM items WHERE id = 1", "BEGIN", "TRUNCATE items", "INSERT INTO items VALUES (1)",
            "COMMIT", "INSERT INTO items VALUES (9)")  # fmt: skip
    assert settled.drain(2, anew=True).emptied
    assert settled.differences() == []
    assert (settled.left(), settled.drain().emptied) == (0, False)


def test_a_drain_waits_for_nobody_who_empties_the_table(settled: HandMade) -> None:
    run_sql(settled.url, "UPDATE items SET n = 0 WHERE id = 1")
    with session(settled.url, "TRUNCATE items") as emptying:
        assert settled.drain() == Drained(left=1)
        assert settled.left() == 1
        emptying.commit()
    assert settled.drain().emptied


def test_a_snapshot_older_than_the_lock_does_not_see_that_a_table_was_emptied(settled: HandMade) -> None:
    run_sql(settled.url, "UPDATE items SET n = 0 WHERE id = 1")
    work = settled.site.work
    with work.transaction():
        work.execute("set transaction isolation level repeatable read")
        work.execute("select 1")
        run_sql(settled.url, "TRUNCATE items", "INSERT INTO items VALUES (1, 'other')")
        naive = settled.drainer.drain(None)
    # The row that it saw touched is neither as it was nor as it is.
    assert not naive.emptied
    assert rows(settled.url, f"SELECT code FROM {settled.into} WHERE id = 1") == []


def test_a_two_phase_commit_is_drained_once_it_is_committed(logical_server: Server, assemble: Assemble) -> None:
    url = logical_server.database()
    run_sql(url, *ITEMS)
    change = assemble(url, "items", SHAPE)
    change.settle()
    run_sql(url, "BEGIN", "DELETE FROM items WHERE id = 1", "PREPARE TRANSACTION 'drain'")
    assert (change.drain().keys, change.differences()) == (0, [])
    # It is of no session: whoever waits for it is told its name, by which somebody can end it.
    (held,) = find_blockers(change.site.look, parse.statements("LOCK TABLE items"))
    assert held.line() == "prepared transaction 'drain' holds RowExclusiveLock on items"
    run_sql(url, "COMMIT PREPARED 'drain'")
    assert (change.drain().keys, change.differences()) == (1, [])


# -- what is drained


def test_batches_go_through_the_log_whatever_is_added_meanwhile(settled: HandMade) -> None:
    drained = 0
    for n in range(12):
        run_sql(settled.url, f"UPDATE items SET n = -{n} WHERE id > 50")
        drained += settled.drain(7).keys
    while (found := settled.drain(7)).left:
        drained += found.keys
    assert drained + found.keys >= 100
    assert (settled.left(), settled.differences()) == (0, [])


SHAPES = {
    "composite": (
        "(a int, b text, v int, PRIMARY KEY (a, b))",
        "SELECT g % 4, 'x' || g, g FROM generate_series(1, 40) g",
        "(a bigint, b varchar(9), v bigint)",
    ),
    "uuid": (
        "(id uuid PRIMARY KEY, v int)",
        "SELECT md5(g::text)::uuid, g FROM generate_series(1, 40) g",
        "(id uuid, v text)",
    ),
    "text in C": (
        '(id text COLLATE "C" PRIMARY KEY, v int)',
        "SELECT chr(33 + g) || g, g FROM generate_series(1, 40) g",
        "(v int, id text)",
    ),
    "timestamps": (
        "(id timestamptz PRIMARY KEY, v int)",
        "SELECT now() + g * interval '1.000001 s', g FROM generate_series(1, 40) g",
        "(id timestamptz, v bigint)",
    ),
    "numeric": (
        "(id numeric PRIMARY KEY, v int)",
        "SELECT g * 1.10, g FROM generate_series(1, 40) g",
        "(id numeric(12, 4), v int)",
    ),
    "into partitions": (
        "(id int PRIMARY KEY, v int)",
        "SELECT g, g FROM generate_series(1, 40) g",
        "(id bigint, v int) PARTITION BY HASH (id)",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_brought_up_to_date(database: str, assemble: Assemble, name: str) -> None:
    bring_up_to_date(database, assemble, name)


@pytest.mark.parametrize("name", ["composite", "into partitions"])
def test_the_same_on_an_older_server(debian_database: str, assemble: Assemble, name: str) -> None:
    bring_up_to_date(debian_database, assemble, name)


def bring_up_to_date(any_database: str, assemble: Assemble, name: str) -> None:
    """Copy a table of this shape in chunks, write to it, and drain in batches."""
    columns, filling, shadow = SHAPES[name]
    run_sql(any_database, f"CREATE TABLE t {columns}", f"INSERT INTO t {filling}")
    change = assemble(any_database, "t", shadow)
    if "PARTITION" in shadow:
        run_sql(
            any_database,
            *(
                f'CREATE TABLE {change.into[:-1]}_{n}" PARTITION OF {change.into} '
                f"FOR VALUES WITH (MODULUS 2, REMAINDER {n})"
                for n in range(2)
            ),
        )
    change.copy(size=7, largest=7)
    change.index()
    run_sql(any_database, "UPDATE t SET v = -v WHERE v % 3 = 0", "DELETE FROM t WHERE v % 3 = 1")
    while change.drain(5, compare=True).left:
        pass
    assert change.drain(compare=True).differing == 0
    assert change.differences() == []


def test_a_comparison_finds_rows_that_are_not_the_same(settled: HandMade) -> None:
    run_sql(settled.url, "UPDATE items SET n = n WHERE id IN (1, 2, 3)")
    run_sql(
        settled.url,
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 1 THEN NEW.note := 'x'; "
        "ELSIF NEW.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END$$",
        f"CREATE TRIGGER meddle BEFORE INSERT ON {settled.into} FOR EACH ROW EXECUTE FUNCTION meddle()",
    )
    assert settled.drain(compare=True).differing == 2


def test_many_keys_are_drained_at_once(database: str, assemble: Assemble) -> None:
    run_sql(database, *ITEMS, "INSERT INTO items SELECT g FROM generate_series(100, 20000) g")
    change = assemble(database, "items", SHAPE)
    change.settle()
    run_sql(database, "UPDATE items SET n = 5", "DELETE FROM items WHERE id % 10 = 0")
    assert change.drain(compare=True) == Drained(keys=19961)
    assert change.differences() == []


@pytest.mark.parametrize("shape", ["id int PRIMARY KEY, a int", "a int, id int, PRIMARY KEY (id, a)"])
def test_a_drain_reads_no_more_than_the_rows_of_its_keys(any_database: str, assemble: Assemble, shape: str) -> None:
    run_sql(
        any_database,
        f"CREATE TABLE t ({shape})",
        "INSERT INTO t (id, a) SELECT g, g % 7 FROM generate_series(1, 20000) g",
        "ANALYZE t",
    )
    change = assemble(any_database, "t", "(a bigint, id bigint)")
    change.settle()
    run_sql(any_database, f"ANALYZE {change.into}", "UPDATE t SET a = -1 WHERE id IN (5, 500, 5000)")
    work = change.site.work

    def read(table: str) -> int:
        query = (
            "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables "
            f"where relid = '{table}'::regclass"
        )
        row = work.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0

    with work.transaction():
        before = {table: read(table) for table in (change.source, change.into)}
        assert change.drainer.drain(None, compare=True).differing == 0
        assert {table: 0 < read(table) - before[table] <= 30 for table in before} == dict.fromkeys(before, True)


def test_a_log_is_compacted_to_what_it_says(settled: HandMade) -> None:
    run_sql(settled.url, *["UPDATE items SET n = n + 1 WHERE id < 4"] * 20, "DELETE FROM items WHERE id = 9")
    assert drain.compact(settled.site, settled.site.work, settled.flow, settled.log) == 57
    assert (settled.left(), settled.touched()) == (4, [(1,), (2,), (3,), (9,)])
    run_sql(settled.url, "TRUNCATE items", "TRUNCATE items")
    assert drain.compact(settled.site, settled.site.work, settled.flow, settled.log) == 1
    assert settled.drain().emptied


# -- rows that are refused


def test_a_row_that_is_refused_is_a_conflict_and_the_others_go_on(settled: HandMade) -> None:
    run_sql(settled.url, f"ALTER TABLE {settled.into} ADD CONSTRAINT good CHECK (note <> 'bad')")
    run_sql(settled.url, "UPDATE items SET note = 'bad' WHERE id IN (3, 33)", "UPDATE items SET n = 0 WHERE id < 50")
    assert settled.drain(compare=True) == Drained(keys=49, refused=2)
    assert settled.conflicts() == [(["3"], "23514", "good"), (["33"], "23514", "good")]
    assert sorted(row[:2] for row in settled.differences()) == [("missing", "3"), ("missing", "33")]
    (row,) = rows(settled.url, "SELECT row, message FROM segue.conflict WHERE key = '{3}'")
    assert row[0]["note"] == "bad"
    assert "good" in row[1]
    run_sql(settled.url, "UPDATE items SET note = 'good' WHERE id = 3", "DELETE FROM items WHERE id = 33")
    assert settled.drain(compare=True) == Drained(keys=2)
    assert (settled.conflicts(), settled.differences()) == ([], [])


def test_a_conflict_is_over_when_what_stood_in_its_way_is_gone(settled: HandMade) -> None:
    run_sql(settled.url, f"CREATE UNIQUE INDEX items_n ON {settled.into} (n)")
    run_sql(settled.url, "UPDATE items SET n = 20 WHERE id IN (4, 5)")
    assert settled.drain().refused == 2
    assert settled.drain() == Drained()
    assert [row[0] for row in settled.conflicts()] == [["4"], ["5"]]
    run_sql(settled.url, "UPDATE items SET n = -20 WHERE id = 20")
    assert settled.drain(compare=True) == Drained(keys=1)
    assert [row[0] for row in settled.conflicts()] == [["5"]]
    run_sql(settled.url, "DELETE FROM items WHERE id = 4")
    settled.drain()
    assert (settled.conflicts(), settled.differences()) == ([], [])


REFUSED = {
    "a cast": ("n", "smallint", "70000", "22003"),
    "text that is no number": ("note", "int", "'many'", "22P02"),
    "too long": ("note", "varchar(5)", "'too long'", "22001"),
    "a name of nothing": ("note", "regclass", "'nowhere'", "42P01"),
    "NULL": ("note", "text NOT NULL", "NULL", "23502"),
    "a check": ("n", "int CHECK (n < 1000)", "1000", "23514"),
    "a function's own error": ("n", "picky", "1000", "P0001"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("way", ["copied", "drained"])
def test_whatever_a_row_is_refused_for_the_others_come_over(
    database: str, assemble: Assemble, name: str, way: str
) -> None:
    column, kind, wrong, state = REFUSED[name]
    filler = {"int": "'1'", "regclass": "'pg_class'"}.get(kind, "'x'" if column == "note" else "1")
    run_sql(
        database,
        "CREATE FUNCTION fine(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS "
        "$$BEGIN IF $1 = 1000 THEN RAISE 'not fine'; END IF; RETURN true; END$$",
        "CREATE DOMAIN picky AS int CHECK (fine(value))",
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 1, note text)",
        f"INSERT INTO t (id, {column}) SELECT g, {filler} FROM generate_series(1, 50) g",
    )
    columns = {"n": "int", "note": "text"} | {column: kind}
    change = assemble(database, "t", f"(id bigint, n {columns['n']}, note {columns['note']})")
    spoil = f"UPDATE t SET {column} = {wrong} WHERE id IN (1, 17, 50)"
    if way == "copied":
        run_sql(database, spoil, f"DELETE FROM {change.log}")
        assert change.copy() == 47
    else:
        change.settle()
        run_sql(database, spoil)
        assert change.drain() == Drained(keys=3, refused=3)
    assert [(key, code) for key, code, _ in change.conflicts()] == [(["1"], state), (["17"], state), (["50"], state)]
    assert value(database, f"SELECT count(*) FROM {change.into}") == 47


def test_more_conflicts_than_anybody_would_mend_stop_the_work(
    settled: HandMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusing, "MOST_CONFLICTS", 20)
    run_sql(settled.url, f"ALTER TABLE {settled.into} ADD CHECK (n > 0)", "UPDATE items SET n = 0 WHERE id <= 20")
    assert settled.drain().refused == 20
    run_sql(settled.url, "UPDATE items SET n = 0 WHERE id = 21")
    with pytest.raises(StepFailed, match="refuses more than 20 rows"):
        settled.drain()
    assert settled.left() == 1
    assert len(settled.conflicts()) == 20


def test_what_is_no_rows_fault_is_no_conflict(settled: HandMade) -> None:
    run_sql(settled.url, f"ALTER TABLE {settled.into} DROP COLUMN note", "DELETE FROM items WHERE id = 1")
    with pytest.raises(SegueError, match="note"):
        settled.drain()
    assert (settled.conflicts(), settled.left()) == ([], 1)


# -- columns that have no value in the source


@pytest.fixture
def narrower(database: str, assemble: Assemble) -> HandMade:
    """Give the way back of a change that dropped a column: the destination still has it."""
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, code text)")
    change = assemble(
        database, "t", "(id int PRIMARY KEY, code text UNIQUE, gone text DEFAULT 'none', must int NOT NULL DEFAULT 7)",
        kept=("gone", "must"),
    )  # fmt: skip
    run_sql(
        database,
        f"INSERT INTO {change.into} SELECT g, 'c' || g, 'old ' || g, g FROM generate_series(1, 9) g",
        f"INSERT INTO t SELECT id, code FROM {change.into}",
        f"DELETE FROM {change.log}",
    )
    return change


def test_a_column_that_the_source_has_not_keeps_its_values(narrower: HandMade) -> None:
    run_sql(
        narrower.url,
        "UPDATE t SET code = 'new' WHERE id = 2",
        "DELETE FROM t WHERE id = 3",
        "INSERT INTO t VALUES (20, 'late')",
    )
    assert narrower.drain(compare=True) == Drained(keys=3)
    assert rows(
        narrower.url, f"SELECT id, code, gone, must FROM {narrower.into} WHERE id IN (1, 2, 3, 20) ORDER BY 1"
    ) == [
        (1, "c1", "old 1", 1),
        (2, "new", "old 2", 2),
        (20, "late", "none", 7),
    ]


def test_a_column_that_the_source_has_not_keeps_its_values_through_a_conflict(narrower: HandMade) -> None:
    run_sql(narrower.url, "UPDATE t SET code = 'c1' WHERE id IN (2, 5)", "INSERT INTO t VALUES (20, 'c1')")
    assert narrower.drain().refused == 3
    assert narrower.drain() == Drained()
    run_sql(narrower.url, "UPDATE t SET code = 'c0' WHERE id = 1", "UPDATE t SET code = 'x' WHERE id = 5")
    narrower.drain()
    assert rows(
        narrower.url, f"SELECT id, code, gone, must FROM {narrower.into} WHERE id IN (2, 5, 20) ORDER BY 1"
    ) == [
        (2, "c1", "old 2", 2),
        (5, "x", "old 5", 5),
    ]


# -- under the lease, and beside others


def test_a_driver_that_lost_the_lease_drains_nothing(settled: HandMade) -> None:
    run_sql(settled.url, "UPDATE items SET n = 0 WHERE id = 1", "UPDATE segue.lease SET fence = fence + 1")
    with pytest.raises(FenceLost):
        settled.drain()
    assert settled.left() == 1


def test_a_drain_whose_connection_is_lost_is_not_known_to_be_done(settled: HandMade) -> None:
    run_sql(settled.url, "UPDATE items SET n = 0 WHERE id = 1", "CREATE FUNCTION stop() RETURNS trigger LANGUAGE "
            "plpgsql AS $$BEGIN PERFORM pg_sleep(30); RETURN NULL; END$$",
            f"CREATE TRIGGER stop AFTER INSERT ON {settled.into} EXECUTE FUNCTION stop()")  # fmt: skip
    draining = Background(settled.drain)
    pid = settled.site.work.info.backend_pid
    until(lambda: value(settled.url, "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s", pid))
    run_sql(settled.url, f"SELECT pg_terminate_backend({pid})")
    with pytest.raises(OutcomeUnknown):
        draining.result()
    assert settled.left() == 1


def writing(seed: int) -> Callable[[psycopg.Connection[Any], int], None]:
    """Return one of an application's sessions: it changes keys, swaps unique values, rolls back, writes NULLs."""
    chance = random.Random(seed)

    def work(connection: psycopg.Connection[Any], number: int) -> None:
        connection.execute("SET search_path = public")
        with connection.transaction():
            for _ in range(chance.choice([1, 1, 3])):
                key, other = chance.randint(1, 300), chance.randint(1, 300)
                connection.execute(
                    chance.choice(
                        [
                            b"UPDATE items SET n = n + 1, note = NULLIF(note, 'x') || 'y' WHERE id = %(key)s",
                            b"DELETE FROM items WHERE id = %(key)s AND id %% 5 = 0",
                            b"INSERT INTO items (id, code, n) VALUES (%(key)s, 'n' || %(fresh)s, 1) ON CONFLICT (id) "
                            b"DO UPDATE SET note = NULL",
                            b"UPDATE items SET id = %(fresh)s WHERE id = %(key)s",
                            b"WITH gone AS (DELETE FROM items WHERE id = %(key)s RETURNING *) "
                            b"INSERT INTO items SELECT %(fresh)s, 'm' || %(fresh)s, n, note, big FROM gone",
                        ]
                    ),
                    {"key": key, "other": other, "fresh": 1000 * seed + 100_000 + number * 10 + chance.randint(0, 9)},
                )
            if chance.random() < 0.1:
                raise psycopg.Rollback

    return work


def test_both_sides_are_the_same_after_any_traffic(any_database: str, assemble: Assemble) -> None:
    under_traffic(any_database, assemble, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
def test_both_sides_are_the_same_after_more_traffic(any_database: str, assemble: Assemble, seed: int) -> None:
    under_traffic(any_database, assemble, seed)


def under_traffic(any_database: str, assemble: Assemble, seed: int) -> None:
    """Change a table while four sessions write to it; both sides must be the same in the end."""
    run_sql(any_database, *ITEMS, "INSERT INTO items SELECT g, 'c' || g, g FROM generate_series(61, 300) g")
    with traffic() as running:
        for number in range(4):
            running.add(any_database, writing(seed * 10 + number))
        until(lambda: running.done > 20)
        change = assemble(any_database, "items", SHAPE)
        change.copy(size=7, largest=11, workers=2, pause=0.01)
        change.index()
        while change.drain(500).left:
            pass
        assert change.drain(compare=True).differing == 0
        run_sql(any_database, f"CREATE UNIQUE INDEX ON {change.into} (code)")
        for _ in range(10):
            assert change.drain(compare=True).differing == 0
        done = running.done
        until(lambda: running.done > done + 20)
    unexpected = [
        e for e in running.errors if not isinstance(e, psycopg.errors.UniqueViolation | psycopg.errors.DeadlockDetected)
    ]
    assert unexpected == []
    change.drain(compare=True)
    assert (change.conflicts(), change.differences()) == ([], [])
