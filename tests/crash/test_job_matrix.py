"""A data job killed with -9 at each point writes every row once, and keeps every row that it cannot write once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fix_crash import EVERY, Crasher, came_up, kept, places
from fix_shops import Shops
from fix_targets import rows, run_sql
from fix_transfers import fill_old

PLAN = """
plan: move
version: 1.0.0
description: Rows of one table to another one, some of which cannot be written
steps:
  - name: move
    kind: data-job
    source: old
    target: new
    set: {cents: "(amount::numeric * 100)::bigint"}
    checks: {known: id <> 77}
    continue_on_error: true
    batch: {size: 400, max: 600}
    workers: 2
"""
SET = 'set: {cents: "(amount::numeric * 100)::bigint"}'
TRANSFORM = "transform: {python: lift.py:lift, gives: [cents]}"
LIFT = """
from decimal import Decimal

def lift(rows):
    return [{"cents": round(Decimal(row["amount"]) * 100)} for row in rows]
"""
STORED = """
select j.status, j.processed_rows, j.successful_rows, j.failed_rows, j.skipped_rows,
    (select count(*) from segue_store.data_migration_errors e where e.job_id = j.id),
    (select sum(b.successful_rows) from segue_store.data_migration_batches b where b.job_id = j.id),
    (select sum(b.failed_rows) from segue_store.data_migration_batches b where b.job_id = j.id)
from segue_store.data_migration_jobs j join segue_store.environments e on true
join segue_store.migration_executions x on x.id = j.execution_id and x.environment_id = e.id
where e.name = %s and j.job_name not like '%%/rollback'
"""


def state(url: str) -> list[tuple[Any, ...]]:
    """Return what must be the same however often a job was killed."""
    written = "select count(*), count(distinct id), md5(string_agg(n::text, ',' order by id)) from new n"
    words = "string_agg(key::text || error_type || (source is null), ',' order by key)"
    bad = f"select count(*), md5({words}) from segue.rejected"
    return rows(url, written) + rows(url, bad)


@EVERY
@pytest.mark.timeout(600)
def test_job_killed_at_each_point_ends_in_the_same_state(
    shops: Shops, new_database: Callable[[], str], new_crasher: Callable[..., Crasher], store_url: str, every: bool
) -> None:
    crasher = new_crasher(SEGUE_HOME=str(shops.settings.home), SEGUE_STORE=store_url, SEGUE_USER="tester")
    plan = shops.settings.home / "plan.yaml"
    plan.write_text(PLAN)

    def target(name: str) -> str:
        url = new_database()
        fill_old(url, 3000, 250)
        shops.open(name, url)
        return url

    whole = target("whole")
    run = crasher("run", plan, "--env", "whole")
    assert run["status"] == 0, run["output"]
    expected, recorded = state(whole), rows(store_url, STORED, "whole")
    assert recorded == [("completed", 3000, 2987, 13, 0, 13, 2987, 13)]
    # In turn the source is in another database, and a function gives the columns.
    brought = plan.with_name("bring.yaml")
    brought.write_text(
        PLAN.replace("plan: move", "plan: bring").replace("source: old", "source: old\n    source_env: past")
    )
    target("past")
    called = plan.with_name("call.yaml")
    called.write_text(PLAN.replace("plan: move", "plan: call").replace(SET, TRANSFORM))
    plan.with_name("lift.py").write_text(LIFT)
    files = (brought, plan, called)
    ours = ("chunk-", "batch-", "job-", "mark-", "work-")
    wanted = places(run["points"], lambda point: point.startswith(ours), every=every)
    for number, place in enumerate(wanted if every else wanted[::2]):
        url = target(name := f"shop-{number}")
        file = files[number % len(files)]
        if file is brought:
            run_sql(url, "DROP TABLE old")
        if not came_up(crasher("run", file, "--env", name, kill=place), place):
            continue
        again = crasher("run", file, "--env", name)
        assert (again["status"], state(url)) == (0, expected), (place, again["output"])
        assert rows(store_url, STORED, name) == recorded, place


@EVERY
@pytest.mark.timeout(600)
def test_job_whose_rollback_is_killed_leaves_nothing(
    shops: Shops, database: str, new_crasher: Callable[..., Crasher], store_url: str, every: bool
) -> None:
    crasher = new_crasher(SEGUE_HOME=str(shops.settings.home), SEGUE_STORE=store_url, SEGUE_USER="tester")
    plan = shops.settings.home / "plan.yaml"
    plan.write_text(PLAN)
    fill_old(database, 3000, 250)
    shops.open("shop", database)
    assert crasher("run", plan, "--env", "shop")["status"] == 0
    with kept(database, store_url) as as_it_was:
        done = crasher("rollback", "--yes")
        assert done["status"] == 0, done["output"]
        wanted = places(done["points"], lambda point: point.startswith(("chunk-", "job-", "work-")), every=every)
        for place in wanted if every else wanted[::2]:
            as_it_was()
            if not came_up(crasher("rollback", "--yes", kill=place), place):
                continue
            again = crasher("rollback", "--yes")
            assert (again["status"], rows(database, "select count(*) from new")) == (0, [(0,)]), (
                place,
                again["output"],
            )
