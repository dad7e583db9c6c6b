"""A row's number differs whenever one of its values does, however alike the server finds the two."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest
from fix_online import Assemble, HandMade
from fix_targets import run_sql, value
from psycopg import sql

from segue.databases.postgresql.online import digest, verify

#: Type, a value, another one: what is stored differs, although equal by the type's own operator where it is marked.
VALUES = (
    ("boolean", "true", "false", "hash"),
    ("smallint", "1", "-1", "hash"),
    ("integer", "0", "1", "hash"),
    ("bigint", "1", "4294967296", "hash"),  # of these the server's own hash is the same
    ("oid", "1", "4294967295", "hash"),
    ('"char"', "a", "b", "hash"),
    ("name", "a", "a ", "hash"),
    ("text", "a", "a ", "hash"),
    ("varchar(10)", "", "\u00e9", "hash"),
    ("bytea", "\\x00", "\\x", "hash"),
    ("uuid", "00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001", "hash"),
    ("date", "infinity", "-infinity", "hash"),
    ("inet", "10.0.0.1", "10.0.0.1/8", "hash"),
    ("cidr", "10.0.0.0/8", "10.0.0.0/9", "hash"),
    ("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:04", "hash"),
    ("macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:06", "hash"),
    ("regclass", "pg_class", "pg_type", "hash"),
    ("mood", "ok", "sad", "hash"),
    ("named", "a", "A", "hash"),  # a domain
    ("numeric", "1.0", "1.00", "text"),
    ("numeric", "NaN", "Infinity", "text"),
    ("real", "0", "-0", "text"),
    ("double precision", "0", "-0", "text"),
    ("double precision", "NaN", "Infinity", "text"),
    ("double precision", "0.1", "0.10000000000000002", "text"),
    ("money", "1.00", "42949672.96", "text"),
    ("time", "00:00:00", "24:00:00", "text"),
    ("timetz", "12:00:00+00", "13:00:00+01", "text"),
    ("timestamp", "2000-01-01 00:00:00.000001", "2000-01-01 01:11:34.967296", "text"),
    ("timestamptz", "infinity", "-infinity", "text"),
    ("timestamptz", "9999-12-31 23:59:59.999999", "9999-12-31 23:59:59.999998", "text"),
    ("interval", "1 day", "24 hours", "text"),
    ("pg_lsn", "0/1", "1/0", "text"),
    ("xid8", "1", "4294967296", "text"),
    ("xid", "1", "2", "text"),
    ("tid", "(0,1)", "(0,2)", "text"),
    ("bpchar", "a", "a  ", "text"),
    ("char(5)", "a", "b", "text"),
    ("bit(3)", "101", "100", "text"),
    ("varbit", "101", "1010", "text"),
    ("json", '{"a":1}', '{"a": 1}', "text"),
    ("jsonb", '{"a": 1.0}', '{"a": 1.00}', "text"),
    ("xml", "<a/>", "<a></a>", "text"),
    ("point", "(0,1)", "(0,-1)", "text"),
    ("line", "{1,2,3}", "{1,2,4}", "text"),
    ("lseg", "[(0,0),(1,1)]", "[(1,1),(0,0)]", "text"),
    ("box", "(1,1),(0,0)", "(2,1),(1,0)", "text"),  # equal, for their areas are
    ("path", "[(0,0),(1,1)]", "((0,0),(1,1))", "text"),
    ("polygon", "((0,0),(1,1),(2,0))", "((0,0),(2,0),(1,1))", "text"),
    ("circle", "<(0,0),1>", "<(1,0),1>", "text"),
    ("tsvector", "a:1", "a:2", "text"),
    ("tsquery", "a & b", "b & a", "text"),
    ("jsonpath", "$.a", "$.b", "text"),
    ("pg_snapshot", "1:2:", "1:3:", "text"),
    ("integer[]", "{1,2,3,4}", "{{1,2},{3,4}}", "text"),  # one hash for all shapes
    ("integer[]", "{1,2}", "[0:1]={1,2}", "text"),
    ("text[]", "{NULL}", '{"NULL"}', "text"),
    ("numeric[]", "{1.0}", "{1.00}", "text"),
    ("char(5)[]", "{a}", "{b}", "text"),
    ("int4range", "[1,5)", "[1,6)", "text"),
    ("numrange", "[1.0,2)", "[1.00,2)", "text"),
    ("int4multirange", "{[1,2)}", "{[1,2),[5,6)}", "text"),
    ("pair", "(1,)", '(1,"")', "text"),
    ("pair", "(,)", "(,a)", "text"),
    ("amount", "1.0", "1.00", "text"),  # a domain
)
TYPES = (
    "CREATE TYPE mood AS ENUM ('ok', 'sad')",
    "CREATE TYPE pair AS (a int, b text)",
    "CREATE DOMAIN named AS text",
    "CREATE DOMAIN small AS numeric",
    "CREATE DOMAIN amount AS small CHECK (VALUE > 0)",
)


def values(url: str) -> dict[str, tuple[str, str, str, str]]:
    """Return what is tried on a server, by column."""
    has_xml = True
    try:
        value(url, "SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        has_xml = False
    return {f"c{number}": each for number, each in enumerate(VALUES) if each[0] != "xml" or has_xml}


@pytest.fixture
def typed(any_database: str, assemble: Assemble) -> HandMade:
    """Give a copied table with a column of every type, three rows, of which the last has only NULLs."""
    tried = values(any_database)
    columns = ", ".join(f"{column} {kind}" for column, (kind, *_) in tried.items())
    given = ", ".join(_literal(text) for _, text, *_ in tried.values())
    nothing = ", ".join("NULL" for _ in tried)
    run_sql(
        any_database,
        *TYPES,
        f"CREATE TABLE typed (id int PRIMARY KEY, {columns})",
        f"INSERT INTO typed VALUES (1, {given}), (2, {given}), (3, {nothing})",
    )
    change = assemble(any_database, "typed", f"(id bigint PRIMARY KEY, {columns})")
    change.copy()
    return change


def comparer(change: HandMade) -> verify.Comparer:
    """Return who compares in a session of its own."""
    whose = {"change": "tchange1", "member": change.member, "direction": change.direction}
    return verify.Comparer(change.site, verify.Phrases(change.site.look, change.flow, change.log, whose))


def found(one: verify.Comparer) -> list[str]:
    """Return what differs in the whole table."""
    everything = verify.Range(None, None)
    differences = [str(each) for each in one.differences(everything)]
    assert one.sums(everything).same == (not differences)
    return differences


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


def test_one_changed_value_of_every_type_is_caught(typed: HandMade) -> None:
    with closing(comparer(typed)) as one:
        assert found(one) == []
        with psycopg.connect(typed.url, autocommit=True) as session:
            for column, (kind, text, other, _) in values(typed.url).items():
                session.execute(f"UPDATE {typed.into} SET {column} = {_literal(other)} WHERE id = 1".encode())
                assert found(one) == [f'(1): other values of "{column}"'], kind
                session.execute(f"UPDATE {typed.into} SET {column} = {_literal(text)} WHERE id = 1".encode())
        assert found(one) == []


def test_a_value_that_becomes_null_or_comes_instead_of_null_is_caught(typed: HandMade) -> None:
    with closing(comparer(typed)) as one:
        update = "UPDATE {} SET {} = CASE WHEN id <> {} THEN {}::{} END WHERE id IN (1, 3)"
        with psycopg.connect(typed.url, autocommit=True) as session:
            for column, (kind, text, *_) in values(typed.url).items():
                session.execute(update.format(typed.into, column, 1, _literal(text), kind).encode())
                assert found(one) == [f'({row}): other values of "{column}"' for row in (1, 3)], kind
                session.execute(update.format(typed.into, column, 3, _literal(text), kind).encode())


def test_the_method_of_every_type_is_told_with_the_reason(typed: HandMade) -> None:
    how = digest.methods(digest.compared(typed.site.look, typed.flow))
    tried = values(typed.url)
    assert {column: how[column].partition(" ")[0] for column in tried} == {c: each[3] for c, each in tried.items()}
    by_type = {each[0]: how[column] for column, each in tried.items()}
    assert by_type["json"] == "text (json has no hash)"
    assert by_type["jsonb"] == "text (equal values of jsonb may differ)"
    assert by_type["amount"] == "text (equal values of numeric may differ)"
    assert by_type["text[]"] == "text (the hash of an array leaves its shape out)"


#: Types of columns that no table of an application's has, or that are only a number's other name.
NOT_TRIED = "^(pg_(?!lsn|snapshot)|gtsvector|aclitem|refcursor|int2vector|oidvector|reg|cid$|txid_snapshot)"


def test_no_type_of_the_server_is_left_out(any_database: str) -> None:
    # A type that is new in some version is not taken for one whose hash says everything.
    known = value(
        any_database, "SELECT array_agg(to_regtype(k)::text) FROM unnest(%s::text[]) AS k", [v[0] for v in VALUES]
    )
    found = value(
        any_database,
        "SELECT array_agg(t.oid::regtype::text) FROM pg_type AS t WHERE t.typtype = 'b' AND t.typcategory <> 'A' "
        "AND t.typnamespace = 'pg_catalog'::regnamespace AND t.typname !~ %s",
        NOT_TRIED,
    )
    assert set(found) - set(known) == set()


def test_what_only_seems_the_same_is_caught(debian_database: str, assemble: Assemble) -> None:
    columns = "a citext, b hstore, c text COLLATE nocase, d name COLLATE nocase, e text[] COLLATE nocase, f ltree"
    run_sql(
        debian_database,
        *[f"CREATE EXTENSION {name}" for name in ("citext", "hstore", "ltree")],
        "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        f"CREATE TABLE t (id int PRIMARY KEY, {columns})",
        "INSERT INTO t VALUES (1, 'x', 'a=>x', 'x', 'x', '{x}', 'x')",
    )
    change = assemble(debian_database, "t", f"(id int PRIMARY KEY, {columns})")
    change.copy()
    with closing(comparer(change)) as one:
        others = {"a": "'X'", "b": "'a=>X'", "c": "'X'", "d": "'X'", "e": "'{X}'", "f": "'X'"}
        for column, other in others.items():
            run_sql(debian_database, f"UPDATE {change.into} SET {column} = {other}")
            assert found(one) == [f'(1): other values of "{column}"']
            run_sql(debian_database, f"UPDATE {change.into} SET {column} = was.{column} FROM t AS was")
    how = digest.methods(one.phrases.columns)
    assert how["a"] == "text (equal values of citext may not be the same)"
    assert how["c"] == how["d"] == how["e"] == "text (its collation finds different values equal)"
