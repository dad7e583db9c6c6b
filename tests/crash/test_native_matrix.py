"""A change by the server's own forms killed with -9 at each point: it goes on to its end, or is taken back whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fix_crash import Crasher, came_up, places
from fix_shops import Shops
from fix_targets import rows, run_sql

PLAN = """
plan: stricter
version: 1.0.0
description: Other rules for orders, and looser ones
steps:
  - name: stricter
    kind: online-change
    table: orders
    strategy: native-online
    alter:
      - ADD CONSTRAINT one_code UNIQUE (code), ALTER n SET NOT NULL
      - DROP CONSTRAINT positive, ALTER note DROP NOT NULL
"""
TABLES = (
    "create table orders (id int primary key, code text, n int constraint positive check (n > 0), note text not null)",
    "insert into orders select g, 'c' || g, g, 'n' from generate_series(1, 50) g",
)
SHAPE = (
    "select attname, format_type(atttypid, atttypmod), attnotnull from pg_attribute "
    "where attrelid = 'orders'::regclass and attnum > 0 order by attnum",
    "select conname, pg_get_constraintdef(oid), convalidated from pg_constraint "
    "where conrelid = 'orders'::regclass and contype <> 'n' order by conname",
    "select indexrelid::regclass::text, indisvalid from pg_index where indrelid = 'orders'::regclass order by 1",
)


def shape(url: str) -> list[tuple[Any, ...]]:
    return [row for query in SHAPE for row in rows(url, query)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "every"])
def test_a_change_in_place_killed_at_each_point_goes_on_or_is_taken_back(
    shops: Shops, new_database: Callable[[], str], new_crasher: Callable[..., Crasher], store_url: str, every: bool
) -> None:
    crasher = new_crasher(SEGUE_HOME=str(shops.settings.home), SEGUE_STORE=store_url, SEGUE_USER="tester")
    plan = shops.settings.home / "plan.yaml"
    plan.write_text(PLAN)

    def target(name: str) -> str:
        url = new_database()
        run_sql(url, *TABLES)
        shops.open(name, url)
        return url

    def back(name: str, **kill: Any) -> dict[str, Any]:
        return crasher("rollback", crasher.execution(name)["execution"], "--yes", **kill)

    whole = target("whole")
    before = shape(whole)
    run = crasher("run", plan, "--env", "whole")
    assert run["status"] == 0, run["output"]
    after = shape(whole)
    undone = back("whole")
    assert (undone["status"], shape(whole)) == (0, before), undone["output"]
    # Before and after each statement, and around what cannot be in a transaction.
    forth = places(run["points"], lambda point: point.startswith("effect-") and "before" not in point)
    again = places(undone["points"], lambda point: point == "effect-committed")
    for number, place in enumerate(forth if every else forth[::2]):
        name = f"shop-{number}"
        url = target(name)
        came_up(crasher("run", plan, "--env", name, kill=place), place)
        if number % 3 == 0:
            done = crasher("run", plan, "--env", name)
            assert (done["status"], shape(url)) == (0, after), (place, done["output"])
            came_up(back(name, kill=again[number % len(again)]), again[number % len(again)])
        done = back(name)
        assert (done["status"], shape(url)) == (0, before), (place, done["output"])
