"""The workflow of an online change, where something goes wrong beside the change itself."""

from __future__ import annotations

from typing import Any

import pytest
from fix_shops import Shops
from fix_targets import Open, Run, run_sql, value

from segue.databases.postgresql.online import change
from segue.databases.postgresql.online.change import PostgresChange
from segue.errors import StepFailed, TargetUnreachable
from segue.model.lifecycles import OnlineChangePhase
from segue.online.workflow import Manner, Workflow
from segue.steps.online_change import OnlineChangeParams, spec_of
from segue.store.tables.online import OnlineChangeRow


class Storeless(Run):
    """A run whose store is away."""

    def keep(self, **detail: Any) -> None:
        raise TargetUnreachable("the store is away")


def test_what_stops_a_phase_is_told_although_the_store_is_away(database: str, open_target: Open) -> None:
    params = OnlineChangeParams(name="change", table="t", alter=["ADD n int"])
    run: Any = Storeless(open_target(database), params)
    workflow = Workflow(run, spec_of(params), Manner())
    with (
        pytest.raises(StepFailed, match="what really happened"),
        workflow._timed(OnlineChangePhase.COPYING_DATA, tell=False),
    ):
        raise StepFailed("what really happened")
    with pytest.raises(TargetUnreachable), workflow._timed(OnlineChangePhase.COPYING_DATA, tell=False):
        pass


def test_long_log_is_reduced_to_distinct_keys_and_the_swap_tells_its_look(
    database: str, shops: Shops, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(database, "create table t (id int primary key, v int)", "insert into t values (1, 1)")
    shops.open("shop", database)
    copied = PostgresChange.copied

    def busy(self: PostgresChange) -> None:
        run_sql(database, *["update t set v = v + 1"] * 12)
        copied(self)

    monkeypatch.setattr(PostgresChange, "copied", busy)
    monkeypatch.setattr(change, "CROWDED", 10)
    shops.run(shops.add(PLAN))
    assert [line for line in shops.noted() if "11 entries of the log said again" in line]
    assert value(database, "select v from t") == 13
    with shops.store.session() as session:
        metrics = session.query(OnlineChangeRow).one().performance_metrics or {}
    assert 0 < metrics["swap_look_ms"] < metrics["swap_lock_ms"]


PLAN = """
plan: reshape
version: 1.0.0
description: Give a table another shape
steps:
  - {name: reshape, kind: online-change, strategy: shadow-table, table: t, alter: [ALTER v TYPE bigint]}
"""
