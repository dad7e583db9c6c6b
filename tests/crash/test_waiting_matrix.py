"""Steps side by side, one of which waits for a person: killed with -9 at each point, before and after the approval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fix_crash import EVERY, Crasher, Place, kept, places
from fix_shops import Shops
from fix_targets import rows, run_sql

PLAN = """
plan: waits
version: 1.0.0
description: Two backfills and two waits that do not need each other, and a step that needs them all
steps:
  - {name: one, kind: backfill, table: one, set: {n: n + 1}, batch: {size: 300, max: 300}}
  - {name: two, kind: backfill, table: two, set: {n: n + 1}, batch: {size: 300, max: 300}}
  - {name: moment, kind: wait, for: 10ms}
  - {name: word, kind: approval, message: Look at both}
  - name: last
    kind: sql
    needs: [one, two, moment, word]
    approval: true
    sql: INSERT INTO three VALUES (1)
    reverse: DELETE FROM three
"""


class Waits:
    """Targets with two tables, a plan that waits for approvals, and a process that can be killed."""

    def __init__(self, shops: Shops, make: Callable[[], str], crasher: Crasher) -> None:
        self.shops, self.make, self.segue, self.urls = shops, make, crasher, dict[str, str]()
        self.plan = Path(shops.settings.home) / "plan.yaml"
        self.plan.write_text(PLAN)

    def target(self) -> str:
        url, name = self.make(), f"shop-{len(self.urls)}"
        for table in ("one", "two"):
            run_sql(
                url,
                f"create table {table} (id int primary key, n int not null default 0)",
                f"insert into {table} select g, 0 from generate_series(1, 600) g",
            )
        run_sql(url, "create table three (n int)")
        self.urls[name] = url
        return self.shops.open(name, url)

    def run(self, name: str, kill: Place | None = None) -> dict[str, Any]:
        return self.segue("run", self.plan, "--env", name, kill=kill)

    def approve(self, name: str) -> None:
        for step in ("word", "last"):
            words = ("approve", "waits", "--env", name, "--step", step, "--reason", "seen", "--yes")
            assert self.segue(*words)["status"] == 0

    def execution(self, name: str) -> dict[str, Any]:
        return self.shops.on(name)

    def state(self, name: str) -> tuple[Any, ...]:
        """Return what must be the same however often a run was killed."""
        effects = "select step, direction, part, state, count(*) from segue.history group by 1, 2, 3, 4 order by 1, 3"
        counted = "select min(n), max(n), (select count(*) from three) from (table one union all table two) as t"
        return rows(self.urls[name], counted), rows(self.urls[name], effects)


@pytest.fixture
def waits(shops: Shops, new_database: Callable[[], str], new_crasher: Callable[..., Crasher], store_url: str) -> Waits:
    home = str(shops.settings.home)
    return Waits(shops, new_database, new_crasher(SEGUE_HOME=home, SEGUE_STORE=store_url, SEGUE_USER="tester"))


@EVERY
@pytest.mark.timeout(400)
def test_steps_side_by_side_killed_at_each_point_wait_for_the_same_approval(waits: Waits, every: bool) -> None:
    unharmed = waits.target()
    answer = waits.run(unharmed)
    assert answer["status"] == 3, answer["output"]
    expected = waits.state(unharmed)
    assert expected[0] == [(1, 1, 0)]
    for place in places(answer["points"], every=every):
        name = waits.target()
        # Which thread passes a point how often depends on the others: a place may not come up this time.
        killed = waits.run(name, kill=place)
        assert killed["status"] in (-9, 3), (place, killed["output"])
        again = waits.run(name)
        assert again["status"] == 3, (place, again["output"])
        assert "segue approve waits" in again["output"], place
        assert waits.state(name) == expected, place
        assert waits.execution(name)["status"] == "waiting", place


@EVERY
@pytest.mark.timeout(400)
def test_approved_run_killed_at_each_point_ends_in_the_same_state(waits: Waits, every: bool) -> None:
    name = waits.target()
    assert waits.run(name)["status"] == 3
    waits.approve(name)
    with kept(waits.urls[name], waits.shops.settings.store or "") as as_it_was:
        answer = waits.run(name)
        assert answer["status"] == 0, answer["output"]
        expected = waits.state(name)
        assert expected[0] == [(1, 1, 1)]
        for place in places(answer["points"], every=every):
            as_it_was()
            killed = waits.run(name, kill=place)
            assert killed["status"] == -9, (place, killed["output"])
            again = waits.run(name)
            assert again["status"] == 0, (place, again["output"])
            assert waits.state(name) == expected, place
            assert waits.execution(name)["steps_completed"] == 5, place
