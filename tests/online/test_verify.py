"""Two tables are compared row by row while both are written to: nothing that differs is missed, nothing is made up."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from fix_online import CHANGE, Assemble, HandMade
from fix_targets import rows, run_sql, session, terminate, traffic, until, value
from psycopg import sql

from segue.databases.postgresql.online import capture
from segue.databases.postgresql.online import verify as verifying
from segue.databases.postgresql.online.verify import SourceEmptied, Verifier
from segue.errors import FenceLost, OutcomeUnknown, StepFailed
from segue.model.online import Verified
from segue.ports import Pace

ITEMS = (
    "CREATE TABLE items (id int PRIMARY KEY, code text UNIQUE, n numeric, note text)",
    "INSERT INTO items SELECT g * 10, 'c' || g, g, CASE WHEN g % 3 > 0 THEN 'note ' || g END "
    "FROM generate_series(1, 300) g",
)
SHAPE = "(id bigint NOT NULL, code text, n numeric, note text)"


def verifier(change: HandMade, **settings: Any) -> Verifier:
    """Return a comparison of an assembled change, in small ranges."""
    settings = {"settle": change.drain, "seconds": 0.3, "largest": 40, **settings}
    return Verifier(change.site, change.flow, change.log, CHANGE, change.member, change.direction, **settings)


def verify(change: HandMade, *, workers: int = 1, boundary: Callable[[], None] = lambda: None, **more: Any) -> Verified:
    """Compare an assembled change."""
    return verifier(change, **more).run(workers=workers, pace=Pace, note=lambda _: None, boundary=boundary)


def settled(url: str, assemble: Assemble) -> HandMade:
    """Return a table of three hundred rows and its other side, brought up to date."""
    run_sql(url, *ITEMS)
    change = assemble(url, "items", SHAPE)
    change.settle()
    return change


@pytest.fixture
def items(database: str, assemble: Assemble) -> HandMade:
    """Give a table of three hundred rows and its other side, brought up to date."""
    return settled(database, assemble)


@pytest.fixture
def either(any_database: str, assemble: Assemble) -> HandMade:
    """Give the same on each server in turn."""
    return settled(any_database, assemble)


def test_equal_tables_are_the_same_and_the_record_says_how_that_was_seen(either: HandMade) -> None:
    seen = verify(either, workers=2)
    assert (seen.rows, seen.rows_new, seen.differing, seen.ranges) == (300, 300, 0, 8)
    assert seen.digest_old == seen.digest_new != "0"
    assert seen.methods == {
        "id": "hash",
        "code": "hash",
        "n": "text (equal values of numeric may differ)",
        "note": "hash",
    }
    ranges = rows(
        either.url,
        "SELECT after, until, rows_old, rows_new, digest_old = digest_new, snapshot ~ '^\\d+:' FROM segue.verified "
        "ORDER BY (after[1])::int NULLS FIRST",
    )
    assert ranges[0] == (None, ["400"], 40, 40, True, True)
    assert ranges[-1] == (["2800"], None, 20, 20, True, True)


#: What is done to the other side behind our back, and the rows that are to be mended.
WRONG = {
    "a value": ("UPDATE {} SET note = 'x' WHERE id = 1550", 1),
    "a value to NULL": ("UPDATE {} SET note = NULL WHERE id = 1550", 1),
    "values of two rows": (
        "UPDATE {} SET note = CASE id WHEN 10 THEN 'note 2' ELSE 'note 1' END WHERE id IN (10, 20)",
        2,
    ),
    "a pair that is twice the same": ("UPDATE {} SET note = 'x' WHERE id IN (10, 3000)", 2),
    "the first row missing": ("DELETE FROM {} WHERE id = 10", 1),
    "the last row missing": ("DELETE FROM {} WHERE id = 3000", 1),
    "one in the middle missing": ("DELETE FROM {} WHERE id = 1000", 1),
    "all missing": ("DELETE FROM {}", 300),
    "one before the first": ("INSERT INTO {} VALUES (-500, 'a', 1, 'b')", 1),
    "one after the last": ("INSERT INTO {} VALUES (5000, 'a', 1, 'b')", 1),
    "one in a gap": ("INSERT INTO {} VALUES (1005, 'a', 1, 'b')", 1),
    "one in place of another": ("UPDATE {} SET id = 1005 WHERE id = 1000", 2),
    "many in a gap": ("INSERT INTO {} SELECT 10000 + g, 'a', 1, 'b' FROM generate_series(1, 2500) g", 2500),
    "another scale": ("UPDATE {} SET n = n + 0.0 WHERE id = 1000", 1),
}


def test_what_was_changed_behind_our_back_is_found_and_mended(either: HandMade) -> None:
    for round_, (what, (statement, wrong)) in enumerate(WRONG.items(), 2):
        run_sql(either.url, f"UPDATE segue.change SET round = {round_}", statement.format(either.into))
        assert either.differences() != [], what
        seen = verify(either)
        assert (seen.differing, seen.rows, seen.rows_new) == (wrong, 300, 300), what
        assert either.differences() == [], what


# -- while the application writes


def write(connection: psycopg.Connection[Any], number: int) -> None:
    """Do something to the lower rows: other values, other keys, rows that come and go."""
    key = random.randrange(1, 2000)
    with connection.transaction():
        connection.execute("UPDATE items SET n = n + 1, note = note || 'x' WHERE id BETWEEN %s AND %s + 30", [key, key])
        connection.execute("DELETE FROM items WHERE id = %s", [key // 10 * 10])
        connection.execute("INSERT INTO items (id, n) VALUES (%s, 1) ON CONFLICT (id) DO NOTHING", [key])
        connection.execute("UPDATE items SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM items WHERE id = %s)",
                           [key + 1, key, key + 1])  # fmt: skip


def test_four_writers_cause_no_false_alarm_and_hide_nothing(either: HandMade) -> None:
    run_sql(either.url, f"UPDATE {either.into} SET note = 'wrong' WHERE id = 2500")
    with traffic() as application:
        for _ in range(4):
            application.add(either.url, write)
        for round_ in range(1, 6):
            run_sql(either.url, f"UPDATE segue.change SET round = {round_}")
            until(lambda before=application.done: application.done > before)
            assert verify(either, workers=2).differing == (1 if round_ == 1 else 0)
            either.drain()
    # A deadlock between two of the writers is theirs alone.
    assert [e for e in application.errors if e.sqlstate not in ("40P01", "23505")] == []
    either.drain()
    assert either.differences() == []


def test_without_leaving_out_what_is_in_the_log_each_write_would_be_a_difference(either: HandMade) -> None:
    run_sql(either.url, "UPDATE items SET id = 15, n = 0 WHERE id = 10")
    one = verifying.Comparer(either.site, verifier(either)._phrases)
    everything = verifying.Range(None, None)
    with one.connection.transaction():
        standing = one._begin()
        assert standing.logged == 2
        assert not one._sums(everything, replace(standing, logged=0)).same
        seen = one._sums(everything, standing)
    assert (seen.same, seen.skipped, seen.rows_old, seen.rows_new) == (True, 2, 299, 299)
    one.close()


def test_an_entry_that_commits_late_hides_nothing_and_is_no_difference(items: HandMade) -> None:
    with session(items.url, "UPDATE items SET n = 0 WHERE id = 10") as late:
        assert verify(items).differing == 0
        late.commit()
    assert items.drain(compare=True).differing == 0


def test_a_long_log_is_drained_meanwhile(items: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "LOGGED", 100)
    run_sql(items.url, "UPDATE items SET n = n + 1")
    assert verify(items).differing == 0
    assert items.left() == 0


def test_rows_that_are_refused_are_left_out(database: str, assemble: Assemble) -> None:
    run_sql(database, *ITEMS)
    change = assemble(database, "items", "(id bigint NOT NULL, code text, n numeric CHECK (n <> 7), note text)")
    change.settle()
    assert len(change.conflicts()) == 1
    assert verify(change).rows == 299


def test_a_source_that_was_emptied_is_for_the_copy_to_begin_anew(items: HandMade) -> None:
    run_sql(items.url, "TRUNCATE items", "INSERT INTO items VALUES (1)")
    with pytest.raises(SourceEmptied):
        verify(items)
    # Unless the drain makes it good, for every row that came since is in the log.
    seen = verify(items, settle=lambda: items.drain(anew=True))
    assert (seen.rows, seen.rows_new, seen.differing) == (1, 1, 0)


def test_a_table_that_is_emptied_right_before_a_snapshot_waits_for_it(items: HandMade) -> None:
    with session(items.url, "TRUNCATE items"):
        assert rows(items.url, "SELECT 1") == [(1,)]
        stops: list[int] = []

        def boundary() -> None:
            stops.append(1)
            if len(stops) > 30:
                raise StepFailed("long enough")

        with pytest.raises(StepFailed, match="long enough"):
            verify(items, boundary=boundary)
    assert verify(items).differing == 0


# -- what no repair mends


def test_an_expression_without_one_value_is_given_up_on_with_the_rows_named(database: str, assemble: Assemble) -> None:
    run_sql(database, *ITEMS)
    change = assemble(database, "items", SHAPE, changed={"note": "CASE WHEN id = 50 THEN random()::text END"})
    change.settle()
    with pytest.raises(StepFailed, match=r"1 rows .* each was brought up to date 3 times") as raised:
        verify(change)
    assert raised.value.details == ['(50): other values of "note"']
    assert value(database, "SELECT count(*) FROM segue.verified WHERE until IS NULL") == 0


def test_too_many_differences_end_it(items: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "MOST_DIFFERING", 20)
    run_sql(items.url, f"UPDATE {items.into} SET note = 'x'")
    with pytest.raises(StepFailed, match="more than 20 rows"):
        verify(items)


def test_a_key_that_the_source_could_not_have_is_told(items: HandMade) -> None:
    run_sql(items.url, f"INSERT INTO {items.into} VALUES (5000000000)")
    with pytest.raises(StepFailed, match="integer out of range") as raised:
        verify(items)
    assert "whose key no row" in raised.value.hint


def test_a_row_without_a_key_on_the_other_side_is_told(items: HandMade) -> None:
    run_sql(items.url, f"ALTER TABLE {items.into} ALTER id DROP NOT NULL", f"INSERT INTO {items.into} VALUES (NULL)")
    with pytest.raises(StepFailed, match=r"1 rows of .* have no key"):
        verify(items)


# -- deaths


def test_ranges_that_were_compared_are_not_compared_again(items: HandMade) -> None:
    def boundary() -> None:
        if value(items.url, "SELECT count(*) FROM segue.verified") >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(items, workers=2, largest=4, boundary=boundary)
    before = rows(items.url, "SELECT number, at FROM segue.verified ORDER BY number")
    assert 3 <= len(before) < 75
    seen = verify(items, workers=2)
    assert (seen.rows, seen.rows_new) == (300, 300)
    assert rows(items.url, "SELECT number, at FROM segue.verified ORDER BY number")[: len(before)] == before
    assert verify(items) == seen  # all is done: nothing is opened, nothing compared


def test_a_hole_between_compared_ranges_is_filled(items: HandMade) -> None:
    verify(items)
    run_sql(items.url, "DELETE FROM segue.verified WHERE number IN (1, 2, 5, 8)")
    assert value(items.url, "SELECT sum(rows_old) FROM segue.verified") == 160
    assert verify(items).rows == 300


def test_a_new_round_of_the_copy_is_compared_anew(items: HandMade) -> None:
    verify(items)
    run_sql(items.url, "UPDATE segue.change SET round = 2", f"UPDATE {items.into} SET n = 0 WHERE id = 10")
    assert verify(items).differing == 1


@pytest.mark.parametrize("point", ["online-range-compared", "online-verified-before-commit", "online-repaired"])
def test_a_lost_connection_loses_nothing(point: str, items: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    run_sql(items.url, f"UPDATE {items.into} SET note = 'wrong' WHERE id = 2500")

    def lose(name: str) -> None:
        if name == point:
            terminate(items.url, f"{items.site.lease.application}")

    with monkeypatch.context() as patched:
        patched.setattr(verifying.journal, "point", lose)
        with pytest.raises(OutcomeUnknown):
            verify(items)


def test_a_driver_that_lost_the_lease_records_nothing(items: HandMade) -> None:
    run_sql(items.url, "UPDATE segue.lease SET fence = fence + 1")
    with pytest.raises(FenceLost):
        verify(items)
    assert value(items.url, "SELECT count(*) FROM segue.verified") == 0


def test_no_pace_is_no_work(items: HandMade) -> None:
    stops: list[int] = []

    def boundary() -> None:
        stops.append(1)
        if len(stops) > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verifier(items).run(workers=2, pace=lambda: Pace(duty=0.0), note=lambda _: None, boundary=boundary)
    assert value(items.url, "SELECT count(*) FROM segue.verified") == 0


# -- shapes


KEYS = {
    "negative": ("k bigint", "(-g * 1000000007::bigint)", "k bigint"),
    "of a narrower type": ("k bigint", "g", "k int"),
    "a number as numeric": ("k int", "g", "k numeric"),
    "a number as text": ("k int", "g", "k text"),  # another order
    "text as a number": ("k text", "g", "k int"),
    "scaled": ("k numeric", "g / 1000.0", "k numeric(12, 3)"),
    "text": ("k text", "'Key ' || g", "k varchar(20)"),
    "text in another collation": ('k text COLLATE "C"', "chr(64 + g % 60) || g", 'k text COLLATE "en-x-icu"'),
    "text in no collation": ("k text", "chr(64 + g % 60) || g", 'k text COLLATE "C"'),
    "text without case": ("k text COLLATE nocase", "CASE g % 2 WHEN 0 THEN 'k' ELSE 'K' END || g", "k text"),
    "uuid": ("k uuid", "md5(g::text)::uuid", "k uuid"),
    "moment": ("k timestamptz", "'2020-01-01'::timestamptz + g * interval '1 s'", "k timestamptz"),
    "moment without a zone": ("k timestamptz", "'2020-01-01'::timestamptz + g * interval '1 s'", "k timestamp"),
    "day": ("k date", "'2020-01-01'::date + g", "k timestamp"),
    "domain": ("k positive", "g", "k bigint"),
    "of two": ("a int, k text", "g % 7, chr(64 + g % 60) || g", "a bigint, k text"),
    "bytes": ("k bytea", "decode(md5(g::text), 'hex')", "k bytea"),
    "bits": ("k bit(16)", "g::bit(16)", "k bit(16)"),
    "enum": ("k mood, a int", "(CASE g % 2 WHEN 0 THEN 'b' ELSE 'a' END)::mood, g", "k mood, a int"),
}


def test_both_ends_and_all_between_are_compared_along_any_key(debian_database: str, assemble: Assemble) -> None:
    run_sql(
        debian_database,
        "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
        "CREATE TYPE mood AS ENUM ('b', 'a')",
    )
    for number, (what, (columns, values, shadow)) in enumerate(KEYS.items(), 1):
        names = ", ".join(part.split()[0] for part in columns.split(", "))
        run_sql(
            debian_database,
            "UPDATE segue.change SET round = 1" if number > 1 else "SELECT 1",
            f"CREATE TABLE t{number} ({columns}, v text, PRIMARY KEY ({names}))",
            f"INSERT INTO t{number} SELECT {values}, 'v' || g FROM generate_series(1, 60) g",
        )
        shape = f"({shadow}, v text, PRIMARY KEY ({names}))"
        change = assemble(debian_database, f"t{number}", shape, member=number, capture=False)
        capture.make_log(change.site, change.flow, change.log)
        change.copy()
        assert verify(change, largest=25).differing == 0, what
        run_sql(debian_database, "UPDATE segue.change SET round = 2", *_break(change))
        assert verify(change, largest=25).differing == 3, what
        assert value(debian_database, f"SELECT count(*) FROM {change.into} WHERE v = 'x'") == 0, what


def _break(change: HandMade) -> list[str]:
    """Return statements that change the first row and the last, as they are stored, and delete one between them."""
    ends = f"(SELECT min(ctid) FROM {change.into}), (SELECT max(ctid) FROM {change.into})"
    one = f"(SELECT ctid FROM {change.into} ORDER BY ctid OFFSET 30 LIMIT 1)"
    return [f"UPDATE {change.into} SET v = 'x' WHERE ctid IN ({ends})", f"DELETE FROM {change.into} WHERE ctid = {one}"]


def test_columns_that_the_server_computes_are_compared_and_kept_ones_are_not(
    any_database: str, assemble: Assemble
) -> None:
    run_sql(
        any_database,
        "CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, "
        "same text GENERATED ALWAYS AS ('n' || id) STORED)",
        "INSERT INTO t SELECT g, g FROM generate_series(1, 20) g",
    )
    shape = (
        "(id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, "
        "same text GENERATED ALWAYS AS ('m' || id) STORED, mine int DEFAULT 5)"
    )
    change = assemble(any_database, "t", shape, kept=["mine"])
    flow = change.flow
    change.flow = flow.model_copy(
        update={
            "columns": tuple(
                each.model_copy(update={"expression": f'"{each.into}"'})
                for each in flow.columns
                if each.into not in ("twice", "same", "mine")
            )
        }
    )
    change.copy()
    run_sql(any_database, f"UPDATE {change.into} SET mine = id")
    seen = verify(change)
    assert (seen.differing, set(seen.methods)) == (0, {"id", "a", "twice"})


def test_partitioned_tables_are_compared_as_one(any_database: str, assemble: Assemble) -> None:
    run_sql(
        any_database,
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY HASH (id)",
        *[f"CREATE TABLE t{n} PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER {n})" for n in range(3)],
        "INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 200) g",
    )
    change = assemble(any_database, "t", "(id bigint PRIMARY KEY, v text)")
    change.copy()
    run_sql(any_database, f"DELETE FROM {change.into} WHERE id IN (1, 200)")
    assert (verify(change).differing, change.differences()) == (2, [])


def test_a_range_is_read_through_the_indexes_of_both_sides(database: str, assemble: Assemble) -> None:
    for number, what in enumerate(
        ("negative", "of a narrower type", "a number as numeric", "text", "uuid", "of two"), 1
    ):
        columns, values, shadow = KEYS[what]
        names = ", ".join(part.split()[0] for part in columns.split(", "))
        run_sql(
            database,
            f"CREATE TABLE t{number} ({columns}, v text, PRIMARY KEY ({names}))",
            f"INSERT INTO t{number} SELECT {values}, 'v' FROM generate_series(1, 60) g",
        )
        shape = f"({shadow}, v text, PRIMARY KEY ({names}))"
        change = assemble(database, f"t{number}", shape, member=number, capture=False)
        capture.make_log(change.site, change.flow, change.log)
        one = verifying.Comparer(change.site, verifier(change)._phrases)
        whole = verifying.Range(None, None)
        ends = one.place("source", whole, 10), one.place("source", whole, 20)
        query = one.phrases.sums(verifying.Range(*ends), verifying.Standing(1, False, ""))
        with one.connection.transaction():
            one.connection.execute("SET LOCAL enable_bitmapscan = off")
            plan = [row[0] for row in one.connection.execute(sql.SQL("EXPLAIN ") + query)]
        one.close()
        assert sum("Index Cond" in line and " > " in line and " <= " in line for line in plan) == 2, (what, plan)
        # What is in the log is looked up in a hash table, never searched for row by row.
        assert sum("hashed SubPlan" in line for line in plan) == 2, (what, plan)
