"""A maintenance window killed with -9: the application stays out until somebody goes on, then nothing is half-done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_shops import Shops
from fix_targets import rows, run_sql, value

from segue.databases.postgresql import schema_state

DRIVER = Path(__file__).with_name("driver.py")

TABLES = (
    "create table one (id int primary key, n int not null)",
    "create table two (id int)",
    "insert into one values (1, 0)",
)

PLAN = """
plan: window
version: 1.0.0
description: A change that counts how often it was made
strategy: maintenance-window
maintenance_window: 1
steps:
  - {name: count-up, kind: sql, sql: UPDATE one SET n = n + 1, reverse: UPDATE one SET n = n - 1}
  - {name: widen, kind: sql, sql: ALTER TABLE one ALTER n TYPE bigint, reverse: ALTER TABLE one ALTER n TYPE int}
"""

ARMED = "select to_regclass('segue.fence') is not null"
CLOSED = """
select exists (
    select from segue.fence as f, pg_trigger as t
    where f.state in ('closing', 'closed') and t.tgrelid = 'two'::regclass and t.tgname = 'segue_fence'
        and t.tgenabled = 'A'
)
"""
TRIGGERS = "select count(*) from pg_trigger where tgname = 'segue_fence'"


class Windows:
    """Targets with the plan's tables, and a driver that is killed where it is told."""

    def __init__(self, shops: Shops, make: Callable[[], str], environ: dict[str, str]) -> None:
        self.shops, self.make, self.urls = shops, make, dict[str, str]()
        plan = shops.settings.home / "plan.yaml"
        plan.write_text(PLAN)
        shops.add(PLAN)
        self.driver = subprocess.Popen(
            [sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )

    def target(self) -> str:
        url = self.make()
        name = f"shop-{len(self.urls)}"
        run_sql(url, *TABLES)
        self.urls[name] = url
        return self.shops.open(name, url)

    def ask(self, *arguments: str, kill: tuple[str, int] | None = None) -> dict[str, Any]:
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(json.dumps([arguments, *(kill or (None, 1))]) + "\n")
        self.driver.stdin.flush()
        return dict(json.loads(self.driver.stdout.readline()))

    def run(self, name: str, kill: tuple[str, int] | None = None) -> dict[str, Any]:
        return self.ask("run", "window", "--env", name, kill=kill)

    def execution(self, name: str) -> dict[str, Any]:
        return self.shops.on(name)

    def written(self, name: str) -> bool:
        """Write as the application does; return whether that was let through."""
        try:
            run_sql(self.urls[name], "insert into two values (1)", "delete from two")
        except psycopg.errors.SerializationFailure as error:
            if error.diag.constraint_name != "segue_fence":
                raise
            return False
        return True

    def closed(self, name: str) -> bool:
        """Return what the target says of the fence on the table that `written` writes to."""
        return bool(value(self.urls[name], ARMED) and value(self.urls[name], CLOSED))

    def state(self, name: str) -> tuple[Any, ...]:
        """Return what must be the same however often a run was killed."""
        with psycopg.connect(self.urls[name]) as connection:
            schema = schema_state.read(connection, "public")
        effects = rows(
            self.urls[name], "select step, direction, state, count(*) from segue.history group by 1, 2, 3 order by 1"
        )
        return schema, effects, value(self.urls[name], "select n from one"), value(self.urls[name], TRIGGERS)

    def close(self) -> None:
        assert self.driver.stdin is not None
        with self.driver:
            self.driver.stdin.close()


@pytest.fixture
def windows(shops: Shops, new_database: Callable[[], str], store_url: str) -> Iterator[Windows]:
    home = str(shops.settings.home)
    environ = {**os.environ, "SEGUE_HOME": home, "SEGUE_STORE": store_url, "SEGUE_USER": "tester"}
    found = Windows(shops, new_database, environ)
    yield found
    found.close()


def places(points: list[str]) -> list[tuple[str, int]]:
    """Return where to kill: at each kind of point of the fence, of several the last, and at others behind it."""
    inside = points[points.index("fence-closed") : points.index("fence-opened")]
    counted = Counter(point for point in points if point.startswith("fence-"))
    return [
        *counted.items(),
        *((name, 1) for name in dict.fromkeys(inside) if name.startswith(("effect-", "schema-"))),
    ]


@pytest.mark.timeout(300)
def test_killed_anywhere_the_window_is_finished_and_the_application_let_in(windows: Windows) -> None:
    unharmed = windows.target()
    answer = windows.run(unharmed)
    assert answer["status"] == 0, answer["output"]
    expected = windows.state(unharmed)
    assert (expected[2], expected[3]) == (1, 0)
    for place in places(answer["points"]):
        name = windows.target()
        assert windows.run(name, kill=place)["status"] == -9, place
        assert windows.written(name) is not windows.closed(name), place
        again = windows.run(name)
        assert again["status"] == 0, (place, again["output"])
        assert windows.state(name) == expected, place
        assert windows.written(name), place
        shown = windows.execution(name)
        assert (shown["status"], shown["fenced_at"], shown["fenced_until"]) == ("completed", None, None), place
    closed, opened = (len(windows.shops.ledger(f"fence-{word}")) for word in ("closed", "opened"))
    assert closed == opened == len(windows.urls)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rollback_killed_anywhere_lets_the_application_in_too(windows: Windows) -> None:
    unharmed = windows.target()
    assert windows.run(unharmed)["status"] == 0
    answer = windows.ask("rollback", windows.execution(unharmed)["execution"])
    assert answer["status"] == 0, answer["output"]
    expected = windows.state(unharmed)
    for place in places(answer["points"]):
        name = windows.target()
        assert windows.run(name)["status"] == 0
        identity = windows.execution(name)["execution"]
        assert windows.ask("rollback", identity, kill=place)["status"] == -9, place
        assert windows.written(name) is not windows.closed(name), place
        again = windows.ask("rollback", identity)
        assert again["status"] == 0, (place, again["output"])
        assert windows.state(name) == expected, place
        assert windows.written(name), place


def test_a_window_whose_time_is_over_when_somebody_comes_is_undone(windows: Windows) -> None:
    name = windows.target()
    assert windows.run(name, kill=("effect-committed", 1))["status"] == -9
    run_sql(windows.urls[name], "update segue.fence set until = clock_timestamp() - interval '1 minute'")
    assert not windows.written(name), "nobody is let in to what is half-done, whatever the time"
    again = windows.run(name)
    assert again["status"] == 4, again["output"]
    assert value(windows.urls[name], "select n from one") == 0
    assert windows.written(name)
    assert windows.execution(name)["status"] == "rolled-back"


def test_a_killed_window_can_be_rolled_back_at_once(windows: Windows) -> None:
    name = windows.target()
    assert windows.run(name, kill=("effect-committed", 2))["status"] == -9
    again = windows.ask("rollback", windows.execution(name)["execution"])
    assert again["status"] == 0, again["output"]
    assert value(windows.urls[name], "select n from one") == 0
    assert windows.written(name)
    assert value(windows.urls[name], TRIGGERS) == 0


def test_a_window_whose_process_died_is_every_workers_business(windows: Windows, store_url: str) -> None:
    name = windows.target()
    assert windows.run(name, kill=("effect-committed", 1))["status"] == -9
    identity = windows.execution(name)["execution"]
    assert not windows.execution(name)["handed_over"]
    assert windows.shops.due() == []
    run_sql(store_url, "update segue_store.migration_executions set heartbeat_at = heartbeat_at - interval '9 s'")
    assert windows.shops.due() == [identity]
    windows.shops.drive(identity)
    assert windows.execution(name)["status"] == "completed"
    assert windows.written(name)


def test_another_plan_does_not_begin_behind_a_fence_that_stands(windows: Windows) -> None:
    name = windows.target()
    assert windows.run(name, kill=("effect-committed", 1))["status"] == -9
    windows.shops.add(PLAN.replace("plan: window", "plan: other"))
    refused = windows.ask("run", "other", "--env", name)
    assert refused["status"] == 3, refused["output"]
    assert "fenced off" in refused["output"]
    assert windows.ask("env", "clean", name, "--yes")["status"] != 0
    assert windows.run(name)["status"] == 0
