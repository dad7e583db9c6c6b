"""What a target is asked is answered read-only, within its time, and without holding large answers in memory."""

from __future__ import annotations

import tracemalloc

import pytest
from fix_hostile import administrator
from fix_targets import Open, apply, run_sql, terminate, value
from psycopg import conninfo

from segue.errors import OutcomeUnknown, SegueError, StepFailed


def test_an_answer_has_names_and_rows(any_database: str, open_target: Open) -> None:
    target = open_target(any_database)
    assert target.query("SELECT 1 AS one, 'x' AS two", 5) == (["one", "two"], [(1, "x")])
    assert target.query("SELECT 1 WHERE false", 5)[1] == []
    assert target.query("SHOW search_path", 5)[1] == [("public",)]
    assert target.query("VALUES (1), (2)", 5)[1] == [(1,), (2,)]


def test_of_a_large_answer_only_the_beginning_is_taken(database: str, open_target: Open) -> None:
    target = open_target(database)
    tracemalloc.start()
    try:
        answer = target.query("SELECT repeat('x', 1000) FROM generate_series(1, 3000000)", 30, limit=10)[1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(answer) == 10
    assert peak < 5e6
    assert target.query("SELECT 1", 5)[1] == [(1,)]


def test_a_question_changes_nothing(database: str, open_target: Open) -> None:
    run_sql(database, "CREATE TABLE t (n int)", "CREATE SEQUENCE s")
    target = open_target(database)
    for query in ("INSERT INTO t VALUES (1) RETURNING n", "SELECT nextval('s')", "CREATE TABLE u (n int)"):
        with pytest.raises(SegueError):
            target.query(query, 5)
    assert value(database, "SELECT count(*) FROM t") == 0
    assert target.query("SELECT 1", 5)[1] == [(1,)]


def test_a_question_that_would_change_something_is_the_steps_failure(database: str, open_target: Open) -> None:
    run_sql(
        database,
        "CREATE TABLE t (n int)",
        "INSERT INTO t VALUES (1)",
        "CREATE FUNCTION sly() RETURNS int LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM set_config('transaction_read_only', 'off', false); DELETE FROM t; RETURN 1; END $$",
    )
    target = open_target(database)
    for query in ("SELECT 1 AS n INTO u", "WITH g AS (DELETE FROM t RETURNING 1) SELECT * FROM g"):
        with pytest.raises(StepFailed, match="would change something"):
            target.query(query, 5)
    with pytest.raises(SegueError):
        target.query("SELECT sly()", 5)
    assert value(database, "SELECT count(*) FROM t") == 1


def test_an_answer_beyond_python_is_the_steps_failure(database: str, open_target: Open) -> None:
    target = open_target(database)
    for query in ("SELECT 'infinity'::timestamptz", "SELECT '4000-01-01 BC'::date"):
        with pytest.raises(StepFailed, match="cannot be compared"):
            target.query(query, 5)
    assert target.query("SELECT 1", 5)[1] == [(1,)]


def test_a_question_has_its_time(database: str, open_target: Open) -> None:
    target = open_target(database)
    with pytest.raises(StepFailed, match="cancel"):
        target.query("SELECT pg_sleep(5)", 0.2)
    with pytest.raises(SegueError, match="no_such"):
        target.query("SELECT no_such", 5)
    terminate(database)
    with pytest.raises(OutcomeUnknown):
        target.query("SELECT 1", 5)


def test_a_look_at_the_target_is_cheap_and_whole(any_database: str, open_target: Open) -> None:
    sample = open_target(any_database).gauge().sample()
    assert sample.wal_bytes > 0
    assert sample.active >= 1
    assert sample.round_trip_ms >= 0


def test_what_a_block_sets_for_the_session_ends_with_its_step(database: str, open_target: Open) -> None:
    run_sql(database, "CREATE SCHEMA other", "CREATE TABLE other.t (n int)", "CREATE TABLE t (n int)")
    run_sql(administrator(database), f"GRANT pg_monitor TO {conninfo.conninfo_to_dict(database)['user']}")
    target = open_target(database)
    block = "DO $$ BEGIN SET search_path TO other; SET row_security TO on; SET ROLE pg_monitor; END $$"
    apply(target, block, step="one")
    apply(target, "INSERT INTO t VALUES (1)", step="two")
    assert value(database, "SELECT count(*) FROM public.t") == 1
    assert target.query("SHOW row_security", 5)[1] == [("off",)]
