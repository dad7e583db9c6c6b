"""Comparing two databases finds exactly what differs, also between versions and while both are written to."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_process import Segue
from fix_standbys import Server
from fix_targets import rows, run_sql, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.databases.postgresql.verifying.verifier import PostgresVerifier
from segue.errors import Blocked, InvalidInput
from segue.model.verifying import TableVerdict, VerifySpec

KINDS = (
    "CREATE TABLE kinds (id int PRIMARY KEY, b bool, s smallint, l bigint, t text, v varchar(20), c char(5), u uuid, "
    "d date, ts timestamptz, n numeric, f float8, j jsonb, a int[], i interval, y bytea, m money, ip inet)"
)
ROW = (
    "INSERT INTO kinds SELECT g, g % 2 = 0, g, g * 10000000000, 't' || g, 'v', 'ab', md5(g::text)::uuid, "
    "date '2024-01-01' + g, timestamptz '2024-01-01 00:00+00' + g * interval '1 hour', g / 7.0, g / 3.0, "
    "jsonb_build_object('g', g), ARRAY[g, NULL], g * interval '1 day', decode(md5(g::text), 'hex'), g::money, "
    "'10.0.0.1' FROM generate_series(1, {}) g"
)
# What must be seen, one by one, of the row 3.
CHANGES = (
    "b = NULL", "s = s + 1", "l = l + 4294967296", "t = NULL", "t = ''", "v = 'v '", "c = 'abc'", "d = 'infinity'",
    "ts = ts + interval '1 microsecond'", "n = 0.428571428571428571430", "n = 'NaN'", "f = nextafter(f)" , "f = '-0'",
    "j = '{{\"g\": 3.0}}'", "a = ARRAY[ARRAY[3, NULL]]", "a = '[0:1]={{3,NULL}}'",
    "i = i + interval '1 day' - interval '24 h'",
    "y = ''", "m = m + 0.01::money", "ip = '10.0.0.1/24'",
)  # fmt: skip


@contextlib.contextmanager
def verifier(a: str, b: str, jobs: int = 2) -> Iterator[PostgresVerifier]:
    found = PostgresVerifier(a, b, jobs)
    try:
        yield found
    finally:
        found.close()


def verify(a: str, b: str, **spec: Any) -> list[TableVerdict]:
    asked = VerifySpec(**{"settle": 0.0, **spec})
    with verifier(a, b) as found:
        return list(found.verdicts(asked, lambda _: None))


def told(verdict: TableVerdict) -> list[tuple[Any, ...]]:
    return [(*one.key, one.kind, *one.columns) for one in verdict.differences]


@pytest.fixture
def other(new_database: Callable[[], str]) -> str:
    return new_database()


def test_equal_tables_of_all_kinds_are_equal(database: str, other: str) -> None:
    for url in (database, other):
        run_sql(url, KINDS, ROW.format(500))
    run_sql(other, "SET timezone = 'Asia/Tokyo'", "UPDATE kinds SET t = t")
    (verdict,) = verify(database, other)
    assert (verdict.equal, verdict.rows, verdict.key) == (True, (500, 500), ("id",))
    assert set(verdict.texts) == {"c", "ts", "n", "f", "j", "a", "i", "m"}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_value_is_seen(database: str, other: str, change: str) -> None:
    for url in (database, other):
        run_sql(url, KINDS, ROW.format(5))
    change = change.replace("nextafter(f)", "f + 2e-16").replace("{{", "{").replace("}}", "}")
    run_sql(other, f"UPDATE kinds SET {change} WHERE id = 3")
    (verdict,) = verify(database, other)
    assert told(verdict) == [("3", "different", change.partition(" ")[0])]


def test_rows_and_values_that_were_swapped_are_seen(database: str, other: str) -> None:
    for url in (database, other):
        run_sql(
            url, "CREATE TABLE pair (id int PRIMARY KEY, x int, y int)", "INSERT INTO pair VALUES (1, 5, 6), (2, 7, 8)"
        )
    run_sql(other, "UPDATE pair SET x = y, y = x WHERE id = 1")
    assert told(verify(database, other)[0]) == [("1", "different", "x", "y")]
    run_sql(other, "UPDATE pair SET x = CASE id WHEN 1 THEN 7 ELSE 5 END, y = CASE id WHEN 1 THEN 8 ELSE 6 END")
    assert told(verify(database, other)[0]) == [("1", "different", "x", "y"), ("2", "different", "x", "y")]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_exactly_the_rows_that_were_edited_are_reported(database: str, other: str, data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([1, 50, 3000]))
    text = data.draw(st.booleans())
    key = "'k' || g" if text else "g"
    for url in (database, other):
        run_sql(
            url,
            "DROP TABLE IF EXISTS edited",
            f"CREATE TABLE edited AS SELECT {key} AS id, g AS n FROM generate_series(1, {count}) g",
        )
        run_sql(url, "ALTER TABLE edited ADD PRIMARY KEY (id)")
    numbers = st.integers(1, count)
    gone, changed = (set(data.draw(st.lists(numbers, max_size=5))) for _ in range(2))
    new = set(data.draw(st.lists(st.integers(count + 1, count + 100), max_size=5)))
    changed -= gone
    name = (lambda number: f"k{number}") if text else str
    run_sql(
        other,
        f"DELETE FROM edited WHERE n = ANY ('{{{','.join(map(str, gone))}}}')",
        f"UPDATE edited SET n = -n WHERE n = ANY ('{{{','.join(map(str, changed))}}}')",
        *(f"INSERT INTO edited VALUES ('{name(number)}', {number})" for number in new),
    )
    expected = {(name(n), "missing") for n in gone} | {(name(n), "extra") for n in new}
    expected |= {(name(n), "different", "n") for n in changed}
    (verdict,) = verify(database, other, tables=(("edited", "edited"),), range_rows=data.draw(st.integers(1, 4000)))
    assert set(told(verdict)) == expected
    assert verdict.rows == (count, count - len(gone) + len(new))
    with verifier(database, other) as found:
        list(found.verdicts(asked := VerifySpec(tables=(("edited", "edited"),), settle=0.0), lambda _: None))
        (before,) = found.verdicts(asked, lambda _: None)
        assert found.repair(before) == len(expected)
    assert verify(database, other, tables=(("edited", "edited"),))[0].equal


def test_many_rows_are_narrowed_down_without_listing_all(database: str, other: str) -> None:
    for url in (database, other):
        run_sql(
            url,
            "CREATE TABLE big (id bigint PRIMARY KEY, n int)",
            "INSERT INTO big SELECT g * 3, g FROM generate_series(1, 120000) g",
        )
    run_sql(
        other,
        "DELETE FROM big WHERE id = 180000",
        "INSERT INTO big VALUES (180001, 1)",
        "INSERT INTO big VALUES (-5, 1), (400000, 1)",
    )
    (verdict,) = verify(database, other, range_rows=50_000)
    assert told(verdict) == [("-5", "extra"), ("180000", "missing"), ("180001", "extra"), ("400000", "extra")]


def test_versions_15_and_18_are_compared(database: str, moving_debian_server: Server) -> None:
    old = moving_debian_server.database()
    for url in (database, old):
        run_sql(
            url,
            KINDS,
            ROW.format(300),
            "CREATE TABLE word (w text PRIMARY KEY)",
            "INSERT INTO word SELECT 'ä' || g FROM generate_series(1, 99) g",
        )
    assert [one.equal for one in verify(old, database)] == [True, True]
    run_sql(database, "UPDATE kinds SET y = NULL WHERE id = 7", "DELETE FROM word WHERE w = 'ä5'")
    kinds, word = verify(old, database)
    assert (told(kinds), told(word)) == ([("7", "different", "y")], [("ä5", "missing")])


def test_enums_and_other_types_are_compared_by_their_text(database: str, other: str) -> None:
    run_sql(database, "CREATE TYPE mood AS ENUM ('sad', 'glad')", "CREATE TABLE t (id int PRIMARY KEY, m mood, n int)")
    run_sql(
        other,
        "CREATE TYPE x AS ENUM ('a')",
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
        "CREATE TABLE t (id bigint PRIMARY KEY, m mood, n bigint)",
    )
    for url in (database, other):
        run_sql(url, "INSERT INTO t VALUES (1, 'glad', 5), (2, 'sad', 6)")
    (verdict,) = verify(database, other)
    assert verdict.equal
    assert set(verdict.texts) == {"id", "m", "n"}


def test_tables_without_a_key_are_counted(database: str, other: str) -> None:
    for url in (database, other):
        run_sql(url, "CREATE TABLE log (n int)", "INSERT INTO log SELECT g % 10 FROM generate_series(1, 100) g")
    assert verify(database, other)[0].equal
    run_sql(other, "INSERT INTO log VALUES (3)", "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log WHERE n = 4)")
    (verdict,) = verify(database, other)
    assert (verdict.equal, verdict.more, verdict.rows) == (False, 2, (100, 100))


def test_tables_and_columns_of_one_side_alone_are_told(database: str, other: str) -> None:
    run_sql(database, "CREATE TABLE a (id int PRIMARY KEY, x int, gone int)", "CREATE TABLE mine (id int)")
    run_sql(other, "CREATE TABLE a (id int PRIMARY KEY, x int)")
    mine, a = verify(database, other)
    assert (mine.equal, mine.name) == (False, "public.mine")
    assert (a.equal, a.alone) == (False, ("gone",))
    assert verify(database, other, tables=(("a", "a"),), columns=("id", "x"))[0].equal


def test_rows_under_way_are_no_difference(database: str, other: str) -> None:
    """One side follows the other by a moment, while rows are written all the time."""
    for url in (database, other):
        run_sql(
            url,
            "CREATE TABLE live (id int PRIMARY KEY, n int)",
            "INSERT INTO live SELECT g, 0 FROM generate_series(1, 2000) g",
        )
    run_sql(other, "UPDATE live SET n = 7 WHERE id = 1234")
    stop = threading.Event()

    def write() -> None:
        chance = random.Random(1)
        with psycopg.connect(database, autocommit=True) as a, psycopg.connect(other, autocommit=True) as b:
            while not stop.is_set():
                number = chance.randrange(1, 60)
                (now,) = a.execute("UPDATE live SET n = n + 1 WHERE id = %s RETURNING n", [number]).fetchone() or (0,)
                stop.wait(0.02)
                b.execute("UPDATE live SET n = %s WHERE id = %s", [now, number])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [verify(database, other, settle=1.0)[0] for _ in range(3)]
    finally:
        stop.set()
        writer.join()
    assert [told(verdict) for verdict in found] == [[("1234", "different", "n")]] * 3


def test_more_differences_than_are_listed_are_not_repaired_by_rows(database: str, other: str) -> None:
    for url in (database, other):
        run_sql(url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT g FROM generate_series(1, 100) g")
    run_sql(other, "DELETE FROM t")
    with verifier(database, other) as found:
        (verdict,) = found.verdicts(VerifySpec(settle=0.0, listed=10), lambda _: None)
        assert (len(verdict.differences), verdict.more) == (10, 90)
        with pytest.raises(Blocked, match="more rows"):
            found.repair(verdict)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"tables": (("nothing", "t"),)}, 'there is no table "nothing"'),
        ({"tables": (("t", '"'),)}, "there is no table"),
        ({"columns": ("x",)}, 'do not both have a column "x"'),
        ({"where": "nonsense = 1"}, 'column "nonsense" does not exist'),
    ],
)
def test_bad_input_is_refused(database: str, other: str, spec: dict[str, Any], words: str) -> None:
    for url in (database, other):
        run_sql(url, "CREATE TABLE t (id int PRIMARY KEY)")
    with pytest.raises(InvalidInput, match=words):
        verify(database, other, **spec)


def test_command_compares_repairs_and_reports(segue: Segue, database: str, other: str) -> None:
    for url in (database, other):
        run_sql(url, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    run_sql(other, "UPDATE t SET v = 'c' WHERE id = 2", "INSERT INTO t VALUES (3, 'd')")
    for name, url in (("one", database), ("two", other)):
        segue("env", "add", name, "--type", "staging", "--url-env", "URL", env={"URL": url}).expect(0)
    shown = segue("verify", "one", "two", "--settle", "0", "--report", "found.json").expect(1)
    assert "public.t: id=2 is different in v" in shown.stdout
    assert "public.t: id=3 is extra" in shown.stdout
    report = json.loads(Path(segue.folder, "found.json").read_text())
    assert [one["kind"] for one in report["tables"][0]["differences"]] == ["different", "extra"]
    assert "--yes" in segue("verify", "one", "two", "--repair", "--settle", "0").expect(64).stderr
    for bad in ("true) OR (true", "id = 1; DROP TABLE t", ""):
        assert "no condition" in segue("verify", "one", "two", "--where", bad).expect(64).stderr
    assert segue("verify", "one", "two", "--repair", "--yes", "--settle", "0", "--json").expect(0).json["ok"] is True
    assert rows(other, "SELECT * FROM t ORDER BY id") == [(1, "a"), (2, "b")]
    segue("verify", "one", "two").expect(0)
    assert "same database" in segue("verify", "one", "one").expect(64).stderr
    assert "does not belong in the arguments" in segue("verify", database, "two").expect(64).stderr
    assert value(database, "SELECT count(*) FROM t") == 2
