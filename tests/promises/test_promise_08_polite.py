"""Promise 8: data work slows down or stops by what the target and the application show, and says why."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import Background, drop_role, make_role, run_sql, until, value

from segue.databases.postgresql.signals import Gauge
from segue.embedded import Cluster
from segue.engine.control import PauseRequested
from segue.errors import Blocked, NotFound, StepFailed, UsageError
from segue.model.throttling import ThrottleSettings
from segue.rows.latency import fetch
from segue.services import checks, executions, tuning, watching

PLAN = """\
plan: {name}
version: 1.0.0
description: Fill a column, in small batches
{rest}
steps:
  - name: fill
    kind: backfill
    table: customers
    set: {{name: "{each}"}}
    batch: {{size: 50, max: 50}}
    pause: {pause}
"""
ROWS = 2000


class Work:
    """A backfill that somebody watches while it goes on."""

    def __init__(self, shops: Shops, url: str) -> None:
        self.shops, self.url = shops, url
        self.plan = f"fill-{secrets.token_hex(3)}"

    def begin(self, rest: str = "", *, each: str = "repeat('x', 1900)", pause: str = "50ms", **options: Any) -> None:
        self.shops.add(PLAN.format(name=self.plan, rest=rest, each=each, pause=pause))
        self.running = Background(lambda: self.shops.run(self.plan, **options))

    def throttle(self) -> dict[str, Any]:
        """Return how the throttle stands; nothing before it has begun."""
        try:
            return (self.shops.status()["metrics"] or {}).get("throttle") or {}
        except NotFound:
            return {}

    def becomes(self, state: str, words: str = "") -> dict[str, Any]:
        """Wait until the pace is so, for this reason."""
        return until(lambda: (it := self.throttle()).get("state") == state and words in it["reason"] and it, 30)

    def tune(self, **changes: Any) -> None:
        with self.shops.store.session() as session:
            tuning.tune(session, watching.find(session, None), changes, actor="tester")

    def done(self) -> int:
        return int(value(self.url, "SELECT count(*) FROM customers WHERE name IS NOT NULL"))

    def stands_still(self) -> bool:
        """Return whether nothing is written any more, once what had begun is done."""
        time.sleep(0.5)
        before = self.done()
        time.sleep(0.7)
        return self.done() == before < ROWS

    def ends(self) -> None:
        self.running.result()
        assert self.done() == ROWS


def prepare(url: str) -> None:
    run_sql(
        url,
        "CREATE TABLE customers (id bigint PRIMARY KEY, name text)",
        f"INSERT INTO customers SELECT generate_series(1, {ROWS})",
    )


@pytest.fixture
def work(shops: Shops, database: str) -> Work:
    prepare(database)
    shops.open("shop", database)
    return Work(shops, database)


@pytest.fixture(scope="module")
def standby(own_server: Server) -> Iterator[Cluster]:
    with own_server.replica("standby1") as replica:
        yield replica


def replay(standby: Cluster, verb: str) -> None:
    run_sql(standby.url("postgres"), f"SELECT pg_wal_replay_{verb}()")


# -- replicas


def falls_behind_and_catches_up(shops: Shops, server: Server, replica: Cluster, name: str) -> None:
    work = Work(shops, server.database())
    prepare(work.url)
    shops.open("shop", work.url)
    replay(replica, "pause")
    try:
        work.begin(tuning={"replica_lag": "1MB"})
        stopped = work.becomes("stopped", f'replica "{name}" is ')
        assert stopped["duty"] == 0
        assert "behind" in stopped["reason"]
        assert work.stands_still()
    finally:
        replay(replica, "resume")
    work.ends()
    assert "throttle-stopped" in shops.said()


def test_a_replica_that_falls_behind_stops_the_work_until_it_has_caught_up(
    shops: Shops, own_server: Server, standby: Cluster
) -> None:
    falls_behind_and_catches_up(shops, own_server, standby, "standby1")


@pytest.mark.slow
def test_a_replica_of_another_version_does_so_too(shops: Shops, own_debian_server: Server) -> None:
    with own_debian_server.replica("standby2") as replica:
        falls_behind_and_catches_up(shops, own_debian_server, replica, "standby2")


def test_a_replica_that_is_gone_stops_the_work_with_its_name(
    shops: Shops, own_server: Server, standby: Cluster
) -> None:
    work = Work(shops, own_server.database())
    prepare(work.url)
    shops.open("shop", work.url)
    assert checks.check(shops.store, shops.settings, shops.parts, "shop").replicas == ["standby1"]
    work.begin()
    work.becomes("free")
    standby.kill()
    work.becomes("stopped", 'replica "standby1" is not connected')
    assert work.stands_still()
    standby.start()
    work.ends()


def test_an_ordinary_role_sees_a_replicas_slot_and_else_stops(own_server: Server, standby: Cluster) -> None:
    url = own_server.database()
    role = make_role(url)
    gauge = Gauge(role, application="segue:test:1", schema="public")

    def reading(*expected: str) -> Any:
        found = gauge.signals(ThrottleSettings(), expected)
        return next((one for one in found.readings if one.name == "replica standby1"), found.unseen)

    assert 'replica "standby1" has received all but the last ' in reading("standby1").words
    with without_its_slot(url, standby):
        assert reading("standby1").state == "unknown"
        assert "is behind cannot be seen; GRANT pg_monitor TO" in reading("standby1").words
        assert "replica standby1" in reading()
    gauge.close()
    drop_role(url, role)


@contextmanager
def without_its_slot(url: str, standby: Cluster) -> Iterator[None]:
    """Have the replica stream without its slot for a while: so nothing says how far it is to whom that is hidden."""
    uses = "SELECT bool_or(active) FROM pg_replication_slots"
    name = "ALTER SYSTEM SET primary_slot_name = '{}'"
    try:
        run_sql(standby.url("postgres"), name.format(""), "SELECT pg_reload_conf()")
        until(lambda: value(url, f"SELECT NOT ({uses}) AND count(*) = 1 FROM pg_stat_replication"))
        yield
    finally:
        run_sql(standby.url("postgres"), name.format("standby1"), "SELECT pg_reload_conf()")
        until(lambda: value(url, uses))


# -- the application's latency


class Till:
    """An application that counts, in a row that each batch of the backfill locks while it lasts; it times itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        run_sql(
            url,
            "CREATE TABLE totals (n bigint)",
            "INSERT INTO totals VALUES (0)",
            "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN UPDATE public.totals SET n = n + 1; RETURN NULL; END $$",
            "CREATE TRIGGER counted BEFORE UPDATE ON customers EXECUTE FUNCTION counted()",
            "CREATE FUNCTION slow(text) RETURNS text LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_catalog.pg_sleep(0.004); RETURN $1; END $$",
        )
        self.times: list[tuple[float, float]] = []
        self.over = threading.Event()
        self.errors: list[Exception] = []
        self.thread = threading.Thread(target=self.sell, daemon=True)

    def sell(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not self.over.is_set():
                began = time.monotonic()
                try:
                    connection.execute("UPDATE public.totals SET n = n + 1")
                except psycopg.Error as error:
                    self.errors.append(error)
                self.times.append((time.monotonic(), (time.monotonic() - began) * 1000))
                time.sleep(0.02)

    def says(self) -> str:
        """Return what it tells at its URL: the mean of the last two seconds."""
        recent = [took for at, took in list(self.times) if at > time.monotonic() - 2]
        return str(sum(recent) / max(1, len(recent)))


@contextmanager
def served(answer: Callable[[str], tuple[int, str]]) -> Iterator[str]:
    """Answer GET requests on this machine: given the path, a status and a body, or where a 302 leads."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_work_slows_down_until_the_application_is_within_its_budget(work: Work) -> None:
    till = Till(work.url)
    till.thread.start()
    with served(lambda path: (200, till.says())) as url:
        work.begin(tuning={"latency_url": url}, each="slow(repeat('x', 10))", pause="0ms")
        until(lambda: work.throttle().get("state") == "free" and work.throttle()["latency"]["told"] > 40)
        work.tune(latency_budget="avg=20ms")
        over = until(lambda: (it := work.throttle())["duty"] < 1 and "over the budget of 20 ms" in it["reason"] and it)
        assert "avg " in over["reason"]
        until(lambda: (it := work.throttle())["duty"] > 0 and it["state"] == "slowed" and it["latency"]["told"] < 20)
        work.tune(enabled=False)
        work.ends()
    till.over.set()
    till.thread.join()
    assert till.errors == []


def test_a_latency_that_cannot_be_read_stops_the_work(work: Work) -> None:
    with served(lambda path: (500, "")) as url:
        work.begin(tuning={"latency_budget": "p95=1s", "latency_url": url})
        stopped = work.becomes("stopped", "the latency cannot be read")
        assert f"{url} answers 500" in stopped["reason"]
        assert work.stands_still()
        work.tune(latency_probe="SELECT count(*) FROM customers WHERE id < 10")
        work.ends()
    assert work.throttle()["latency"]["source"] == "probe"


def latency(work: Work) -> dict[str, Any]:
    return work.throttle().get("latency") or {}


def test_without_a_source_a_budget_holds_for_statements_where_the_server_counts_them(
    shops: Shops, own_server: Server
) -> None:
    work = Work(shops, own_server.database())
    prepare(work.url)
    run_sql(work.url, "CREATE EXTENSION pg_stat_statements")
    shops.open("shop", work.url)
    work.begin(tuning={"latency_budget": "avg=5s"}, pause="1s")
    with psycopg.connect(work.url, autocommit=True) as application:
        until(lambda: application.execute("SELECT pg_sleep(0.05)") and latency(work).get("p50", 0) > 20)
    assert latency(work)["source"] == "pg_stat_statements"
    executions.pause(shops.store, None, actor="tester")
    with pytest.raises(PauseRequested):
        work.running.result()


def test_a_url_is_asked_for_a_number_and_led_nowhere_else() -> None:
    answers = {
        "/number": (200, "12.5"),
        "/json": (200, '{"p95": 7}'),
        "/moved": (302, "/number"),
        "/file": (302, "file:///etc/hostname"),
        "/ftp": (302, "ftp://127.0.0.1/x"),
    }
    with served(lambda path: answers.get(path, (404, "no"))) as url:
        assert [fetch(url + path, "p95") for path in ("/number", "/json", "/moved")] == [12.5, 7, 12.5]
        for path, said in (("/file", "file:"), ("/ftp", "ftp"), ("/else", "answers 404 Not Found")):
            with pytest.raises(StepFailed, match=said):
                fetch(url + path, "p95")
    with pytest.raises(StepFailed, match=r"does not answer: .*refused"):
        fetch(url, "p95")


# -- who says how polite it is


def test_an_execution_is_tuned_over_its_plan_and_that_over_its_environment(work: Work) -> None:
    shops = work.shops
    with shops.store.session() as session:
        row = executions.environments.get(session, "shop")
        tuning.tune_environment(session, row, {"workers": 4, "replica_lag": "1MB", "duty": 0.5}, actor="ada")
    work.begin("throttle: {replica_lag: 2MB, lock_waiters: none}", tuning={"lock_waiters": 7})
    held = work.becomes("free")
    assert (held["duty"], held["workers"], held["reason"]) == (0.5, 4, "held to 50% of the time")
    work.ends()
    with shops.store.session() as session:
        row = watching.find(session, None)
        limits = tuning.describe(row, tuning.of_plan(row.plan.document), driven=False)["limits"]
        with pytest.raises(Blocked, match="nothing left to throttle"):
            tuning.tune(session, row, {"workers": 1}, actor="ada")
        with pytest.raises(UsageError, match='"wrkers" is no limit'):
            tuning.tune_environment(session, row.environment, {"wrkers": 1}, actor="ada")
    assert limits["workers"] == {"value": 4, "from": "environment"}
    assert limits["replica_lag"] == {"value": 2_000_000, "from": "plan"}
    assert limits["lock_waiters"] == {"value": 7, "from": "execution"}
    assert limits["replica_delay"] == {"value": 10, "from": "built in"}
    assert [entry["changes"] for entry in shops.ledger("tuned")][-1] == {"lock_waiters": 7}


def test_limits_that_cannot_be_read_stop_the_work(work: Work) -> None:
    with work.shops.store.session() as session:
        executions.environments.get(session, "shop").checked = {"limits": {"of a newer version": 1}}
    work.begin()
    work.becomes("stopped", "the limits of the environment cannot be read")
    with work.shops.store.session() as session:
        row = executions.environments.get(session, "shop")
        tuning.tune_environment(session, row, {}, actor="ada", reset=True)
    work.ends()


def test_a_look_at_the_target_outlives_its_sessions(work: Work) -> None:
    work.begin()
    work.becomes("free")
    seen = work.throttle()["at"]
    gone = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'segue:%' AND query LIKE '%pg_stat_checkpointer%'"
    )
    until(lambda: value(work.url, gone))
    until(lambda: (it := work.throttle())["at"] > seen and it["state"] == "free")
    work.ends()
    assert "connection-lost" not in work.shops.said()
