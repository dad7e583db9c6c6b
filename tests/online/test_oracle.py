"""The judge of eight writers finds what is wrong, and takes nothing else for wrong."""

from __future__ import annotations

import time

import pytest
from fix_oracle import Oracle, Shape
from fix_targets import run_sql, terminate


@pytest.fixture
def oracle(database: str) -> Oracle:
    """Give a table that was written to for a moment, and those who know what it holds."""
    found = Oracle(database, Shape(rows=60), pause=0.0)
    found.fill()
    with found.writing():
        while sum(found.done.values()) < 300:
            time.sleep(0.01)
    assert found.judge().right
    return found


WRONG = {
    "lost": "DELETE FROM t WHERE k1 = (SELECT max(k1) FROM t)",
    "extra": "INSERT INTO t (k1) VALUES (1000000)",
    "wrong": "UPDATE t SET note = coalesce(note, '') || ' ' WHERE k1 = (SELECT max(k1) FROM t)",
}


@pytest.mark.parametrize("what", WRONG)
def test_one_row_that_is_not_as_it_was_acknowledged_is_named(what: str, oracle: Oracle) -> None:
    run_sql(oracle.url, WRONG[what])
    verdict = oracle.judge()
    assert {name: len(getattr(verdict, name)) for name in WRONG} == {**dict.fromkeys(WRONG, 0), what: 1}
    assert not verdict.right


def test_a_row_that_is_there_twice_is_told(oracle: Oracle) -> None:
    run_sql(
        oracle.url,
        "ALTER TABLE t DROP CONSTRAINT t_pkey, DROP CONSTRAINT t_code_key",
        "INSERT INTO t SELECT * FROM t WHERE k1 = (SELECT max(k1) FROM t)",
    )
    assert oracle.judge().errors == ["1 keys are there twice"]


def test_a_write_whose_acknowledgement_was_lost_is_looked_up(oracle: Oracle) -> None:
    with oracle.writing():
        for _ in range(2):
            time.sleep(0.1)
            terminate(oracle.url, "writer")
    verdict = oracle.judge()
    assert verdict.errors
    assert [error for error in verdict.errors if "AdminShutdown" not in error and "connection" not in error] == []
    assert (verdict.lost, verdict.extra, verdict.wrong) == ([], [], [])
