"""Workers as processes: they take what was handed over, share it, stop gracefully, and come back by themselves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fix_process import Segue
from fix_targets import Background, rows, run_sql, terminate, until, value
from prometheus_client.parser import text_string_to_metric_families
from psycopg import conninfo

from segue import clock, wiring
from segue.errors import TargetUnreachable
from segue.model.probe import Probe
from segue.model.vocabulary import EnvironmentType, WorkQueue
from segue.services import environments, executions, limits, metrics, plans, watching, workers
from segue.services.environments import Wanted
from segue.settings import Settings
from segue.store import Store, open_store

TABLES = (
    "create table counter (n int not null)",
    "insert into counter values (0)",
    "create table account (id int primary key, n int not null default 0)",
    "insert into account select g, 0 from generate_series(1, 2000) g",
    "create table nap (seconds float not null)",
)

COUNT = """\
plan: NAME
version: 1.0.0
description: Counts up, once
steps:
  - name: count-up
    kind: sql
    transaction: true
    sql: |
      UPDATE counter SET n = n + 1;
      SELECT pg_sleep(SECONDS + coalesce((SELECT sum(seconds) FROM nap), 0));
    reverse: UPDATE counter SET n = n - 1
"""

FILL = """\
plan: NAME
version: 1.0.0
description: A long walk through a table
steps:
  - name: fill
    kind: backfill
    table: account
    set: {n: n + 1}
    batch: {size: 20, max: 20}
    pause: PAUSE
    workers: 4
    reverse:
      set: {n: n - 1}
"""


JOBS = "select count(*) from segue_queue.procrastinate_jobs"


def unseen(url: str) -> Probe:
    """Stand in for a look at the database, which takes a second to measure its traffic."""
    raise TargetUnreachable("not looked at")


class Yard:
    """A store with environments, work to hand over, and worker processes that take it."""

    def __init__(self, segue: Segue, store: Store, settings: Settings, new_database: Callable[[], str]) -> None:
        self.segue, self.store, self.settings, self.parts = segue, store, settings, wiring.parts()
        self._new_database = new_database
        self.urls: dict[str, str] = {}

    def environment(self, name: str = "shop", url: str | None = None, **columns: Any) -> str:
        self.urls[name] = url or self._new_database()
        if url is None:
            run_sql(self.urls[name], *TABLES)
        with self.store.session() as session:
            wanted = Wanted(name=name, type=EnvironmentType.TEST, **columns)
            environments.add(session, self.settings, wanted, self.urls[name], unseen)
        return name

    def plan(self, text: str, name: str = "plan", seconds: float = 0, pause: str = "30ms") -> str:
        text = text.replace("NAME", name).replace("SECONDS", str(seconds)).replace("PAUSE", pause)
        with self.store.session() as session:
            plans.add(session, self.settings, plans.check(text, "plan.yaml", self.parts))
        return name

    def hand_over(self, plan: str, environment: str = "shop", after: str | None = None, **options: Any) -> str:
        wanted = executions.Options(**options)
        handed = executions.hand_over(self.store, self.settings, self.parts, plan, environment, wanted, after=after)
        return handed.execution

    def worker(self, *options: str) -> subprocess.Popen[str]:
        return self.segue.start("worker", *options)

    @contextmanager
    def hands(self, number: int = 1) -> Iterator[None]:
        """Run workers in this process, where it is no matter that they are processes; they have stopped at the end."""
        found = [workers.Worker(self.store, self.settings, self.parts, workers.Wanted(f"w{n}")) for n in range(number)]
        running = [Background(worker.run) for worker in found]
        try:
            yield
        finally:
            for worker in found:
                worker.stop()
            codes = [thread.result(40) for thread in running]
        assert codes == [0] * number

    def describe(self, execution: str) -> dict[str, Any]:
        with self.store.session() as session:
            return watching.describe(session, watching.find(session, execution))

    def status(self, execution: str) -> str:
        with self.store.session() as session:
            return watching.find(session, execution).status

    def wait(self, *found: str, status: str = "completed") -> None:
        until(lambda: all(self.status(execution) == status for execution in found), 40)

    def workers(self) -> list[dict[str, Any]]:
        with self.store.session() as session:
            return workers.listed(session)

    def ledger(self, subject: str) -> list[str]:
        query = "select action from segue_store.ledger where subject = %s order by id"
        return [row[0] for row in rows(self.store.url, query, subject)]


@pytest.fixture
def yard(segue: Segue, store_url: str, new_database: Callable[[], str]) -> Iterator[Yard]:
    settings = Settings(home=segue.folder, store=store_url, key=None, user="tester")
    with open_store(settings) as store:
        yield Yard(segue, store, settings, new_database)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process, require its exit code, and return what it said."""
    _, said = process.communicate(timeout=40)
    assert process.returncode == code, said
    return said


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    return ended(process)


def test_worker_takes_what_was_handed_over_and_stops_when_told(yard: Yard) -> None:
    yard.environment()
    process = yard.worker("--name", "first")
    until(lambda: [item["state"] for item in yard.workers()] == ["running"])
    execution = yard.hand_over(yard.plan(COUNT))
    yard.wait(execution)
    assert "count-up: done" in stop(process)
    assert value(yard.urls["shop"], "select n from counter") == 1
    assert yard.workers() == []
    assert yard.ledger("workers") == ["running", "draining", "stopped"]


def test_worker_that_is_told_to_stop_leaves_the_rest_to_another(yard: Yard) -> None:
    yard.environment()
    execution = yard.hand_over(yard.plan(FILL))
    first = yard.worker()
    until(lambda: value(yard.urls["shop"], "select sum(n) > 200 from account"))
    (doing,) = [entry for item in yard.workers() for entry in item["doing"] if entry["queue"] == "executions"]
    assert (doing["execution"], doing["plan"], doing["environment"]) == (execution, "plan", "shop")
    stop(first)
    assert yard.status(execution) == "waiting"
    with yard.hands():
        yard.wait(execution)
    assert rows(yard.urls["shop"], "select n, count(*) from account group by n") == [(1, 2000)]


def test_second_signal_ends_a_worker_at_once_and_nothing_is_done_twice(yard: Yard) -> None:
    yard.environment()
    run_sql(yard.urls["shop"], "insert into nap values (600)")
    execution = yard.hand_over(yard.plan(COUNT))
    process = yard.worker()
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
    until(lambda: value(yard.urls["shop"], sleeping) == 1)
    process.send_signal(signal.SIGTERM)
    until(lambda: [item["state"] for item in yard.workers()] == ["draining"])
    process.send_signal(signal.SIGTERM)
    assert "stopped at once" in ended(process, 130)
    run_sql(yard.urls["shop"], "delete from nap")
    # As if the time had passed after which others take it for dead.
    for column in ("workers", "migration_executions"):
        run_sql(yard.store.url, f"update segue_store.{column} set heartbeat_at = now() - interval '1 minute'")
    with yard.hands():
        yard.wait(execution)
    assert value(yard.urls["shop"], "select n from counter") == 1


def test_executions_on_one_target_go_one_after_the_other_and_those_after_one_when_it_ends(yard: Yard) -> None:
    yard.environment()
    first = yard.hand_over(yard.plan(COUNT, "first", 0.3))
    after = yard.hand_over(yard.plan(COUNT, "after"), after=first)
    others = [yard.hand_over(yard.plan(COUNT, f"other-{number}", 0.1)) for number in range(3)]
    with yard.hands(2):
        yard.wait(first, after, *others)
    assert value(yard.urls["shop"], "select n from counter") == 5
    query = "select execution from segue.history order by id"
    done = [row[0] for row in rows(yard.urls["shop"], query)]
    assert done.index(first) < done.index(after)


def test_limit_holds_over_all_workers(yard: Yard) -> None:
    with yard.store.session() as session:
        limits.change(session, yard.settings, {WorkQueue.EXECUTIONS: 2})
    found = [
        yard.hand_over(yard.plan(COUNT, f"plan-{number}", 0.4), yard.environment(f"shop-{number}"))
        for number in range(5)
    ]
    most = 0
    with yard.hands(2):
        while not all(yard.status(execution) == "completed" for execution in found):
            most = max(most, sum(len(item["doing"]) for item in yard.workers()))
    assert most == 2


def test_limit_of_nothing_begins_nothing_until_it_is_lifted(yard: Yard) -> None:
    yard.environment()
    assert yard.segue("store", "limit", "--executions", "0", "--slots", "3", "--json").expect(0).json["limits"] == {
        "executions": 0,
        "slots": 3,
    }
    execution = yard.hand_over(yard.plan(COUNT))
    with yard.hands():
        until(lambda: yard.workers() and value(yard.store.url, JOBS) == 0)
        assert yard.status(execution) == "waiting"
        assert "no limit" in yard.segue("store", "limit", "--executions", "none").expect(0).stdout
        yard.wait(execution)
    assert yard.ledger("limits") == ["limit-set", "limit-set", "limit-removed"]
    yard.segue("store", "limit", "--slots", "-1").expect(64)
    yard.segue("store", "limit", "--slots", "many").expect(64)


def test_copy_slots_on_one_database_are_limited(yard: Yard) -> None:
    yard.environment("free")
    yard.environment("narrow", max_slots=1)
    seen: dict[str, set[int]] = {"free": set(), "narrow": set()}
    with yard.hands(2):
        found = [yard.hand_over(yard.plan(FILL, name), name) for name in seen]
        while not all(yard.status(execution) == "completed" for execution in found):
            slots = [entry for item in yard.workers() for entry in item["doing"] if entry["queue"] == "slots"]
            for name, counts in seen.items():
                counts.add(sum(entry["environment"] == name for entry in slots))
    assert max(seen["free"]) == 3  # the driver labours too
    assert max(seen["narrow"]) == 1
    for name in seen:
        assert rows(yard.urls[name], "select n, count(*) from account group by n") == [(1, 2000)]


def test_target_that_cannot_be_had_is_tried_again_or_fails_with_the_reason(yard: Yard) -> None:
    yard.environment("away", "postgresql://127.0.0.1:1/nowhere")
    locked = conninfo.make_conninfo(yard.environment("shop") and yard.urls["shop"], user="nobody_there")
    yard.environment("refused", locked)
    away, refused = (yard.hand_over(yard.plan(COUNT), name) for name in ("away", "refused"))
    with yard.hands():
        yard.wait(refused, status="failed")
        until(lambda: (yard.describe(away)["waiting_for"] or {}).get("kind") == "target")
    assert yard.describe(away)["due_at"] > clock.now()
    assert "nobody_there" in yard.describe(refused)["error"]["message"]


@pytest.mark.slow
def test_killed_worker_counts_for_no_limit_once_it_is_silent(yard: Yard) -> None:
    with yard.store.session() as session:
        limits.change(session, yard.settings, {WorkQueue.EXECUTIONS: 1})
    yard.environment("killed")
    yard.environment("free")
    lost = yard.hand_over(yard.plan(FILL, "lost"), "killed")
    first = yard.worker()
    until(lambda: value(yard.urls["killed"], "select sum(n) > 0 from account"))
    first.kill()
    first.wait()
    free = yard.hand_over(yard.plan(COUNT, "free"), "free")
    second = yard.worker()
    yard.wait(lost, free)
    stop(second)
    assert rows(yard.urls["killed"], "select n, count(*) from account group by n") == [(1, 2000)]


def threads(process: subprocess.Popen[str]) -> int:
    found = re.search(r"^Threads:\s+(\d+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def connections(url: str) -> int:
    query = "select count(*) from pg_stat_activity where application_name in ('segue store', 'segue queue')"
    return int(value(url, query + " and datname = current_database()"))


CLONES = """
    with one as (select * from segue_store.migration_executions where id = %s),
    places as (
        insert into segue_store.environments
               (id, name, type, database_url, schema_name, data_size, traffic_level, deployment_type)
        select 'place-' || lpad(n::text, 2, '0'), 'place-' || n, type, database_url, schema_name, data_size,
               traffic_level, deployment_type
          from segue_store.environments, generate_series(1, 99) n
        returning id
    )
    insert into segue_store.migration_executions
           (id, plan_id, environment_id, execution_number, status, steps_total, executed_by, execution_mode, plan_hash,
            handed_over, options, assessment, due_at)
    select 'clone-' || places.id, plan_id, places.id, 1, status, steps_total, executed_by, execution_mode, plan_hash,
           handed_over, options, assessment, now()
      from one, places returning id
"""


def test_a_hundred_waiting_executions_cost_no_thread_and_no_connection(yard: Yard) -> None:
    yard.environment()
    yard.plan(COUNT)
    process = yard.worker("--concurrency", "2")
    one = yard.hand_over("plan", at=clock.now() + timedelta(hours=1))
    waiting = "select count(*) from segue_store.migration_executions where waiting_for ->> 'kind' = 'time'"
    until(lambda: value(yard.store.url, waiting) == 1)
    before = threads(process), connections(yard.store.url)
    assert len(rows(yard.store.url, CLONES, one)) == 99
    until(lambda: value(yard.store.url, waiting) == 100, 40)
    until(lambda: yard.workers()[0]["doing"] == [])
    assert threads(process) <= before[0] + 3  # of the pool's four, one had begun
    assert connections(yard.store.url) <= before[1] + 3
    until(lambda: value(yard.store.url, JOBS) == 0)
    stop(process)


def test_worker_whose_sessions_are_ended_goes_on(yard: Yard) -> None:
    yard.environment()
    process = yard.worker("--log-format", "json")
    until(yard.workers)
    for _ in range(3):
        terminate(yard.store.url, "segue %")
        yard.store._engine.dispose()
        clock.sleep(0.3)
    yard.wait(yard.hand_over(yard.plan(COUNT)))
    lines = [json.loads(line) for line in stop(process).splitlines()]
    assert {"segue", "at", "level", "action", "message", "worker"} <= set.intersection(*map(set, lines))
    (done,) = [line for line in lines if line["action"] == "step-completed"]
    assert (done["plan"], done["environment"], done["step"]) == ("plan", "shop", "count-up")


def test_worker_that_was_taken_for_dead_registers_anew(yard: Yard) -> None:
    with yard.hands():
        (first,) = until(yard.workers)
        run_sql(yard.store.url, "update segue_store.workers set status = 'stopped'")
        until(lambda: [item["name"] for item in yard.workers()] == ["w0"])
        assert yard.workers()[0]["id"] != first["id"]


def test_dead_worker_is_shown_as_such_and_marked_as_stopped_by_another(yard: Yard) -> None:
    values = (
        "(id, name, host, pid, version, heartbeat_at) values ('x', 'gone', 'far', 7, '0.1', now() - interval '1 h')"
    )
    run_sql(yard.store.url, f"insert into segue_store.workers {values}")
    shown = yard.segue("worker", "--list").expect(0).stdout
    assert re.search(r"gone +far +7 .* dead for 36\d\d s", shown)
    ended(yard.worker("--once"))
    assert yard.workers() == []
    assert yard.ledger("workers").count("stopped") == 2


def test_worker_refuses_a_queue_that_workers_of_another_version_use(yard: Yard) -> None:
    with yard.hands():
        until(lambda: yard.workers() and value(yard.store.url, "select to_regnamespace('segue_queue') is not null"))
        run_sql(yard.store.url, "comment on schema segue_queue is 'Segue''s nudges for workers (another version)'")
        assert "another version of Procrastinate" in ended(yard.worker(), 78)
    ended(yard.worker("--once"))


def scrape(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def test_metrics_say_what_runs_and_what_waits(yard: Yard) -> None:
    yard.environment()
    execution = yard.hand_over(yard.plan(FILL, pause="400ms"))
    with ExitStack() as opened:
        process = yard.worker("--metrics-port", "0", "--name", "first")
        opened.callback(process.kill)
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", process.stderr.readline())
        assert found is not None
        port = int(found[1])
        until(lambda: re.search(r"^segue_execution_rows_total\{.*\} [1-9]", scrape(port), re.MULTILINE))
        assert scrape(port, "/healthz") == "ok\n"
        with pytest.raises(urllib.error.HTTPError):
            scrape(port, "/elsewhere")
        text = scrape(port)
        families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = {name: family.samples for name, family in families.items()}
        about = {"execution": execution, "plan": "plan", "environment": "shop"}
        assert [sample.labels for sample in samples["segue_execution_rows"]] == [{**about, "step": "fill"}]
        running = {sample.labels["status"]: sample.value for sample in samples["segue_executions"]}
        assert running["running"] == 1
        jobs = {(s.labels["worker"], s.labels["queue"]): s.value for s in samples["segue_worker_jobs_running"]}
        assert jobs["first", "executions"] == 1
        assert samples["segue_worker_heartbeat_age_seconds"][0].value < 8
        assert all(name.startswith("segue_") and family.documentation for name, family in families.items())
        assert [family for family in families.values() if family.type == "unknown"] == []
        yard.segue("worker", "--metrics-port", str(port)).expect(78)
        stop(process)


def test_work_that_needs_no_worker_does_not_pay_for_the_queue(yard: Yard) -> None:
    code = (
        "import sys, segue.cli.status, segue.cli.run, segue.services.executions, segue.services.workers; "
        "print([name for name in ('procrastinate', 'prometheus_client') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_every_metric_is_documented_and_none_that_is_not_there(yard: Yard) -> None:
    worker = workers.Worker(yard.store, yard.settings, yard.parts, workers.Wanted())
    suffix = {"counter": "_total", "info": "_info"}
    found = metrics.StoreCollector(yard.store, worker).collect()
    page = Path(__file__).parents[2].joinpath("docs", "workers.md").read_text()
    documented = re.findall(r"^\| `(segue_\w+)`", page, re.MULTILINE)
    assert sorted(documented) == sorted(family.name + suffix.get(family.type, "") for family in found)
