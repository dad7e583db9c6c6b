"""Workers that are killed, stopped and cut off, under servers that restart: everything ends, each effect once."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_process import clean_environ
from fix_proxy import Proxy
from fix_servers import HASTY, short_folder
from fix_targets import rows, run_sql, until, value
from psycopg import conninfo

from segue import settings as loader
from segue import wiring
from segue.embedded import Cluster
from segue.errors import ExitCode, TargetUnreachable
from segue.model.probe import Probe
from segue.model.vocabulary import EnvironmentType
from segue.services import environments, executions, plans
from segue.store import open_store

TABLES = (
    "create table counter (n int not null)",
    "insert into counter values (0)",
    "create table kind (name text primary key)",
    "insert into kind values ('a'), ('b')",
    "create table account (id int primary key, kind text not null, n int not null default 0, label text)",
    "create table moved (plan text, id int, label text not null, primary key (plan, id))",
    "create table written (id int primary key, times bigint not null default 0)",
    "insert into written select g, 0 from generate_series(1, 3) g",
)

PLAN = """\
plan: NAME
version: 1.0.0
description: Effects that must not happen twice, and statements that outlive their process
steps:
  - name: count-up
    kind: sql
    sql: UPDATE counter SET n = n + 1
    reverse: UPDATE counter SET n = n - 1
  - name: fill
    kind: backfill
    needs: [count-up]
    table: account
    set: {n: n + 1, label: "'label ' || id"}
    batch: {size: 50, max: 50}
    pause: PAUSE
    workers: 4
    reverse:
      set: {n: n - 1}
  - name: move
    kind: data-job
    needs: [count-up]
    source: account
    target: moved
    set: {plan: "'NAME'", id: id, label: kind}
    checks: {fits: id % 500 <> 13}
    continue_on_error: true
    batch: {size: 50, max: 50}
    pause: PAUSE
    workers: 4
  - name: index
    kind: sql
    needs: [fill]
    sql: CREATE INDEX CONCURRENTLY account_label_NAME ON account (label, kind, n)
    reverse: DROP INDEX CONCURRENTLY account_label_NAME
  - name: promise
    kind: sql
    needs: [fill]
    sql: ALTER TABLE account ADD CONSTRAINT account_kind_NAME FOREIGN KEY (kind) REFERENCES kind NOT VALID
    reverse: ALTER TABLE account DROP CONSTRAINT account_kind_NAME
  - name: keep
    kind: sql
    needs: [promise, index, move]
    sql: ALTER TABLE account VALIDATE CONSTRAINT account_kind_NAME
    reverse: SELECT 1
  - name: count-again
    kind: sql
    needs: [keep]
    sql: UPDATE counter SET n = n + 10
    reverse: UPDATE counter SET n = n - 10
"""


@dataclass
class Writer:
    """The application on a target: it counts up, remembers what was acknowledged, and comes back after a restart."""

    url: str
    number: int
    acknowledged: int = 0
    unknown: int = 0
    errors: list[psycopg.Error] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._go, daemon=True)
        self.thread.start()

    def _go(self) -> None:
        while not self.stop.is_set():
            try:
                with psycopg.connect(self.url, autocommit=True) as connection:
                    while not self.stop.wait(0.01):
                        self._write(connection)
            except psycopg.OperationalError as error:
                # Only a server that restarts: it says so, or is not there.
                if error.sqlstate not in (None, "57P01", "57P02", "57P03"):
                    self.errors.append(error)
                time.sleep(0.1)
            except psycopg.Error as error:
                self.errors.append(error)

    def _write(self, connection: psycopg.Connection[Any]) -> None:
        try:
            connection.execute("update written set times = times + 1 where id = %s", [self.number])
            connection.execute("update account set kind = 'b' where id = %s", [random.randint(1, 500)])
        except psycopg.OperationalError:
            self.unknown += 1
            raise
        self.acknowledged += 1


class Site:
    """A store and two targets behind proxies, and worker processes on them."""

    def __init__(self, folder: Path, size: int, pause: str) -> None:
        self.folder, self.size, self.pause = folder, size, pause
        self.servers = {name: Cluster(folder / name, options=HASTY, tcp=True) for name in ("store", "target")}
        for server in self.servers.values():
            server.start()
        self.proxies = {name: Proxy(self.port(name)) for name in self.servers}
        self.environ = {
            **clean_environ(),
            "SEGUE_HOME": str(folder),
            "SEGUE_STORE": self.url("store", "segue"),
            "SEGUE_USER": "tester",
        }
        self.settings = loader.load({**self.environ, "SEGUE_STORE": self.servers["store"].url()}, folder)
        self.parts = wiring.parts()
        self.crew: dict[str, subprocess.Popen[bytes]] = {}
        self.writers: list[Writer] = []
        self.targets: dict[str, str] = {}
        self.handed: dict[str, str] = {}

    def port(self, name: str) -> int:
        return int(conninfo.conninfo_to_dict(self.servers[name].url())["port"] or 0)

    def url(self, name: str, database: str) -> str:
        """Return a URL that leads through the proxy."""
        straight = self.servers[name].url(database)
        return straight.replace(f":{self.port(name)}/", f":{self.proxies[name].port}/")

    def target(self, name: str) -> None:
        server = self.servers["target"]
        run_sql(server.url("postgres"), f"create database {name}")
        url = self.targets[name] = server.url(name)
        kind = "case g % 2 when 0 then 'a' else 'b' end"
        fill = f"insert into account select g, {kind} from generate_series(1, {self.size}) g"
        run_sql(url, *TABLES, fill, "analyze")
        wanted = environments.Wanted(name, EnvironmentType.TEST)
        with open_store(self.settings) as store, store.session() as session:
            environments.add(session, self.settings, wanted, self.url("target", name), unseen)
        self.writers += [Writer(url, number) for number in (1, 2, 3)]

    def hand_over(self, environment: str, plan: str) -> str:
        text = PLAN.replace("NAME", plan.replace("-", "_")).replace("PAUSE", self.pause)
        with open_store(self.settings) as store:
            with store.session() as session:
                plans.add(session, self.settings, plans.check(text, "plan.yaml", self.parts))
            handed = executions.hand_over(
                store, self.settings, self.parts, plan.replace("-", "_"), environment
            ).execution
        self.handed[handed] = environment
        return handed

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.crew[name] = subprocess.Popen(
                [sys.executable, "-m", "segue", "worker", "--name", name, "--log-format", "json"],
                env=self.environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def restart_ended(self) -> None:
        """Start again, as a supervisor does, those that could not reach the store when they began."""
        for name, process in list(self.crew.items()):
            if process.poll() is not None:
                assert process.returncode == ExitCode.UNREACHABLE
                self.start(name)

    def ask(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return rows(self.servers["store"].url(), query, *parameters)

    def driver(self) -> tuple[str, str] | None:
        """Return an execution that runs and the name of the worker that drives it."""
        found = self.ask(
            "select id, lease_owner from segue_store.migration_executions "
            "where status = 'running' and heartbeat_at > clock_timestamp() - interval '4 s' and id = any(%s)",
            list(self.handed),
        )
        for execution, owner in found:
            for name, process in self.crew.items():
                if owner.endswith(f" pid {process.pid}") and process.poll() is None:
                    return execution, name
        return None

    # -- what happens to them

    def kill(self, name: str) -> None:
        self.crew[name].kill()
        self.crew[name].wait()

    def kill_driver(self) -> tuple[str, Any, int]:
        """Kill a worker that drives an execution, at once followed by another; return what, when, and its fence."""
        execution, name = until(self.driver, 40)
        self.kill(name)
        ((at, fence),) = self.ask(
            "select clock_timestamp(), fence from segue_store.migration_executions where id = %s", execution
        )
        self.start(name)
        return execution, at, fence

    def taken_over_after(self, execution: str, at: Any, fence: int) -> float:
        """Wait until another process drives it; return after how many seconds, by the store's clock."""
        query = (
            "select extract(epoch from heartbeat_at - %s)::float from segue_store.migration_executions "
            "where id = %s and (fence > %s or status <> 'running')"
        )
        found = until(lambda: self.ask(query, at, execution, fence), 60)
        return float(found[0][0])

    def restart(self, name: str) -> None:
        self.servers[name].stop("fast")
        self.servers[name].start()

    def cut(self, name: str) -> None:
        self.proxies[name].cut()

    def freeze(self, name: str, seconds: float) -> None:
        """Stop a worker for longer than its lease, and wake it."""
        process = self.crew[name]
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)

    def statuses(self) -> dict[str, str]:
        return dict(self.ask("select id, status from segue_store.migration_executions"))

    def wait(self, seconds: float) -> None:
        try:
            until(lambda: set(self.statuses().values()) == {"completed"}, seconds)
        except AssertionError:
            print(self.ask("select id, status, waiting_for, error_details from segue_store.migration_executions"))
            raise

    def stop(self) -> None:
        for process in self.crew.values():
            process.send_signal(signal.SIGTERM)
        codes = {name: process.wait(40) for name, process in self.crew.items()}
        assert set(codes.values()) == {0}, codes

    def close(self) -> None:
        for process in self.crew.values():
            process.kill()
            process.wait()
        for log in sorted(self.folder.glob("*.log")):
            print(f"-- {log.stem}\n{log.read_text()[-8000:]}")  # shown when the test fails
        for writer in self.writers:
            writer.stop.set()
        for writer in self.writers:
            writer.thread.join(10)
        for proxy in self.proxies.values():
            proxy.close()
        for server in self.servers.values():
            server.destroy()

    # -- what must be so in the end

    def judge(self) -> None:
        for writer in self.writers:
            writer.stop.set()
            writer.thread.join(20)
            assert writer.errors == []
            assert writer.acknowledged > 0
        for name, url in self.targets.items():
            count = sum(environment == name for environment in self.handed.values())
            assert rows(url, "select n from counter") == [(11 * count,)], name
            assert rows(url, "select n, count(*) from account group by n") == [(count, self.size)], name
            assert rows(url, "select count(*) from account where label is null") == [(0,)]
            done = "select execution, step from segue.history where part = 0 and state = 'done'"
            here = [execution for execution, environment in self.handed.items() if environment == name]
            steps = ("count-up", "index", "promise", "keep", "count-again")
            assert sorted(rows(url, done)) == sorted((execution, step) for execution in here for step in steps)
            assert value(url, "select count(*) from segue.history where state <> 'done'") == 0
            bad = sum(number % 500 == 13 for number in range(1, self.size + 1))
            chunks = rows(url, "select execution, step, sum(rows) from segue.chunk group by 1, 2")
            whole = [(execution, "fill", self.size) for execution in here]
            assert sorted(chunks) == sorted(whole + [(execution, "move", self.size - bad) for execution in here])
            assert rows(url, "select count(*) from moved") == [(count * (self.size - bad),)]
            assert rows(url, "select count(*), bool_and(key[1]::int % 500 = 13) from segue.rejected") == [
                (count * bad, True)
            ]
            assert value(url, "select count(*) from pg_index where not indisvalid") == 0
            kept = "select count(*) from pg_constraint where contype = 'f' and convalidated"
            assert value(url, kept) == count
            mine = [writer for writer in self.writers if writer.url == url]
            for number, times in rows(url, "select id, times from written"):
                acknowledged = sum(writer.acknowledged for writer in mine if writer.number == number)
                unknown = sum(writer.unknown for writer in mine if writer.number == number)
                assert acknowledged <= times <= acknowledged + unknown


def unseen(url: str) -> Probe:
    """Stand in for a look at the database, which takes a second to measure its traffic."""
    raise TargetUnreachable("not looked at")


@pytest.fixture
def new_site() -> Iterator[Callable[[int, str], Site]]:
    made: list[Site] = []
    folder = short_folder()

    def make(size: int, pause: str) -> Site:
        made.append(Site(folder, size, pause))
        return made[-1]

    yield make
    for site in made:
        site.close()
    shutil.rmtree(folder, ignore_errors=True)


def build_index_of(site: Site, name: str) -> bool:
    return bool(rows(site.targets[name], "select from pg_stat_progress_create_index where datname = %s", name))


def test_two_workers_come_through_a_kill_cuts_and_restarts(new_site: Callable[[int, str], Site]) -> None:
    site = new_site(2500, "50ms")
    for name in ("one", "two"):
        site.target(name)
        site.start(f"worker-{name}")
    site.hand_over("one", "first")
    site.hand_over("two", "second")
    killed = site.kill_driver()
    assert site.taken_over_after(*killed) < 15
    site.cut("store")
    site.cut("target")
    site.restart("store")
    site.restart("target")
    site.wait(120)
    site.stop()
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_workers_come_through_whatever_happens(new_site: Callable[[int, str], Site]) -> None:
    site = new_site(40_000, "40ms")
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for name in ("one", "two"):
        site.target(name)
        site.start(f"worker-{name}")
    for environment, plan in (("one", "first"), ("two", "second"), ("one", "third"), ("two", "fourth")):
        site.hand_over(environment, plan)
    frozen: list[threading.Thread] = []

    def freeze() -> None:
        # One at a time, and longer than the lease: another one takes over what it drives, and it must notice.
        if not any(thread.is_alive() for thread in frozen):
            frozen.append(threading.Thread(target=site.freeze, args=(chance.choice(list(site.crew)), 14)))
            frozen[-1].start()

    def kill() -> None:
        name = chance.choice(list(site.crew))
        site.kill(name)
        site.start(name)

    happenings = [kill, kill, freeze]
    happenings += [lambda name=name: site.cut(name) for name in ("store", "target")]
    happenings += [lambda name=name: site.restart(name) for name in ("store", "target")]
    for round_ in range(2):
        for _ in range(14):
            chance.choice(happenings)()
            time.sleep(chance.uniform(1, 4))
            site.restart_ended()
        for thread in frozen:
            thread.join()
        if round_ == 0:
            site.start("worker-three")
            site.start("worker-four")
    print(site.statuses())
    site.restart_ended()
    site.wait(240)
    site.stop()
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_death_is_taken_over_within_fifteen_seconds(new_site: Callable[[int, str], Site]) -> None:
    site = new_site(30_000, "40ms")
    site.target("one")
    for name in ("one", "two", "three"):
        site.start(f"worker-{name}")
    site.hand_over("one", "first")
    for _ in range(4):
        assert site.taken_over_after(*site.kill_driver()) < 15
    # Inside an index build, which waits for an old snapshot, and whose back-end outlives its process for a while.
    with psycopg.connect(site.targets["one"]) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select count(*) from account")
        until(lambda: build_index_of(site, "one"), 90)
        execution, at, fence = site.kill_driver()
        assert site.taken_over_after(execution, at, fence) < 15
        left = "select count(*) from pg_stat_activity where application_name = %s"
        assert value(site.targets["one"], left, f"segue:{execution}:{fence}") == 0
        assert not build_index_of(site, "one")
    site.wait(120)
    site.stop()
    site.judge()
