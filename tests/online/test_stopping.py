"""Who cancels or pauses an online change that waits, or is half-way through a rule, leaves nothing in the way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from fix_shops import Shops
from fix_targets import Background, rows, run_sql, session, until, value

from segue.engine import control
from segue.engine.executor import StepRun
from segue.errors import SegueError
from segue.online import workflow
from segue.services import executions
from segue.store.tables.online import OnlineChangeRow

PLAN = """
plan: reshape
version: 1.0.0
description: Give a table another shape
steps:
  - {{name: reshape, kind: online-change, strategy: {0}, table: t, alter: [{1}]}}
"""
TABLE = ("create table t (id int primary key, v int)", "insert into t select g, g from generate_series(1, 50) as g")
OPTIONAL = "select not attnotnull from pg_attribute where attrelid = 't'::regclass and attname = 'v'"
ASKED = pytest.mark.parametrize(
    ("ask", "status"), [(executions.cancel, "cancelled"), (executions.pause, "paused")], ids=["cancel", "pause"]
)


def run(shops: Shops, plan: str) -> None:
    with suppress(SegueError):
        shops.run(plan)


@ASKED
def test_rule_that_is_half_way_in_place_is_taken_back(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., str], status: str
) -> None:
    run_sql(database, *TABLE)
    shops.open("shop", database)
    do = StepRun.do

    def asked(self: StepRun, part: int, statements: Any) -> None:
        do(self, part, statements)
        if part == 0:
            ask(shops.store, None, actor="ada")

    monkeypatch.setattr(control, "ASK_SECONDS", 0)
    with monkeypatch.context() as half_way:
        half_way.setattr(StepRun, "do", asked)
        plan = shops.add(PLAN.format("native-online", "ALTER v SET NOT NULL"))
        run(shops, plan)
    assert shops.status()["status"] == status
    assert value(database, "select count(*) from pg_constraint where conname like 'segue%'") == 0
    assert value(database, OPTIONAL)
    if status == "paused":
        shops.run(plan)
        assert not value(database, OPTIONAL)


@ASKED
def test_swap_that_waits_for_its_locks_can_be_stopped(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., str], status: str
) -> None:
    run_sql(database, *TABLE)
    shops.open("shop", database)
    monkeypatch.setattr(workflow, "TRY_SECONDS", 0.5)
    plan = shops.add(PLAN.format("shadow-table", "ALTER v TYPE bigint"))

    def stalled() -> float:
        with shops.store.session() as store:
            found = store.query(OnlineChangeRow).one_or_none()
            return float(((found and found.performance_metrics) or {}).get("swap_stall_ms", 0))

    with session(database, "select from t"):
        change = Background(lambda: run(shops, plan))
        until(stalled)
        ask(shops.store, None, actor="ada")
        if status == "paused":
            change.result()
        else:
            # The triggers on the table are dropped under the lock that is waited for.
            until(lambda: any("what was made for the change is removed" in line for line in shops.noted()))
    change.result()
    assert shops.status()["status"] == status
    assert rows(database, "select pg_typeof(v)::text from t limit 1") == [("integer",)]
    left = value(database, "select count(*) from pg_namespace where nspname like 'segue\\_%'")
    assert (left == 0) == (status == "cancelled")
    if status == "paused":
        shops.run(plan)
        assert rows(database, "select pg_typeof(v)::text from t limit 1") == [("bigint",)]
