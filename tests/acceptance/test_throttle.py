"""`segue throttle` as a process: what it shows, what it sets, and what it refuses."""

from __future__ import annotations

import pytest
from fix_process import Segue
from fix_targets import run_sql

PLAN = """\
plan: fill
version: 1.0.0
description: Fill a column
steps:
  - {name: fill, kind: backfill, table: customers, set: {n: id}}
"""


@pytest.fixture
def shop(segue: Segue, database: str) -> Segue:
    run_sql(database, "CREATE TABLE customers (id int PRIMARY KEY, n int)", "INSERT INTO customers VALUES (1)")
    segue("env", "add", "shop", "--type", "test", "--url-stdin", text=database).expect(0)
    (segue.folder / "plan.yaml").write_text(PLAN)
    return segue


def test_a_budget_that_cannot_be_read_is_refused_before_anything_happens(shop: Segue) -> None:
    refused = shop("run", "plan.yaml", "--env", "shop", "--latency-budget", "p95=10").expect(64)
    assert '"p95=10" does not say its unit; write for example p95=10ms' in refused.stderr
    assert shop("status").expect(2).stderr.startswith("error: there is no execution yet")


def test_limits_are_set_shown_and_taken_back(shop: Segue) -> None:
    shop("run", "plan.yaml", "--env", "shop", "--latency-budget", "p95=5s", "--latency-probe", "SELECT 1").expect(0)
    shown = shop("throttle", "--json").expect(0).json
    assert shown["limits"]["latency_budget"] == {"value": "p95=5000ms", "from": "execution"}
    assert {one["name"] for one in shown["throttle"]["readings"]} >= {"lock waits", "latency"}
    assert "pace       nobody works on it now" in shop("throttle").expect(0).stdout
    assert "nothing left to throttle" in shop("throttle", "--off").expect(3).stderr

    place = ("throttle", "--env", "shop")
    assert "replica-lag  1.0 MB  environment" in shop(*place, "--replica-lag", "1MB").expect(0).stdout
    assert shop(*place, "--limit", "lock-waiters=none", "--json").expect(0).json["limits"] == {
        "replica_lag": 1_000_000,
        "lock_waiters": "none",
    }
    assert shop(*place, "--reset", "--json").expect(0).json["limits"] == {}
    assert '"lock-waiters" is no limit' in shop(*place, "--limit", "lock-waiters").expect(64).stderr
