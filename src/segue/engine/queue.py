"""Nudges for workers: "look at this execution", "help with that step". Nothing is lost with them; a sweep finds all.

The only module that knows Procrastinate, whose import takes a while: import this one where it is used.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import Any, LiteralString

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job
from procrastinate.schema import SchemaManager
from procrastinate.worker import Worker
from psycopg import sql

from segue import clock
from segue.errors import ConfigurationError, PrivilegeMissing, SegueError, TargetUnreachable
from segue.model.vocabulary import WorkQueue
from segue.store.opening import PINNED, place

log = logging.getLogger(__name__)

#: A worker that gave no sign of life for this long is taken for dead: what it holds in the queue is thrown away.
DEAD_SECONDS = 60

Work = Callable[[WorkQueue, Mapping[str, Any]], Awaitable[None]]

# How often a worker asks for nudges that were to come later; others are announced to it.
_POLL_SECONDS = 1.0
# How long a connection may take, and how long a store that went away is waited for by a worker that leaves.
_CONNECT_SECONDS = 5.0
_LEAVING_SECONDS = 10.0

# "seguequ" in ASCII: whoever makes the tables anew holds this advisory lock.
_LOCK = 0x73656775657175

# The table's own triggers announce new jobs, and the functions are found by the search path alone.
_PINNED: LiteralString = (
    PINNED + "; SET search_path = segue_queue, pg_catalog; SET statement_timeout = '30s'; SET lock_timeout = '10s'"
)

# A peer that vanished without a word is noticed within these seconds.
_SESSION: Mapping[str, Any] = {
    "application_name": "segue queue",
    "client_encoding": "UTF8",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "prepare_threshold": None,
}

_TASKS = {WorkQueue.EXECUTIONS: "segue.execution", WorkQueue.SLOTS: "segue.slot"}


class Queue:
    """Nudges for the workers of one store. Threads may share it; a nudge that fails is logged and never raised.

    Each nudge opens a connection of its own, unless the queue is used as a context: then one is kept.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._kept = False
        self._prepared = False
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._jobs = App(connector=SyncPsycopgConnector(conninfo=url)).job_manager

    def __enter__(self) -> Queue:
        self._kept = True
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._kept = False
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def nudge_execution(self, execution: str, *, delay: float | None = None) -> None:
        """Have a worker look at an execution, now or in `delay` seconds."""
        self.nudge_executions([execution], delay=delay)

    def nudge_executions(self, executions: Iterable[str], *, delay: float | None = None) -> None:
        """Have workers look at executions, now or in `delay` seconds."""
        when = "later" if delay else "now"  # one that is to come later must not keep one for now out
        self._nudge(
            [
                self._job(WorkQueue.EXECUTIONS, f"execution/{name}/{when}", delay, execution=name)
                for name in dict.fromkeys(executions)
            ]
        )

    def nudge_slots(self, execution: str, step: str, direction: str, count: int, *, delay: float | None = None) -> None:
        """Have `count` workers help with a step of an execution; those that were asked before and wait count too."""
        when = "later" if delay else "now"
        self._nudge(
            [
                self._job(
                    WorkQueue.SLOTS,
                    f"slot/{execution}/{step}/{direction}/{number}/{when}",
                    delay,
                    execution=execution,
                    step=step,
                    direction=direction,
                    number=number,
                )
                for number in range(count)
            ]
        )

    def again(self, queue: WorkQueue, words: Mapping[str, Any], delay: float) -> None:
        """Give a nudge back, to come again in `delay` seconds."""
        lock = "/".join(str(words[name]) for name in sorted(words))
        self._nudge([self._job(queue, f"again/{queue}/{lock}", delay, **words)])

    def prepare(self, *, worker: str | None = None) -> None:
        """Make the tables if they are missing, or anew if they are another version's; only nudges are lost.

        Raises ConfigurationError while workers other than `worker` use another version's, PrivilegeMissing when the
        role may not make them, TargetUnreachable when the store is away.
        """
        try:
            with self._session() as connection:
                self._prepare(connection, worker)
        except psycopg.errors.InsufficientPrivilege as error:
            raise PrivilegeMissing(
                f"the store {place(self._url)} refuses to hold a queue for workers: {error.diag.message_primary}",
                hint="the role needs CREATE on the database until the schema segue_queue is there",
            ) from error
        except psycopg.OperationalError as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise TargetUnreachable(
                f"the store {place(self._url)} cannot be reached: {said[0]}",
                hint="is the server running, and is SEGUE_STORE right?",
            ) from error

    def prune(self) -> None:
        """Throw away what dead workers held, what nobody will take any more, and the traces of workers long gone."""
        self._safely("the queue was not tidied", lambda connection: connection.execute(_PRUNE, [DEAD_SECONDS]))

    def empty(self, queues: Iterable[WorkQueue]) -> bool:
        """Return whether nothing waits in these queues, not even for later. Raises psycopg.Error."""
        with self._session() as connection:
            self._prepare(connection, None)
            found = connection.execute(
                "SELECT FROM procrastinate_jobs WHERE status = 'todo' AND queue_name = ANY (%s) LIMIT 1",
                [[str(queue) for queue in queues]],
            )
            return found.fetchone() is None

    # -- parts

    def _job(self, queue: WorkQueue, lock: str, delay: float | None, **words: Any) -> Job:
        # No `lock`: a worker that looks at an execution now must not keep the next nudge from the others, who may find
        # it dead. The queueing lock lets one nudge of a kind wait and not more.
        return Job(
            queue=str(queue),
            lock=None,
            queueing_lock=lock,
            task_name=_TASKS[queue],
            task_kwargs=words,
            scheduled_at=clock.now() + timedelta(seconds=delay) if delay else None,
        )

    def _nudge(self, jobs: list[Job]) -> None:
        if jobs:
            self._safely("workers were not nudged; they find it by themselves", lambda found: self._defer(found, jobs))

    def _safely(self, words: str, act: Callable[[psycopg.Connection[tuple[Any, ...]]], object]) -> None:
        try:
            try:
                self._act(act)
            except (psycopg.Error, ConnectorException) as error:
                # A kept connection that a restart of the server has ended, or tables that somebody has dropped.
                if not (_missing(error) or _lost(error)):
                    raise
                self._prepared = False
                self._act(act)
        except Exception as error:  # whoever nudges has done its work, and the workers' sweep does without
            log.warning("%s: %s", words, _said(error), extra={"action": "nudge-failed"})

    def _act(self, act: Callable[[psycopg.Connection[tuple[Any, ...]]], object]) -> None:
        with self._session() as connection:
            self._prepare(connection, None)
            act(connection)

    def _defer(self, connection: psycopg.Connection[tuple[Any, ...]], jobs: list[Job]) -> None:
        waiting = {
            row[0]
            for row in connection.execute(
                "SELECT queueing_lock FROM procrastinate_jobs WHERE status = 'todo' AND queueing_lock = ANY (%s)",
                [[job.queueing_lock for job in jobs]],
            )
        }
        missing = [job for job in jobs if job.queueing_lock not in waiting]
        try:
            if missing:
                self._jobs.batch_defer_jobs(missing, connection=connection)
        except AlreadyEnqueued:
            # Another process has nudged some of them at the same moment.
            for job in missing:
                try:
                    self._jobs.defer_job(job, connection=connection)
                except AlreadyEnqueued:
                    continue

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with self._lock:
            connection = self._connection
            if connection is None or connection.closed:
                connection = psycopg.connect(self._url, autocommit=True, **_given(self._url))
                self._connection = connection
                connection.execute(_PINNED)
            try:
                yield connection
            except (psycopg.Error, ConnectorException) as error:
                if _lost(error):
                    connection.close()
                raise
            finally:
                if not self._kept:
                    connection.close()
                if connection.closed:
                    self._connection = None

    def _prepare(self, connection: psycopg.Connection[tuple[Any, ...]], worker: str | None) -> None:
        if self._prepared or _is_current(connection):
            self._prepared = True
            return
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            if not _is_current(connection):
                _make(connection, worker)
        self._prepared = True


async def serve(
    url: str,
    *,
    concurrency: Mapping[WorkQueue, int],
    work: Work,
    prepare: Callable[[], None],
    leaving: asyncio.Event,
) -> None:
    """Take nudges and `await work(queue, words)` for each, so many of a queue at a time, until `leaving` is set.

    Returns when the last work has ended. A store that goes away is waited for; then it goes on by itself. `prepare`
    makes the tables, as `Queue.prepare` does.
    """
    pause = 0.5
    while not leaving.is_set():
        began = clock.ticks()
        try:
            await asyncio.to_thread(prepare)
            await _serve(url, concurrency, work, leaving)
        except (psycopg.Error, ConnectorException, SegueError) as error:
            log.warning("the queue cannot be read: %s", _said(error), extra={"action": "queue-lost"})
        if clock.ticks() - began > 30:
            pause = 0.5
        if leaving.is_set() or await _left(leaving, pause * random.uniform(0.5, 1)):  # noqa: S311 - no secret
            return
        pause = min(pause * 2, 10.0)


async def _serve(url: str, concurrency: Mapping[WorkQueue, int], work: Work, leaving: asyncio.Event) -> None:
    connector = _Patient(url, leaving)
    app = App(connector=connector)
    for queue, name in _TASKS.items():
        app.task(name=name, queue=str(queue))(_taker(queue, work))
    async with app.open_async():
        workers = [
            Worker(
                app,
                queues=[str(queue)],
                name=str(queue),
                concurrency=most,
                fetch_job_polling_interval=_POLL_SECONDS,
                delete_jobs="always",
                install_signal_handlers=False,
                # Our own sweep decides who is dead. A worker that was pruned and then woke could not fetch again.
                stalled_worker_timeout=86_400.0,
            )
            for queue, most in concurrency.items()
        ]
        takers = [asyncio.create_task(worker.run()) for worker in workers]  # type: ignore[no-untyped-call]
        told = asyncio.create_task(leaving.wait())
        await asyncio.wait([told, *takers], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        # A stopped one fetches nothing more, and ends when the last of its jobs has. One that is just beginning does
        # not hear it, so it is said again; and cancelling would not do, because `asyncio.wait_for` may swallow that.
        pending: set[asyncio.Task[None]] = set(takers)
        while pending:
            for worker in workers:
                worker.stop()  # type: ignore[no-untyped-call]
            _, pending = await asyncio.wait(pending, timeout=0.2)
        for outcome in await asyncio.gather(*takers, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


def _taker(queue: WorkQueue, work: Work) -> Callable[..., Awaitable[None]]:
    async def take(**words: Any) -> None:
        await work(queue, words)

    return take


class _Patient(PsycopgConnector):
    """A connector that waits for a store that went away.

    Procrastinate's worker stops at the first error, and then begins nothing new until the last of its jobs has ended,
    which may be hours. So it does not get to see these.
    """

    def __init__(self, url: str, leaving: asyncio.Event) -> None:
        super().__init__(
            conninfo=url,
            kwargs=_given(url),
            configure=_pin,
            min_size=1,
            max_size=4,
            timeout=_CONNECT_SECONDS,
            # The pool doubles its pauses for as long as this; longer, and it would sleep on after the store came back.
            reconnect_timeout=_CONNECT_SECONDS,
        )
        self._leaving = leaving

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        try:
            await self._patiently(lambda: PsycopgConnector.execute_query_async(self, query, **arguments))
        except ConnectorException as error:
            # The end of a job that is gone: this process was stopped for so long that others took it for dead.
            if not isinstance(error.__cause__, psycopg.errors.RaiseException):
                raise

    async def execute_query_one_async(self, query: LiteralString, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self._patiently(
            lambda: PsycopgConnector.execute_query_one_async(self, query, **arguments)
        )
        return found

    async def execute_query_all_async(self, query: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._patiently(
            lambda: PsycopgConnector.execute_query_all_async(self, query, **arguments)
        )
        return found

    async def listen_notify(self, on_notification: Any, channels: Iterable[str]) -> None:
        names = list(channels)
        await self._patiently(lambda: PsycopgConnector.listen_notify(self, on_notification, names))

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        pause, left = 0.1, None
        while True:
            began = clock.ticks()
            try:
                return await call()
            except ConnectorException as error:
                if not _lost(error):
                    raise
                if self._leaving.is_set():
                    left = left or clock.ticks()
                    if clock.ticks() - left > _LEAVING_SECONDS:
                        raise
                log.debug("the store is away: %s", _said(error), extra={"action": "store-away"})
            if clock.ticks() - began > 30:
                pause = 0.1
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause = min(pause * 2, 3.0)


async def _pin(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.set_autocommit(True)
    await connection.execute(_PINNED)


async def _left(leaving: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until this worker leaves; return whether it does."""
    try:
        await asyncio.wait_for(leaving.wait(), seconds)
    except TimeoutError:
        return False
    return True


# -- the tables


def _mark() -> str:
    """Return what the schema's comment says when its tables are those of the installed version."""
    digest = hashlib.sha256(SchemaManager.get_schema().encode()).hexdigest()[:12]
    return f"Segue's nudges for workers; may be dropped while none runs ({digest})"


def _is_current(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    found = _found(connection)
    return found is not None and found == (_mark(), True)


def _found(connection: psycopg.Connection[tuple[Any, ...]]) -> tuple[str, bool] | None:
    """Return the schema's comment and whether its main table is there; None without a schema."""
    # From the tables: to_regnamespace() may answer from what this session saw before it had the lock.
    row = connection.execute(
        """
        SELECT coalesce((SELECT description FROM pg_description
                          WHERE objoid = space.oid AND classoid = 'pg_namespace'::regclass), ''),
               EXISTS (SELECT FROM pg_class WHERE relnamespace = space.oid AND relname = 'procrastinate_jobs')
          FROM pg_namespace AS space WHERE nspname = 'segue_queue'
        """
    ).fetchone()
    return (str(row[0]), bool(row[1])) if row else None


def _make(connection: psycopg.Connection[tuple[Any, ...]], worker: str | None) -> None:
    """Make the tables anew, in the transaction of the caller, who holds the lock."""
    found = _found(connection)
    if found is not None and found[0] != _mark():
        if not found[0].startswith("Segue's nudges"):
            raise ConfigurationError(
                'the store has a schema "segue_queue" that is not Segue\'s',
                hint="rename that schema, or point SEGUE_STORE at a database of its own",
            )
        users = connection.execute(
            "SELECT name, host, version FROM segue_store.workers "
            "WHERE status <> 'stopped' AND heartbeat_at > clock_timestamp() - make_interval(secs => 30) "
            "AND id IS DISTINCT FROM %s ORDER BY name",
            [worker],
        ).fetchall()
        if users:
            raise ConfigurationError(
                f"the queue of the store was made for another version of Procrastinate than {version('procrastinate')},"
                " and workers still use it",
                details=[f"{name} on {host}, segue {number}" for name, host, number in users],
                hint="stop those workers (SIGTERM) first; what they do goes on under this version",
            )
    connection.execute("DROP SCHEMA IF EXISTS segue_queue CASCADE")
    connection.execute("CREATE SCHEMA segue_queue")
    # Its own text, for the version that is installed.
    connection.execute(SchemaManager.get_schema())
    connection.execute(sql.SQL("COMMENT ON SCHEMA segue_queue IS {}").format(sql.Literal(_mark())))


_PRUNE = """
    WITH gone AS (
        DELETE FROM procrastinate_jobs AS job
         WHERE job.status NOT IN ('todo', 'doing')
            OR job.status = 'doing' AND NOT EXISTS (
                   SELECT FROM procrastinate_workers AS worker
                    WHERE worker.id = job.worker_id
                      AND worker.last_heartbeat > now() - make_interval(secs => %s))
            OR job.status = 'todo' AND NOT EXISTS (
                   SELECT FROM segue_store.migration_executions AS execution
                    WHERE execution.id = job.args ->> 'execution'
                      AND execution.status IN ('pending', 'waiting', 'running'))
               AND EXISTS (
                   SELECT FROM procrastinate_events AS event
                    WHERE event.job_id = job.id AND event.at < now() - interval '10 minutes')
    )
    DELETE FROM procrastinate_workers WHERE last_heartbeat < now() - interval '1 day'
"""


def _given(url: str) -> dict[str, Any]:
    """Return our connection settings without those that the URL has."""
    said = psycopg.conninfo.conninfo_to_dict(url)
    return {name: value for name, value in _SESSION.items() if name not in said}


def _missing(error: BaseException) -> bool:
    return isinstance(
        _cause(error), psycopg.errors.UndefinedTable | psycopg.errors.UndefinedObject | psycopg.errors.UndefinedFunction
    )


def _lost(error: BaseException) -> bool:
    return isinstance(_cause(error), psycopg.OperationalError | psycopg.InterfaceError)


def _cause(error: BaseException) -> BaseException:
    """Return what the driver said, where Procrastinate has wrapped it."""
    return error.__cause__ if isinstance(error, ConnectorException) and error.__cause__ else error


def _said(error: BaseException) -> str:
    """Return the first line of what the driver said; Procrastinate's own words say nothing."""
    found = _cause(error)
    return (str(found).strip().splitlines() or [type(found).__name__])[0]
