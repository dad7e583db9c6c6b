"""What Prometheus asks a worker: itself, the other workers, the executions, all as the store says at that moment."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from segue import __version__, clock
from segue.errors import ConfigurationError, SegueError
from segue.model.lifecycles import BatchStatus, ExecutionStatus
from segue.ports import BACKWARD
from segue.services import limits, workers

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.services.workers import Worker
    from segue.store import Store

log = logging.getLogger(__name__)

# Several Prometheus servers, and a person who reloads, cost the store one look a second at most.
_CACHED_SECONDS = 1.0
_TEXT = "text/plain; charset=utf-8"
_ABOUT = ["execution", "plan", "environment"]


@contextmanager
def served(store: Store, worker: Worker, host: str, port: int) -> Iterator[int]:
    """Serve `/metrics` and `/healthz` in threads of their own; give the port, which 0 lets the system choose.

    Raises ConfigurationError when the address cannot be had.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(store, worker))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                try:
                    content = encode(registry)
                except Exception:
                    log.exception("the metrics could not be collected", extra={"action": "metrics-failed"})
                    self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"see the log\n")
                else:
                    self._answer(HTTPStatus.OK, content_type, content)
            elif path == "/healthz":
                status = HTTPStatus.OK if worker.healthy() else HTTPStatus.SERVICE_UNAVAILABLE
                words = "ok" if worker.healthy() else "the store has not been reached for a while"
                self._answer(status, _TEXT, f"{words}\n".encode())
            else:
                self._answer(HTTPStatus.NOT_FOUND, _TEXT, b"here are /metrics and /healthz\n")

        def _answer(self, status: HTTPStatus, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            log.debug(format, *args)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            log.debug("a scrape was cut off", exc_info=True)

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise ConfigurationError(
            f"metrics cannot be served at {host}:{port}: {error.strerror or error}",
            hint="give another --metrics-port or --metrics-host",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="segue metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class StoreCollector(Collector):
    """Reads the store when it is asked, and remembers the answer for a second."""

    def __init__(self, store: Store, worker: Worker) -> None:
        self._store = store
        self._worker = worker
        self._lock = threading.Lock()
        self._found: list[Metric] = []
        self._looked = -_CACHED_SECONDS

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; without a store, those that this process knows by itself."""
        yield InfoMetricFamily("segue_build", "The version of Segue.", {"version": __version__})
        ended = CounterMetricFamily(
            "segue_worker_jobs", "Jobs that this worker has ended, by outcome.", labels=["worker", "queue", "outcome"]
        )
        for (queue, outcome), count in sorted(self._worker.counts.jobs.items()):
            ended.add_metric([self._worker.name, queue, outcome], count)
        yield ended
        with self._lock:
            if clock.ticks() - self._looked >= _CACHED_SECONDS:
                self._found = self._look()
                self._looked = clock.ticks()
            found = self._found
        yield from found

    def _look(self) -> list[Metric]:
        up = GaugeMetricFamily("segue_store_up", "Whether the store could be read.")
        try:
            with self._store.session() as session:
                found = [*_of_workers(session), *_of_executions(session), *_of_running(session)]
        except SegueError as error:
            log.debug("the store could not be read: %s", error)
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *found]


def _of_workers(session: Session) -> Iterator[Metric]:
    alive = GaugeMetricFamily("segue_workers", "Workers, by state.", labels=["state"])
    age = GaugeMetricFamily(
        "segue_worker_heartbeat_age_seconds", "Time since a worker's last sign of life.", labels=["worker", "host"]
    )
    running = GaugeMetricFamily("segue_worker_jobs_running", "What a worker does now.", labels=["worker", "queue"])
    most = GaugeMetricFamily("segue_worker_jobs_limit", "What a worker may do at once.", labels=["worker", "queue"])
    found = workers.listed(session)
    for state in ("running", "draining", "dead"):
        alive.add_metric([state], sum(worker["state"] == state for worker in found))
    for worker in found:
        age.add_metric([worker["name"], worker["host"]], worker["silent"] or 0)
        for queue in worker["queues"]:
            running.add_metric([worker["name"], queue], sum(entry["queue"] == queue for entry in worker["doing"]))
            most.add_metric([worker["name"], queue], worker["concurrency"])
    yield from (alive, age, running, most)
    limit = GaugeMetricFamily("segue_limit", "What all workers together may do at once.", labels=["queue"])
    for queue, number in limits.listed(session).items():
        if number is not None:
            limit.add_metric([queue.value], number)
    yield limit


def _of_executions(session: Session) -> Iterator[Metric]:
    from sqlalchemy import func, select

    from segue.store.tables.executions import ExecutionRow

    there = GaugeMetricFamily("segue_executions", "Executions in the store, by status.", labels=["status"])
    counted = dict(session.execute(select(ExecutionRow.status, func.count()).group_by(ExecutionRow.status)).all())
    for status in ExecutionStatus:
        there.add_metric([status.value], counted.get(status.value, 0))
    yield there
    waiting = GaugeMetricFamily("segue_executions_waiting", "Waiting executions, by what for.", labels=["reason"])
    kind = func.coalesce(ExecutionRow.waiting_for["kind"].astext, "unknown")
    for reason, count in session.execute(
        select(kind, func.count()).where(ExecutionRow.status == ExecutionStatus.WAITING).group_by(kind).order_by(kind)
    ):
        waiting.add_metric([reason], count)
    yield waiting


def _of_running(session: Session) -> Iterator[Metric]:
    from sqlalchemy import func, select

    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow

    now = session.scalar(select(func.clock_timestamp()))
    rows = session.execute(
        select(
            ExecutionRow.id,
            PlanRow.plan_name,
            EnvironmentRow.name,
            ExecutionRow.direction,
            ExecutionRow.heartbeat_at,
            ExecutionRow.steps_completed,
            ExecutionRow.steps_total,
            ExecutionRow.performance_metrics,
        )
        .join(PlanRow, PlanRow.id == ExecutionRow.plan_id)
        .join(EnvironmentRow, EnvironmentRow.id == ExecutionRow.environment_id)
        .where(ExecutionRow.status == ExecutionStatus.RUNNING)
    ).all()
    age = GaugeMetricFamily(
        "segue_execution_heartbeat_age_seconds", "Time since a running execution's last sign of life.", labels=_ABOUT
    )
    done = GaugeMetricFamily("segue_execution_steps_completed", "Steps that are done.", labels=_ABOUT)
    steps = GaugeMetricFamily("segue_execution_steps", "Steps of the plan.", labels=_ABOUT)
    waits = CounterMetricFamily(
        "segue_execution_lock_waits", "How often a lock was not to be had at once.", labels=_ABOUT
    )
    waited = CounterMetricFamily("segue_execution_lock_wait_seconds", "Time spent waiting for locks.", labels=_ABOUT)
    duty = GaugeMetricFamily(
        "segue_execution_throttle_duty", "Share of the time that data work may work; 0 is a stop.", labels=_ABOUT
    )
    reading = GaugeMetricFamily(
        "segue_execution_throttle_reading", "What the throttle's signals showed.", labels=[*_ABOUT, "signal", "unit"]
    )
    for execution, plan, environment, _, beaten, completed, total, measured in rows:
        about = [execution, plan, environment]
        metrics: Mapping[str, Any] = measured or {}
        if beaten is not None and now is not None:
            age.add_metric(about, max(0.0, (now - beaten).total_seconds()))
        done.add_metric(about, completed)
        steps.add_metric(about, total)
        waits.add_metric(about, metrics.get("lock_waits") or 0)
        waited.add_metric(about, (metrics.get("lock_wait_ms") or 0) / 1000)
        throttle: Mapping[str, Any] = metrics.get("throttle") or {}
        if throttle.get("duty") is not None:
            duty.add_metric(about, throttle["duty"])
        # One signal may be read of several replicas; the worst of them is what the throttle goes by.
        worst: dict[tuple[str, str], float] = {}
        for found in throttle.get("readings") or ():
            if found.get("value") is not None:
                signal = str(found["name"]), str(found.get("unit") or "")
                worst[signal] = max(worst.get(signal, found["value"]), found["value"])
        for (name, unit), value in worst.items():
            reading.add_metric([*about, name, unit], value)
    yield from (age, done, steps, waits, waited, duty, reading)
    yield from _of_jobs(session, {row[0]: ([row[0], row[1], row[2]], row[3] == BACKWARD) for row in rows})


def _of_jobs(session: Session, running: Mapping[str, tuple[list[str], bool]]) -> Iterator[Metric]:
    from sqlalchemy import func, select

    from segue.store.tables.jobs import BatchRow, JobRow

    labels = [*_ABOUT, "step"]
    written = CounterMetricFamily("segue_execution_rows", "Rows that data work has gone through.", labels=labels)
    batches = CounterMetricFamily("segue_execution_batches", "Batches that data work has finished.", labels=labels)
    speed = GaugeMetricFamily("segue_execution_rows_per_second", "How fast data work goes.", labels=labels)
    finished = (
        select(func.count())
        .where(BatchRow.job_id == JobRow.id, BatchRow.status == BatchStatus.COMPLETED)
        .scalar_subquery()
    )
    for execution, step, name, rows, rate, count in session.execute(
        select(
            JobRow.execution_id,
            JobRow.step_name,
            JobRow.job_name,
            JobRow.processed_rows,
            JobRow.rows_per_second,
            finished,
        ).where(JobRow.execution_id.in_(running))
    ):
        labels_there, backward = running[execution or ""]
        if name.endswith("/rollback") != backward:
            continue
        about = [*labels_there, step or ""]
        written.add_metric(about, rows)
        batches.add_metric(about, count)
        if rate is not None:
            speed.add_metric(about, rate)
    yield from (written, batches, speed)
