"""Steps that do not need each other run side by side; executions wait, are handed over, and are driven when due."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from fix_hostile import administrator
from fix_process import Segue
from fix_targets import Background, run_sql, terminate, until, value
from psycopg import conninfo

from segue import clock, wiring
from segue.engine import executor
from segue.engine.control import MustWait
from segue.errors import Busy, StepFailed, TargetUnreachable
from segue.model.vocabulary import EnvironmentType
from segue.services import environments, executions, plans, watching
from segue.services.environments import Wanted
from segue.settings import Settings
from segue.store import Store, open_store

TWO = """
create table one (id int primary key, n int not null default 0);
create table two (id int primary key, n int not null default 0);
insert into one select g, 0 from generate_series(1, 3000) g;
insert into two select g, 0 from generate_series(1, 3000) g;
"""

PLAN = """\
plan: both
version: 1.0.0
description: Two backfills that do not need each other
steps:
  - name: one
    kind: backfill
    table: one
    set: {n: n + 1}
    batch: {size: 100, max: 100}
    pause: 20ms
  - name: two
    kind: backfill
    table: two
    set: {n: n + 1}
    batch: {size: 100, max: 100}
    pause: 20ms
  - name: count
    kind: validate
    needs: [one, two]
    query: SELECT (SELECT sum(n) FROM one) + (SELECT sum(n) FROM two)
    scalar: 6000
"""


class Desk:
    """A store, an environment "shop", and the services on them, in this process."""

    def __init__(self, store: Store, settings: Settings, url: str) -> None:
        self.store, self.settings, self.url, self.parts = store, settings, url, wiring.parts()
        with store.session() as session:
            wanted = Wanted(name="shop", type=EnvironmentType.TEST)
            environments.add(session, settings, wanted, url, self.parts.database(url).probe)

    def add(self, text: str) -> str:
        checked = plans.check(text, "plan.yaml", self.parts)
        with self.store.session() as session:
            plans.add(session, self.settings, checked)
        return checked.plan.plan

    def run(self, name: str, **options: Any) -> executions.Outcome:
        wanted = executions.Options(**options)
        return executions.run(self.store, self.settings, self.parts, name, "shop", wanted)

    def hand_over(self, name: str) -> str:
        return executions.hand_over(self.store, self.settings, self.parts, name, "shop").execution

    def drive(self, execution: str, drain: threading.Event | None = None) -> executions.Outcome:
        return executions.drive(self.store, self.settings, self.parts, execution, drain=drain)

    def due(self) -> list[str]:
        with self.store.session() as session:
            return executions.due(session)

    def status(self, execution: str | None = None) -> dict[str, Any]:
        with self.store.session() as session:
            return watching.describe(session, watching.find(session, execution))

    def step(self, name: str) -> dict[str, Any]:
        return next(step for step in self.status()["steps"] if step["name"] == name)


@pytest.fixture
def desk(segue: Segue, store_url: str, debian_database: str) -> Iterator[Desk]:
    settings = Settings(home=segue.folder, store=store_url, key=None, user="tester")
    run_sql(debian_database, *[line for line in TWO.strip().split(";\n") if line])
    with open_store(settings) as store:
        yield Desk(store, settings, debian_database)


def begun(desk: Desk, *tables: str) -> bool:
    return all(value(desk.url, f"select sum(n) > 0 from {table}") for table in tables)


def test_backfills_that_do_not_need_each_other_run_side_by_side(desk: Desk) -> None:
    desk.run(desk.add(PLAN))
    one, two, count = desk.step("one"), desk.step("two"), desk.step("count")
    assert max(one["started_at"], two["started_at"]) < min(one["completed_at"], two["completed_at"])
    assert count["started_at"] >= max(one["completed_at"], two["completed_at"])


def test_sql_steps_run_alone_and_in_the_plans_order(desk: Desk) -> None:
    words = "  - {name: NAME, kind: sql, sql: INSERT INTO log VALUES ('NAME'), reverse: SELECT 1}\n"
    run_sql(desk.url, "create table log (name text, at timestamptz default clock_timestamp())")
    text = PLAN.replace("  - name: one\n", words.replace("NAME", "before") + "  - name: one\n")
    desk.run(desk.add(text + words.replace("NAME", "after")))
    assert value(desk.url, "select string_agg(name, ',' order by at) from log") == "before,after"
    assert desk.step("after")["started_at"] >= max(desk.step(name)["completed_at"] for name in ("one", "two"))


def test_connection_lost_under_steps_side_by_side_costs_nothing(desk: Desk) -> None:
    running = Background(lambda: desk.run(desk.add(PLAN)))
    until(lambda: begun(desk, "one", "two"))
    terminate(desk.url)
    running.result()
    assert value(desk.url, "select min(n) = 1 and max(n) = 1 from (table one union all table two) as t")
    assert desk.status()["status"] == "completed"


def test_failure_stops_the_steps_beside_it_at_a_safe_point(desk: Desk) -> None:
    run_sql(desk.url, "alter table one add check (id < 2000 or n = 0)")
    with pytest.raises(StepFailed, match="violates check constraint"):
        desk.run(desk.add(PLAN))
    assert desk.status()["status"] == "failed"
    assert desk.step("two")["status"] == "running"
    run_sql(desk.url, "alter table one drop constraint one_check")
    desk.run("both", accept_drift=True)
    assert value(desk.url, "select min(n) = 1 and max(n) = 1 from (table one union all table two) as t")


def test_pause_reaches_all_steps_side_by_side(desk: Desk) -> None:
    running = Background(lambda: desk.run(desk.add(PLAN)))
    until(lambda: begun(desk, "one", "two"))
    executions.pause(desk.store, None, actor="tester")
    with pytest.raises(executions.Blocked, match="paused on request"):
        running.result()
    before = value(desk.url, "select sum(n) from (table one union all table two) as t")
    assert before < 6000
    desk.run("both")
    assert value(desk.url, "select min(n) = 1 and max(n) = 1 from (table one union all table two) as t")


def test_handed_over_execution_is_due_and_driven_once(desk: Desk) -> None:
    execution = desk.hand_over(desk.add(PLAN))
    assert desk.due() == [execution]
    running = Background(lambda: desk.drive(execution))
    until(lambda: begun(desk, "one"))
    assert desk.due() == []
    with pytest.raises(Busy, match="drives it"):
        desk.drive(execution)
    running.result()
    assert desk.status(execution)["status"] == "completed"
    assert desk.drive(execution).nothing_to_do


def test_drained_execution_goes_on_where_it_stopped(desk: Desk) -> None:
    execution = desk.hand_over(desk.add(PLAN))
    drain = threading.Event()
    running = Background(lambda: desk.drive(execution, drain))
    until(lambda: begun(desk, "one", "two"))
    drain.set()
    with pytest.raises(MustWait, match="its worker was stopped"):
        running.result()
    assert desk.status(execution)["waiting_for"]["kind"] == "worker"
    assert desk.due() == [execution]
    desk.drive(execution)
    assert value(desk.url, "select min(n) = 1 and max(n) = 1 from (table one union all table two) as t")


def test_execution_of_a_person_is_not_driven_by_a_worker_that_was_told_of_it(desk: Desk) -> None:
    with pytest.raises(MustWait):
        desk.run(desk.add(PLAN), at=clock.now() + timedelta(hours=1))
    mine = desk.status()["execution"]
    run_sql(desk.store.url, "UPDATE segue_store.migration_executions SET options = '{}', due_at = now()")
    assert desk.drive(mine).nothing_to_do
    assert value(desk.url, "SELECT sum(n) FROM one") == 0


def test_execution_of_a_silent_process_is_due(desk: Desk) -> None:
    execution = desk.hand_over(desk.add(PLAN))
    drain = threading.Event()
    drain.set()
    with pytest.raises(MustWait):
        desk.drive(execution, drain)
    run_sql(
        desk.store.url,
        "UPDATE segue_store.migration_executions SET status = 'running', lease_owner = 'ann@elsewhere pid 1',"
        " heartbeat_at = clock_timestamp() - interval '7 s'",
    )
    assert desk.due() == []
    run_sql(desk.store.url, "UPDATE segue_store.migration_executions SET heartbeat_at = heartbeat_at - interval '2 s'")
    assert desk.due() == [execution]
    desk.drive(execution)
    assert desk.status(execution)["status"] == "completed"


def test_run_that_begins_later_waits_until_then(desk: Desk) -> None:
    name = desk.add(PLAN)
    at = clock.now() + timedelta(hours=1)
    with pytest.raises(MustWait, match="begins"):
        desk.run(name, at=at)
    found = desk.status()
    assert (found["status"], found["due_at"], found["waiting_for"]["kind"]) == ("waiting", at, "time")
    with pytest.raises(MustWait, match="begins"):
        desk.run(name)


def test_target_that_stays_away_is_waited_for_by_workers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = desk.hand_over(desk.add(PLAN))
    name = conninfo.conninfo_to_dict(desk.url)["dbname"]
    elsewhere = conninfo.make_conninfo(administrator(desk.url), dbname="postgres")
    running = Background(lambda: desk.drive(execution))
    until(lambda: begun(desk, "one"))
    monkeypatch.setattr(executor, "RECOVERY_SECONDS", 1.0)
    run_sql(elsewhere, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    with psycopg.connect(elsewhere, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        with pytest.raises(TargetUnreachable):
            running.result()
    assert desk.status(execution)["waiting_for"]["kind"] == "target"
    run_sql(elsewhere, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    desk.drive(execution)
    assert desk.status(execution)["status"] == "completed"
