"""Data jobs run on a target without a store, and the tables that most tests of them use."""

from __future__ import annotations

from typing import Any

from fix_targets import Run, rows, run_sql

from segue.databases.postgresql import DATABASE
from segue.databases.postgresql.target import PostgresTarget
from segue.ports import FORWARD
from segue.steps.data_job import STEP, DataJobParams

TABLES = (
    "CREATE TABLE old (id bigint PRIMARY KEY, name text, amount text)",
    "CREATE TABLE new (id bigint PRIMARY KEY, name text NOT NULL, cents bigint CHECK (cents >= 0))",
)
CENTS = {"cents": "(amount::numeric * 100)::bigint"}


def fill_old(url: str, count: int, every: int = 0) -> None:
    """Make the tables, with `count` rows of which each `every`-th cannot be written, in one of four ways."""
    bad = f"CASE WHEN n % {every} <> 0 THEN 0 ELSE 1 + (n / {every}) % 4 END" if every else "0"
    run_sql(
        url,
        *TABLES,
        "INSERT INTO old SELECT n, CASE bad WHEN 1 THEN NULL ELSE 'n' || n END, "
        "CASE bad WHEN 2 THEN 'a lot' WHEN 3 THEN '-1' WHEN 4 THEN '1e30' ELSE (n / 4.0)::text END "
        f"FROM (SELECT n, {bad} AS bad FROM generate_series(1, {count}) n) s",
        "ANALYZE old",
    )


def job(on: PostgresTarget, /, *, direction: str = FORWARD, step: str = "job", **fields: Any) -> Run:
    """Run a data job, or take it back; return the run."""
    given = {"source": "old", "target": "new", "set": CENTS, **fields}
    run = Run(on, DataJobParams(name=step, **given), direction=direction)
    assert STEP.problems(run.params, DATABASE) == []
    (STEP.run if direction == FORWARD else STEP.undo)(run)
    return run


def rejected(url: str, columns: str = "key[1]::bigint, error_type") -> list[tuple[Any, ...]]:
    """Return the rows that jobs have rejected, and nobody has settled."""
    return rows(url, f"SELECT {columns} FROM segue.rejected WHERE resolution IS NULL ORDER BY key[1]::bigint")
