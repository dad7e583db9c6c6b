"""Workers: processes that take executions and copy slots from the store, on any number of machines."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segue import __version__, clock
from segue.engine.control import MustWait
from segue.errors import Busy, ExitCode, FenceLost, Retry, SegueError, TargetUnreachable
from segue.model.lifecycles import ExecutionStatus, WorkerStatus
from segue.model.vocabulary import WorkQueue
from segue.services import executions, limits, watching

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from segue.engine.events import Event, Watch
    from segue.ports import Parts
    from segue.settings import Settings
    from segue.store import Store

log = logging.getLogger(__name__)

#: How often a worker gives a sign of life, and looks for work that nobody was nudged about, in seconds.
HEARTBEAT_SECONDS = 2.0
SWEEP_SECONDS = 2.0
#: Without a sign of life for this long a worker's work counts no more, and it is shown as dead.
SILENT_AFTER = watching.SILENT_AFTER
#: And after this long it is marked as stopped.
DEAD_AFTER = timedelta(seconds=30)
# How long workers that have stopped are remembered; the ledger knows of them for ever.
KEPT = timedelta(days=7)
_PRUNE_SECONDS = 30.0
# How often it is looked whether the old tables of an online change want something.
_UPKEEP_SECONDS = 5.0
# When an execution is looked at again whose target somebody else holds, or cannot be reached. Jittered.
_AGAIN_SECONDS = 10.0
_SLOT_AGAIN_SECONDS = 2.0
# Of how many due executions a sweep chooses: more than wait for one busy target.
_DUE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A worker as a person asks for it: so many executions and, apart from them, so many copy slots at a time.

    With `once` it ends when nothing is due any more.
    """

    name: str = ""
    queues: Sequence[WorkQueue] = tuple(WorkQueue)
    concurrency: int = 4
    once: bool = False


@dataclass(slots=True)
class Counts:
    """What this process has seen: how jobs ended by queue and outcome, and when it last reached the store."""

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    beaten: float = 0.0


class _NoRoomError(Exception):
    """A limit is reached, or another execution works on the same target."""


class Worker:
    """One process that takes work until it is told to stop.

    Procrastinate brings nudges in the main thread; the work is done in threads; one thread says that the process is
    alive, one looks for work that nobody was nudged about.
    """

    def __init__(self, store: Store, settings: Settings, parts: Parts, wanted: Wanted) -> None:
        from sqlalchemy.orm import configure_mappers

        import segue.store.tables  # noqa: F401 - all of them, for the next line
        from segue.engine.queue import Queue

        # Its threads would do it at the same moment, with half of the tables known.
        configure_mappers()
        self.store = store
        self.wanted = wanted
        self.name = wanted.name or f"{socket.gethostname()}:{os.getpid()}"
        self.counts = Counts()
        self._settings = settings
        self._parts = parts
        self._id = ""
        self.queue = Queue(store.url)
        #: Set when this process takes nothing new and gives away what it can.
        self._drain = threading.Event()
        #: Set when its threads are to end.
        self._over = threading.Event()
        self._wake = threading.Event()
        #: Set once the old tables of online changes have been looked after.
        self._kept = threading.Event()
        self._leave: Any = None
        self._mine = threading.RLock()
        self._doing: list[dict[str, Any]] = []
        self._away = False

    def run(self) -> int:
        """Work until SIGTERM or SIGINT, or until nothing is due; return the exit code.

        Raises ConfigurationError while workers of another version use the queue.
        """
        with self.queue as queue:
            with self.store.session() as session:
                self._register(session)
            try:
                # Said at once when it cannot be; a store that just went away is waited for.
                with contextlib.suppress(TargetUnreachable):
                    queue.prepare(worker=self._id)
                log.info(
                    "worker %s takes %s, %d at a time",
                    self.name,
                    " and ".join(self.wanted.queues),
                    self.wanted.concurrency,
                    extra={"action": "worker-started"},
                )
                self._work()
            finally:
                self._deregister()
        log.info("worker %s has stopped", self.name, extra={"action": "worker-stopped"})
        return ExitCode.DONE

    def stop(self) -> None:
        """Take nothing new, give away what can be given away, and end when the rest is done."""
        self._drain.set()
        self._wake.set()
        if self._leave is not None:
            self._leave()

    def healthy(self) -> bool:
        """Return whether the store was reached within the time after which others take this worker for dead."""
        return clock.ticks() - self.counts.beaten < SILENT_AFTER.total_seconds()

    # -- the main thread

    def _work(self) -> None:
        import asyncio

        threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in (
                (self._beat, "segue heartbeat"),
                (self._sweep, "segue sweep"),
                (self._keep, "segue upkeep"),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            asyncio.run(self._serve())
        finally:
            self._over.set()
            self._wake.set()
            for thread in threads:
                thread.join(timeout=10)

    async def _serve(self) -> None:
        import asyncio

        from segue.engine import queue

        loop = asyncio.get_running_loop()
        leaving = asyncio.Event()
        self._leave = lambda: loop.call_soon_threadsafe(leaving.set)
        if self._drain.is_set():
            return
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._signalled)
        concurrency = dict.fromkeys(self.wanted.queues, self.wanted.concurrency)
        # asyncio's own executor has too few threads: work that waits for a database would keep other work out.
        with ThreadPoolExecutor(sum(concurrency.values()), thread_name_prefix="segue work") as pool:

            async def work(name: WorkQueue, words: Mapping[str, Any]) -> None:
                await loop.run_in_executor(pool, self._do, name, words)

            await queue.serve(
                self.store.url,
                concurrency=concurrency,
                work=work,
                prepare=lambda: self.queue.prepare(worker=self._id),
                leaving=leaving,
            )
        self._leave = None

    def _signalled(self) -> None:
        if self._drain.is_set():
            log.warning("stopped at once, with work under way", extra={"action": "worker-ended"})
            logging.shutdown()
            sys.stdout.flush()
            os._exit(ExitCode.INTERRUPTED)
        doing = len(self._doing)
        log.info(
            "stopping: nothing new is taken%s (again to stop at once)",
            f", {doing} of work come to their next safe point" if doing else "",
            extra={"action": "worker-draining"},
        )
        self.stop()

    # -- a job

    def _do(self, queue: WorkQueue, words: Mapping[str, Any]) -> None:
        """Do what a nudge says, in a thread of the pool; nothing is raised."""
        try:
            outcome = self._execution(words) if queue is WorkQueue.EXECUTIONS else self._slot(words)
        except Exception:
            # Of ours, or of a library: the worker lives on, and the execution is taken again when it falls silent.
            log.exception("an unexpected error", extra={"action": "job-error", **_named(words)})
            outcome = "error"
        if outcome:
            self.counts.jobs[str(queue), outcome] += 1

    def _execution(self, words: Mapping[str, Any]) -> str:
        execution = str(words["execution"])
        try:
            entry = self._claim(WorkQueue.EXECUTIONS, execution)
        except _NoRoomError as error:
            # It is due for as long as that lasts: the sweep nudges when there is room.
            if str(error):
                self._postpone(execution, Busy(str(error)))
            return "no-room"
        except SegueError as error:
            log.warning("%s", error, extra={"action": "claim-failed", **_named(words)})
            return "no-room"
        if entry is None:
            return ""
        extra = {"execution": execution, "plan": entry["plan"], "environment": entry["environment"]}
        outcome, told = "failed", threading.Event()
        try:
            done = executions.drive(
                self.store, self._settings, self._parts, execution, self._teller(extra, told), drain=self._drain
            )
            outcome = "" if done.nothing_to_do else "ended"
        except MustWait as wait:
            outcome = "drained" if self._drain.is_set() and wait.kind == "worker" else "waits"
            log.info("%s", wait, extra={"action": "execution-waits", "hint": wait.hint, **extra})
        except FenceLost as error:
            outcome = "lost"
            log.warning("%s", error, extra={"action": "execution-lost", **extra})
        except Busy as error:
            outcome = "busy"
            log.info("%s", error, extra={"action": "execution-busy", **extra})
            self._postpone(execution, error)
        except TargetUnreachable as error:
            outcome = "waits"
            log.warning("%s", error, extra={"action": "target-away", "code": error.code, **extra})
            self._postpone(execution, error)
        except SegueError as error:
            log.error("%s", error, extra={"action": "execution-failed", "code": error.code, **extra})
            self._postpone(execution, error)
        finally:
            self._release(entry)
            # One that only looked whether it may begin has kept nobody from anything.
            if told.is_set():
                self._nudge_next(execution, again=outcome == "drained")
        return outcome

    def _slot(self, words: Mapping[str, Any]) -> str:
        from segue.services import slots

        execution, step, direction = str(words["execution"]), str(words["step"]), str(words["direction"])
        try:
            entry = self._claim(WorkQueue.SLOTS, execution, step)
        except _NoRoomError:
            self.queue.again(WorkQueue.SLOTS, words, _SLOT_AGAIN_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311
            return "no-room"
        except SegueError as error:
            # Whoever drives the step asks again when it needs more hands.
            log.warning("%s", error, extra={"action": "claim-failed", **_named(words)})
            return "no-room"
        if entry is None:
            return ""
        extra = {"execution": execution, "plan": entry["plan"], "environment": entry["environment"]}
        try:
            finished = slots.help(
                self.store,
                self._settings,
                self._parts,
                execution,
                step,
                direction,
                # Two workers may have been given one name: of one that is silent the other would keep the batches.
                owner=f"{self.name} {self._id[:8]}",
                drain=self._drain,
                watch=self._teller(extra, threading.Event()),
            )
        except SegueError as error:
            log.warning("%s", error, extra={"action": "slot-failed", "step": step, "code": error.code, **extra})
            return "failed"
        finally:
            self._release(entry)
        return "ended" if finished else ""

    def _teller(self, extra: Mapping[str, Any], told: threading.Event) -> Watch:
        """Return what writes into this process's log what happens to an execution; `told` is set by the first of it."""

        def tell(event: Event) -> None:
            told.set()
            level = {"debug": logging.DEBUG, "warning": logging.WARNING, "error": logging.ERROR}
            log.log(
                logging.DEBUG if event.action == "progress" else level.get(event.level, logging.INFO),
                "%s",
                event.message,
                extra={"action": event.action, "step": event.step, "detail": dict(event.detail), **extra},
            )

        return tell

    def _postpone(self, execution: str, error: SegueError) -> None:
        """Write down why an execution could not even begin: to be tried again soon, or failed where that is no use.

        Nothing where it was recorded already.
        """
        from sqlalchemy import func, select

        from segue.store.tables.executions import ExecutionRow
        from segue.store.transitions import advance

        wait = MustWait("target", error.message, hint="it is tried again by itself")
        seconds = timedelta(seconds=_AGAIN_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
        with contextlib.suppress(SegueError), self.store.session() as session:
            row = session.get(ExecutionRow, execution, with_for_update={"key_share": True})
            if row is None or row.status != ExecutionStatus.WAITING or row.due_at is None:
                return
            if row.due_at > (session.scalar(select(func.clock_timestamp())) or row.due_at):
                return
            if isinstance(error, Busy) or error.retry is not Retry.NEVER:
                row.waiting_for = wait.as_waiting()
                row.due_at = func.clock_timestamp() + seconds
            else:
                advance(
                    session,
                    row,
                    ExecutionStatus.FAILED,
                    actor=self._settings.user,
                    error_details=error.as_json(),
                    waiting_for=None,
                    due_at=None,
                )

    def _nudge_next(self, execution: str, *, again: bool) -> None:
        """Have workers look at what waited for this execution, and at the first of what waited for its target."""
        from sqlalchemy import select

        from segue.store.tables.executions import ExecutionRow

        named = [execution] if again else []
        waiting = (
            select(ExecutionRow.id)
            .where(
                ExecutionRow.handed_over,
                ExecutionRow.status.in_([ExecutionStatus.PENDING, ExecutionStatus.WAITING]),
                ExecutionRow.id != execution,
            )
            .order_by(ExecutionRow.due_at)
        )
        with contextlib.suppress(SegueError), self.store.session() as session:
            row = session.get(ExecutionRow, execution)
            if row is not None:
                named += session.scalars(waiting.where(ExecutionRow.after_execution == execution))
                kind = ExecutionRow.waiting_for["kind"].astext
                named += session.scalars(
                    waiting.where(
                        ExecutionRow.environment_id == row.environment_id, kind.in_(["target", "worker"])
                    ).limit(1)
                )
        self.queue.nudge_executions(named)
        self._wake.set()

    # -- what this process does, for everybody to see

    def _claim(self, queue: WorkQueue, execution: str, step: str | None = None) -> dict[str, Any] | None:
        """Say that this process works on something; None when it is not there any more.

        Raises _NoRoomError when a limit is reached. What counts are the rows of workers that are alive: what a killed
        one did is free again when it has been silent for long enough, without anybody giving it back.
        """
        with self._mine:
            with self.store.session() as session:
                entry = self._admitted(session, queue, execution, step)
                if entry is not None:
                    self._write(session, [*self._doing, entry])
            if entry is not None:
                self._doing.append(entry)
            return entry

    def _admitted(self, session: Session, queue: WorkQueue, execution: str, step: str | None) -> dict[str, Any] | None:
        from sqlalchemy import func, select

        from segue.store.tables.environments import EnvironmentRow
        from segue.store.tables.executions import ExecutionRow
        from segue.store.tables.plans import PlanRow

        limits.hold(session)
        found = session.execute(
            select(
                PlanRow.plan_name,
                EnvironmentRow.name,
                EnvironmentRow.max_slots,
                ExecutionRow.status,
                ExecutionRow.heartbeat_at,
                func.clock_timestamp(),
            ).where(
                ExecutionRow.id == execution,
                PlanRow.id == ExecutionRow.plan_id,
                EnvironmentRow.id == ExecutionRow.environment_id,
            )
        ).one_or_none()
        if found is None:
            return None
        plan, environment, most_there, status, beaten, now = found
        same = [entry for entry in [*self._doing, *_at_work(session, but=self._id)] if entry["queue"] == queue]
        here = [entry for entry in same if entry["environment"] == environment]
        most = limits.listed(session)[queue]
        if queue is WorkQueue.EXECUTIONS:
            if any(entry["execution"] == execution for entry in self._doing):
                return None
            for entry in here:
                if entry["execution"] != execution:
                    raise _NoRoomError(f'execution {entry["execution"]} of "{entry["plan"]}" works on "{environment}"')
                # A claim counts while its execution shows life: its worker may have been killed, or hang.
                since = datetime.fromisoformat(entry["since"])
                if now - max(since, beaten or since) < SILENT_AFTER:
                    return None
            same = [entry for entry in same if entry["execution"] != execution]
        elif status != ExecutionStatus.RUNNING:
            return None
        elif most_there is not None and len(here) >= most_there:
            raise _NoRoomError
        if most is not None and len(same) >= most:
            raise _NoRoomError
        return {
            "queue": str(queue),
            "execution": execution,
            "plan": plan,
            "environment": environment,
            "step": step,
            "since": now.isoformat(),
        }

    def _release(self, entry: dict[str, Any]) -> None:
        with self._mine:
            self._doing = [other for other in self._doing if other is not entry]
            try:
                with self.store.session() as session:
                    self._write(session, self._doing)
            except SegueError:
                return  # the next heartbeat says it

    def _write(self, session: Session, doing: list[dict[str, Any]]) -> None:
        """Write a sign of life and what this process does; register anew where others took it for dead."""
        from sqlalchemy import func, update

        from segue.store.tables.workers import WorkerRow

        written = session.execute(
            update(WorkerRow)
            .where(WorkerRow.id == self._id, WorkerRow.status != WorkerStatus.STOPPED)
            .values(heartbeat_at=func.clock_timestamp(), doing=doing)
            .returning(WorkerRow.id)
        ).one_or_none()
        if written is None:
            log.warning("this worker was taken for dead; it goes on under a new entry", extra={"action": "worker-back"})
            self._register(session, doing)

    def _register(self, session: Session, doing: Sequence[Mapping[str, Any]] = ()) -> None:
        from segue.store import ledger
        from segue.store.tables.workers import WorkerRow

        row = WorkerRow(
            name=self.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            queues=[str(queue) for queue in self.wanted.queues],
            concurrency=self.wanted.concurrency,
            doing=list(doing),
        )
        session.add(row)
        session.flush()
        ledger.append(
            session,
            actor=self._settings.user,
            action="running",
            subject="workers",
            subject_id=row.id,
            detail={"name": row.name, "host": row.host, "pid": row.pid, "version": row.version, "queues": row.queues},
        )
        self._id = row.id
        self.counts.beaten = clock.ticks()

    def _deregister(self) -> None:
        self._move(WorkerStatus.STOPPED)

    def _move(self, to: WorkerStatus) -> bool:
        """Change this worker's status and return whether that was written; others will find a silent worker dead."""
        from sqlalchemy import func

        from segue.store.tables.workers import WorkerRow
        from segue.store.transitions import advance

        columns: dict[str, Any] = {}
        if to is WorkerStatus.STOPPED:
            columns = {"stopped_at": func.clock_timestamp(), "doing": []}
        try:
            with self.store.session() as session:
                row = session.get(WorkerRow, self._id)
                if row is not None and row.status not in (to, WorkerStatus.STOPPED):
                    advance(session, row, to, actor=self._settings.user, detail={"name": row.name}, **columns)
        except SegueError as error:
            log.warning("the status %s was not written: %s", to, error, extra={"action": "store-away"})
            return False
        return True

    # -- beside the work

    def _beat(self) -> None:
        drained = False
        while not self._over.is_set():
            try:
                with self._mine, self.store.session() as session:
                    self._write(session, self._doing)
            except SegueError as error:
                if not self._away:
                    log.warning("the store is away: %s", error, extra={"action": "store-away"})
                self._away = True
            except Exception:
                log.exception("the heartbeat failed", extra={"action": "heartbeat-failed"})
            else:
                self.counts.beaten = clock.ticks()
                if self._away:
                    log.info("the store is back", extra={"action": "store-back"})
                self._away = False
                if self._drain.is_set() and not drained:
                    drained = self._move(WorkerStatus.DRAINING)
            # A stop that was asked for is written at once.
            (self._over if self._drain.is_set() else self._drain).wait(HEARTBEAT_SECONDS)

    def _sweep(self) -> None:
        pruned = 0.0
        while not self._over.is_set():
            try:
                if not self._drain.is_set():
                    self._look()
                if clock.ticks() - pruned > _PRUNE_SECONDS:
                    pruned = clock.ticks()
                    self._prune()
            except SegueError:
                pass  # the heartbeat says that the store is away
            except Exception:
                log.exception("the sweep failed", extra={"action": "sweep-failed"})
            self._wake.wait(SWEEP_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
            self._wake.clear()

    def _keep(self) -> None:
        """Look after reversible online changes: what can be waited for, in a thread that keeps nothing else waiting."""
        from segue.services import upkeep

        while WorkQueue.EXECUTIONS in self.wanted.queues and not self._drain.is_set():
            try:
                upkeep.look(self.store, self._settings, self._parts, self._drain)
            except SegueError:
                pass  # the heartbeat says that the store is away
            except Exception:
                log.exception("the upkeep failed", extra={"action": "upkeep-failed"})
            self._kept.set()
            self._drain.wait(_UPKEEP_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
        self._kept.set()

    def _look(self) -> None:
        """Nudge what is due, as much of it as there is room for; end a worker that was to work once."""
        with self.store.session() as session:
            due = executions.due(session, limit=_DUE_AT_ONCE)
            fitting = self._fitting(session, due) if due else []
        self.queue.nudge_executions(fitting)
        idle = not due and not self._doing and self._kept.is_set()
        if self.wanted.once and idle and self.queue.empty(self.wanted.queues):
            self.stop()

    def _fitting(self, session: Session, due: Sequence[str]) -> list[str]:
        """Return those of the executions that can begin now: one for a target, and no more than the limit allows."""
        from sqlalchemy import select

        from segue.store.tables.environments import EnvironmentRow
        from segue.store.tables.executions import ExecutionRow

        environments = dict(
            session.execute(
                select(ExecutionRow.id, EnvironmentRow.name)
                .join(EnvironmentRow, EnvironmentRow.id == ExecutionRow.environment_id)
                .where(ExecutionRow.id.in_(due))
            ).all()
        )
        at_work = [entry for entry in _at_work(session) if entry["queue"] == WorkQueue.EXECUTIONS]
        driver = {entry["environment"]: entry["execution"] for entry in at_work}
        mine = {entry["execution"] for entry in self._doing}
        fitting: dict[str, str] = {}
        for name in due:
            place = environments[name]
            if name not in mine and driver.get(place, name) == name:
                fitting.setdefault(place, name)
        most = limits.listed(session)[WorkQueue.EXECUTIONS]
        found = list(fitting.values())
        if most is None:
            return found
        # Those that a dead worker drove are counted already.
        again = [name for name in found if name in driver.values()]
        return again + [name for name in found if name not in again][: max(0, most - len(at_work))]

    def _prune(self) -> None:
        """Mark workers that died as stopped, and forget those that stopped long ago."""
        from sqlalchemy import delete, func, select

        from segue.store.tables.workers import WorkerRow
        from segue.store.transitions import advance

        now = func.clock_timestamp()
        with self.store.session() as session:
            silent = session.scalars(
                select(WorkerRow).where(
                    WorkerRow.status != WorkerStatus.STOPPED,
                    WorkerRow.heartbeat_at < now - DEAD_AFTER,
                    WorkerRow.id != self._id,
                )
            ).all()
        for row in silent:
            # Another worker may be quicker, or it woke up.
            with contextlib.suppress(Busy), self.store.session() as session:
                again = session.get(WorkerRow, row.id, with_for_update={"skip_locked": True})
                if again is not None and again.heartbeat_at == row.heartbeat_at and again.status == row.status:
                    advance(
                        session,
                        again,
                        WorkerStatus.STOPPED,
                        actor=self._settings.user,
                        detail={"name": again.name, "because": "it gave no sign of life", "doing": again.doing},
                        stopped_at=now,
                        doing=[],
                    )
                    log.warning("worker %s on %s is dead", again.name, again.host, extra={"action": "worker-dead"})
        with self.store.session() as session:
            session.execute(
                delete(WorkerRow).where(
                    WorkerRow.status == WorkerStatus.STOPPED, func.coalesce(WorkerRow.stopped_at, now) < now - KEPT
                )
            )
        self.queue.prune()


# -- looking


def listed(session: Session) -> list[dict[str, Any]]:
    """Return the workers that have not stopped, as JSON values, with what they do.

    `state` is running, draining or dead; `silent` the seconds since the last sign of life.
    """
    from sqlalchemy import func, select

    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.workers import WorkerRow

    now = session.scalar(select(func.clock_timestamp()))
    rows = session.scalars(
        select(WorkerRow).where(WorkerRow.status != WorkerStatus.STOPPED).order_by(WorkerRow.name, WorkerRow.started_at)
    ).all()
    named = {entry["execution"] for row in rows for entry in row.doing}
    steps = dict(
        session.execute(select(ExecutionRow.id, ExecutionRow.current_step).where(ExecutionRow.id.in_(named))).all()
    )
    return [
        {
            "id": row.id,
            "name": row.name,
            "host": row.host,
            "pid": row.pid,
            "version": row.version,
            "queues": row.queues,
            "concurrency": row.concurrency,
            "state": "dead" if now is not None and now - row.heartbeat_at >= SILENT_AFTER else row.status,
            "started_at": row.started_at,
            "heartbeat_at": row.heartbeat_at,
            "silent": round((now - row.heartbeat_at).total_seconds(), 1) if now is not None else None,
            "doing": [{**entry, "step": entry["step"] or steps.get(entry["execution"])} for entry in row.doing],
        }
        for row in rows
    ]


def _alive() -> ColumnElement[bool]:
    from sqlalchemy import and_, func

    from segue.store.tables.workers import WorkerRow

    return and_(
        WorkerRow.status != WorkerStatus.STOPPED, WorkerRow.heartbeat_at > func.clock_timestamp() - SILENT_AFTER
    )


def _at_work(session: Session, *, but: str = "") -> list[dict[str, Any]]:
    """Return what the workers that are alive do, without one of them."""
    from sqlalchemy import select

    from segue.store.tables.workers import WorkerRow

    found = session.scalars(select(WorkerRow.doing).where(_alive(), WorkerRow.id != but))
    return [entry for doing in found for entry in doing]


def _named(words: Mapping[str, Any]) -> dict[str, Any]:
    return {name: words[name] for name in ("execution", "step") if name in words}
