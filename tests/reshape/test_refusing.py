"""Shapes that do not fit are refused before anything is made, and rows that do not fit are named."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from fix_targets import rows, run_sql
from fix_unlike import PATIENCE, Reshaped

from segue.errors import Blocked, InvalidInput, SegueError, StepFailed
from segue.planning.shapefile import InvalidShape

Make = Callable[..., Reshaped]

SOURCE = """
    CREATE TABLE a (id integer PRIMARY KEY, x text, n text NOT NULL DEFAULT '1');
    CREATE TABLE c (id integer PRIMARY KEY, kind text, UNIQUE (kind, id));
    CREATE TABLE loose (id integer, x text);
    INSERT INTO a SELECT g, 'x' || g FROM generate_series(1, 50) AS g;
"""
TARGET = """
    CREATE TABLE b (id bigint PRIMARY KEY, x text, n integer);
    CREATE TABLE narrow (id smallint PRIMARY KEY, x varchar(4), n integer);
    CREATE TABLE strict (id bigint PRIMARY KEY, x text, n integer, must text NOT NULL);
    CREATE TABLE keyless (id bigint, x text, n integer);
    CREATE TABLE pair (id bigint, x text, n integer, PRIMARY KEY (id, x));
"""


def head(target: str = "b", source: str = "a") -> str:
    return f"tables:\n  {target}:\n    from: {source}\n"


@pytest.mark.parametrize(
    ("shape", "place", "words"),
    [
        (head() + "    columns: {x: s.nosuch}", "4:18", "nosuch does not exist"),
        (head() + "    columns:\n      nosuch: s.x", "5:15", '"nosuch" of public.b is not there'),
        (head() + "    columns: {x: (select 1)}", "4:18", "use `lookup`"),
        (head() + "    columns: {x: now()::text}", "4:18", "another value each time"),
        (head() + "    columns: {x: s.x ||}", "4:18", "syntax error"),
        (head() + "    columns: {x: count(*)::text}\n    drop: [x]", "4:18", "not of one row"),
        (head() + "    columns: {x: 1}\n    drop: [y]", "5:12", 'no column "y"'),
        (head() + "    columns: {x: upper('a')}", "3:11", '"x" of public.a has no home'),
        (head("strict"), "2:3", '"must"'),
        (head("keyless"), "2:3", "no primary key"),
        (head("b", "loose"), "3:11", "no primary key"),
        (head("pair"), "2:3", "must be a column of the key"),
        (head() + "    columns: {id: s.id / 2}", "4:19", "must be a column of the key"),
        (head() + "    columns: {id: s.x}", "4:19", "must be a column of the key"),
        (head("nosuch"), "2:3", "there is no table"),
        (head() + "    where: s.id < (select 1)", "4:12", "subquer"),
        (head() + "    where: s.x < now()::text", "4:12", "IMMUTABLE"),
        (head() + "    lookup: {c: {table: c, on: c.kind = s.x}}", "4:32", "several rows"),
        (head() + "    reverse: {n: t.nosuch}", "4:18", "nosuch"),
        (head() + "    reverse: {id: t.id}", "4:19", "of its key"),
        (head() + "    wheer: true", "4:5", "unknown key"),
        (head() + "    lookup: {c: {table: c, on: c.id = s.id, watch: true}}", "4:45", "not supported"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_at_its_place(reshape: Make, shape: str, place: str, words: str) -> None:
    with pytest.raises(InvalidShape) as refused:
        reshape(SOURCE, TARGET, shape).start()
    said = "\n".join([refused.value.message, *refused.value.details])
    assert f"shape.yaml:{place}: " in said
    assert words in said


def test_what_is_refused_leaves_nothing_behind(reshape: Make) -> None:
    move = reshape(SOURCE, TARGET, head("keyless"))
    with pytest.raises(InvalidInput):
        move.start()
    assert move.remains() == []
    run_sql(move.target, "INSERT INTO b VALUES (1)")


def test_a_column_that_the_way_back_must_fill_is_refused_or_given(reshape: Make) -> None:
    source = "CREATE TABLE a (id int PRIMARY KEY, m text NOT NULL)"
    shape = head() + "    columns: {x: lower(s.m)}\n"
    with pytest.raises(InvalidShape, match='no value for "m"'):
        reshape(source, TARGET, shape).start()
    assert reshape(source, TARGET, shape + "    reverse: {m: upper(t.x)}").mover.check() == []
    one_way = reshape(source, TARGET, shape + "way_back: false")
    one_way.start()
    one_way.turn("target")
    with pytest.raises(Blocked):
        one_way.turn("source")
    one_way.mover.complete(PATIENCE, one_way.notes.append)
    assert one_way.remains() == []


def test_a_row_at_which_an_expression_fails_is_named_by_the_copy(reshape: Make) -> None:
    move = reshape(SOURCE, TARGET, head())
    run_sql(move.source, "UPDATE a SET n = 'many' WHERE id = 37")
    with pytest.raises(StepFailed, match=r'"many".*at the row \(37\) of public\.a'):
        move.start()
    run_sql(move.source, "UPDATE a SET n = '2' WHERE id = 37")
    assert move.start() == {"public.b": 50}


def test_a_row_at_which_an_expression_fails_is_named_by_who_follows(reshape: Make) -> None:
    move = reshape(SOURCE, TARGET, head())
    move.start()
    run_sql(move.source, "UPDATE a SET x = 'new'", "UPDATE a SET n = 'many' WHERE id = 37")
    with pytest.raises(StepFailed, match=r'"many".*at the row \(37\)'):
        move.level()
    with pytest.raises(StepFailed):
        move.turn("target")
    run_sql(move.source, "UPDATE a SET n = '2' WHERE id = 37")
    assert move.level() == 52
    assert rows(move.target, "SELECT count(*) FROM b WHERE x = 'new' AND n = 2") == [(1,)]


@pytest.mark.parametrize("bad", ["x = 'too long'", "id = 40000"])
def test_a_value_that_does_not_fit_is_refused_and_never_cut(reshape: Make, bad: str) -> None:
    move = reshape(SOURCE, TARGET, head("narrow"))
    move.start()
    run_sql(move.source, f"UPDATE a SET {bad} WHERE id = 7")
    with pytest.raises(SegueError):
        move.level()
    assert rows(move.target, "SELECT id, x FROM narrow WHERE id = 7") == [(7, "x7")]


def test_tables_with_other_rows_are_never_emptied(reshape: Make) -> None:
    move = reshape(SOURCE, TARGET, head())
    run_sql(move.target, "INSERT INTO b VALUES (-1, 'mine')")
    with pytest.raises(InvalidInput, match="rows that this move has not copied"):
        move.start()
    assert rows(move.target, "SELECT id FROM b") == [(-1,)]


def test_nobody_passes_the_fence_of_the_closed_side(reshape: Make) -> None:
    move = reshape(SOURCE, TARGET, head())
    move.start()
    for to in ("target", "source"):
        with psycopg.connect(move.url("source" if move.open == "target" else "target")) as connection:
            table = "b" if move.open == "source" else "a"
            for before in ("SELECT 1", "SET session_replication_role = replica"):
                for query in (f"INSERT INTO {table} (id) VALUES (-1)", f"DELETE FROM {table}", f"TRUNCATE {table}"):
                    connection.execute(before.encode())
                    with pytest.raises(psycopg.errors.SerializationFailure) as refused:
                        connection.execute(query.encode())
                    assert refused.value.diag.constraint_name == "segue_fence"
                    connection.rollback()
        move.turn(to)
