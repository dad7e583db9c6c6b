"""A server that crashes empties its unlogged tables: no such emptiness is swapped in, nor brought back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from fix_servers import short_folder
from fix_shops import Shops
from fix_targets import rows, run_sql

from segue.databases.postgresql.online import verify
from segue.embedded import Cluster
from segue.errors import SegueError, WouldLose

PLAN = """
plan: reshape
version: 1.0.0
description: Have a table logged otherwise
steps:
  - name: reshape
    kind: online-change
    strategy: shadow-table
    table: t
    alter: [{0}, ALTER v TYPE bigint]
"""


@pytest.fixture
def crashing() -> Iterator[Cluster]:
    """Give a server of its own, which may crash."""
    folder = short_folder()
    cluster = Cluster(folder / "pg")
    try:
        with cluster.use():
            yield cluster
    finally:
        cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


def crash(cluster: Cluster) -> None:
    cluster.stop("immediate")
    cluster.start()


def make(cluster: Cluster, shops: Shops, unlogged: str) -> str:
    url = cluster.url("postgres")
    run_sql(url, f"create {unlogged} table t (id int primary key, v int)")
    run_sql(url, "insert into t select g, g from generate_series(1, 100) as g", "checkpoint")
    shops.open("shop", url)
    return url


@pytest.mark.parametrize(("unlogged", "alter", "left"), [("", "SET UNLOGGED", 100), ("unlogged", "SET LOGGED", 0)])
def test_crash_before_the_swap_has_an_unlogged_side_copied_anew(
    crashing: Cluster, shops: Shops, monkeypatch: pytest.MonkeyPatch, unlogged: str, alter: str, left: int
) -> None:
    url = make(crashing, shops, unlogged)
    run = verify.Verifier.run

    def once(self: verify.Verifier, **more: Any) -> Any:
        monkeypatch.setattr(verify.Verifier, "run", run)
        done = run(self, **more)
        run_sql(url, "checkpoint")
        crash(crashing)
        return done

    monkeypatch.setattr(verify.Verifier, "run", once)
    plan = shops.add(PLAN.format(alter))
    with suppress(SegueError):
        shops.run(plan)
    shops.run(plan)
    said = " ".join(shops.noted())
    assert "emptied unlogged tables when it started after a crash" in said
    assert "TRUNCATE" not in said
    assert rows(url, "select count(*), min(pg_typeof(v)::text) from t where v = id or v is null") == [
        (left, "bigint" if left else None)
    ]
    assert rows(
        url, "select atttypid::regtype::text from pg_attribute where attrelid = 't'::regclass and attname = 'v'"
    ) == [("bigint",)]


def test_old_table_that_a_crash_has_emptied_is_not_brought_back(crashing: Cluster, shops: Shops) -> None:
    url = make(crashing, shops, "unlogged")
    shops.run(shops.add(PLAN.format("SET LOGGED")))
    run_sql(url, "insert into t values (101, 101)", "checkpoint")
    crash(crashing)
    with pytest.raises(WouldLose, match="emptied the unlogged old table"):
        shops.rollback()
    assert rows(url, "select count(*) from t") == [(101,)]
