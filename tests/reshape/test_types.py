"""Tables of any columns: what was written on either side arrives on the other as it is, and the comparison agrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from fix_targets import rows, run_sql
from fix_unlike import PATIENCE, Reshaped
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from segue.databases.postgresql.reshaping.mover import ReshapingMover
from segue.model.verifying import VerifySpec
from segue.planning import shapefile

#: Type in the source, type in the target, and values as SQL.
VALUES = [
    ("text", "text", ["''", "'Ä\"''\\\\N'", "E'\\t\\n'", "repeat('long', 3000)"]),
    ("varchar(9)", "text", ["'  blank '", "'ünï'"]),
    ("char(5)", "char(5)", ["'a'", "' a'"]),
    ("smallint", "integer", ["-32768", "0"]),
    ("integer", "bigint", ["2147483647", "-1"]),
    ("bigint", "numeric", ["9223372036854775807", "0"]),
    ("numeric", "numeric", ["1.00", "1", "'NaN'", "1e-20"]),
    ("numeric(6,2)", "numeric(8,3)", ["1.5", "-0.01"]),
    ("real", "double precision", ["'-0'", "'Infinity'", "1.5"]),
    ("boolean", "boolean", ["true", "false"]),
    ("date", "date", ["'infinity'", "'4713-01-01 BC'"]),
    ("timestamptz(3)", "timestamptz", ["'2020-01-01 00:00:00.123+05'", "'-infinity'"]),
    ("time", "time", ["'24:00'", "'00:00:00.000001'"]),
    ("interval", "interval", ["'1 mon'", "'30 days'"]),
    ("uuid", "text", ["gen_random_uuid()"]),
    ("jsonb", "jsonb", ["'null'", "'{\"a\": 1.00}'"]),
    ("json", "json", ['\'{"a":1, "a" : 2}\'']),
    ("bytea", "bytea", ["'\\x00ff'", "''"]),
    ("integer[]", "integer[]", ["'{}'", "'[0:1]={1,NULL}'"]),
    ("mood[]", "mood[]", ["'{calm}'"]),
    ("mood", "mood", ["'loud'"]),
    ("word", "word", ["'x'"]),
    ("pair", "pair", ["row(1, 'a,\"b')::pair", "row(null, null)::pair"]),
    ("int4range", "int4range", ["'empty'", "'[1,3]'"]),
    ("inet", "inet", ["'::1/64'"]),
    ("bit(3)", "bit(3)", ["B'101'"]),
    ("point", "point", ["'(1,-0)'"]),
    ("tsvector", "tsvector", ["'a:1B b'"]),
    ("regtype", "regtype", ["'integer'", "'mood'"]),
]
KEYS = [
    ("integer", "bigint", "{n}"),
    ("bigint", "text", "{n} - 5"),
    ("uuid", "uuid", "md5('{n}')::uuid"),
    ("uuid", "text", "md5('{n}')::uuid"),
    ("text", "varchar(30)", "'k ' || {n}"),
    ("date", "date", "date '2020-01-01' + {n}"),
]
TYPES = """
    CREATE TYPE mood AS ENUM ({moods}); CREATE DOMAIN word AS text CHECK (value <> 'bad');
    CREATE TYPE pair AS (n int, t text);
"""


@dataclass
class Pair:
    """Two databases in which one move after the other is tried."""

    source: str
    target: str
    count: int = 0


@pytest.fixture
def pair(new_debian_database: Callable[[], str], new_database: Callable[[], str]) -> Pair:
    """Give a database of an older server and one of a newer."""
    found = Pair(new_debian_database(), new_database())
    # The same names under other numbers, and in another order.
    run_sql(found.source, TYPES.format(moods="'calm', 'loud'"))
    run_sql(found.target, "CREATE TYPE other AS ENUM ('x')", TYPES.format(moods="'loud', 'calm'"))
    return found


tables = st.tuples(
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=2),
    st.lists(st.sampled_from(VALUES), min_size=1, max_size=8),
    st.integers(0, 2**30),
)


def tried(pair: Pair, keys: list[tuple[str, str, str]], values: list[tuple[str, str, list[str]]], seed: int) -> None:
    pair.count += 1
    name = f"t{pair.count}"
    names = [f"k{n}" for n, _ in enumerate(keys)]
    sides = [
        [f"{column} {one[side]}" for column, one in zip(names, keys, strict=True)]
        + [f"v{n} {one[side]}" for n, one in enumerate(values)]
        for side in range(2)
    ]
    key = ", ".join(names)
    run_sql(pair.source, f"CREATE TABLE {name} ({', '.join(sides[0])}, PRIMARY KEY ({key}))")
    turned = ", ".join(reversed(names))
    run_sql(pair.target, f"CREATE TABLE {name} ({', '.join(reversed(sides[1]))}, PRIMARY KEY ({turned}))")
    text = f"tables: {{{name}: {{from: {name}}}}}"
    mover = ReshapingMover(name, pair.source, pair.target, shapefile.read(text, file="shape.yaml"))
    move = Reshaped(pair.source, pair.target, mover, shapefile.read(text, file="shape.yaml"))

    def fill(side: str, first: int, until: int) -> None:
        statements = []
        for n in range(first, until):
            given = [one[2].format(n=n) for one in keys]
            given = [f"({word})::{one[0 if side == 'source' else 1]}" for word, one in zip(given, keys, strict=True)]
            given += ["NULL" if (n + seed) % 5 == 0 else one[2][(n + seed) % len(one[2])] for one in values]
            listed = ", ".join([*names, *(f"v{i}" for i, _ in enumerate(values))])
            statements.append(f"INSERT INTO {name} ({listed}) VALUES ({', '.join(given)})")
        run_sql(move.url(side), ";".join(statements))

    def same() -> None:
        move.level()
        found = []
        for side in range(2):
            listed = [f"{column}::text" for column in names]
            listed += [f"v{n}::{one[1]}::text" for n, one in enumerate(values)]
            query = f"SELECT {', '.join(listed)} FROM {name}"
            found.append(sorted(rows((pair.source, pair.target)[side], query), key=str))
        assert found[0] == found[1]
        (verdict,) = mover.verify(VerifySpec(settle=0), move.notes.append)
        assert verdict.equal, verdict

    try:
        fill("source", 1, 12)
        move.start()
        same()
        touch = f"UPDATE {name} SET v0 = v0"
        run_sql(pair.source, touch, f"DELETE FROM {name} WHERE ctid IN (SELECT ctid FROM {name} LIMIT 2)")
        fill("source", 12, 16)
        same()
        move.turn("target")
        run_sql(pair.target, touch, f"DELETE FROM {name} WHERE ctid IN (SELECT ctid FROM {name} LIMIT 2)")
        fill("target", 16, 20)
        same()
        move.turn("source")
        same()
        mover.cancel(PATIENCE, move.notes.append)
    finally:
        for url in (pair.source, pair.target):
            run_sql(url, f"DROP TABLE {name}", f"DROP SCHEMA IF EXISTS segue_move_{name} CASCADE")


# An example takes a second, so a failing one is shown as it was found.
QUICK = settings(
    max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


def test_every_type_at_once_goes_there_and_back(pair: Pair) -> None:
    tried(pair, KEYS[:1], VALUES, 0)


@QUICK
@given(tables)
def test_tables_of_any_columns_go_there_and_back(
    pair: Pair, table: tuple[list[tuple[str, str, str]], list[tuple[str, str, list[str]]], int]
) -> None:
    tried(pair, *table)


@pytest.mark.slow
@settings(QUICK, max_examples=30)
@given(tables)
def test_many_tables_of_any_columns_go_there_and_back(
    pair: Pair, table: tuple[list[tuple[str, str, str]], list[tuple[str, str, list[str]]], int]
) -> None:
    tried(pair, *table)
