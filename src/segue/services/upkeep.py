"""Looks after online changes that nobody drives.

Of reversible ones the old tables are kept current, and the way back is ended when its time is over. Of unfinished ones
that follow the application through a replication slot, the slot is given up before the server's disk is full.

The record of a change says, under `kept`, when that was done last and why not, and when it is to be done next: several
workers share it.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.errors import Busy, Retry, SegueError
from segue.model.lifecycles import ExecutionStatus, OnlineChangePhase
from segue.model.online import WAL_LIMIT
from segue.model.quantities import size
from segue.model.vocabulary import OnlineStrategy
from segue.services import changes, checks, environments, tuning, watching

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from segue.model.online import Kept
    from segue.ports import Database, Parts
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.online import OnlineChangeRow

log = logging.getLogger(__name__)

#: How often each change is looked after, and how soon again while much waits for it.
EVERY = timedelta(seconds=20)
SOON = timedelta(seconds=2)
#: And when that was not possible, or the end of its way back did not succeed.
AGAIN = timedelta(seconds=60)
#: A look that began so long ago ended with its process.
CLAIMED = timedelta(minutes=5)
#: For how long at a time writes are brought to the old tables of one change.
SECONDS = 5.0
#: A change in one of these phases reads its slot, or ought to.
FOLLOWING = (
    OnlineChangePhase.CAPTURING,
    OnlineChangePhase.COPYING_DATA,
    OnlineChangePhase.DRAINING,
    OnlineChangePhase.VERIFYING,
    OnlineChangePhase.SWAPPING,
)
#: The share of the time that one session works, at most.
DUTY = 0.5


@dataclass(frozen=True, slots=True)
class _Turn:
    """A change that this process looks after now."""

    name: str
    table: str
    execution: str
    step: str
    environment: str
    url: str
    over: bool
    follows: bool
    document: dict[str, Any]


def look(store: Store, settings: Settings, parts: Parts, stop: threading.Event) -> int:
    """Look once after each reversible change whose turn it is; return for how many that was.

    What goes wrong with one is kept in its record and logged; only an error of the store is raised. `stop` makes it
    end after the running transaction.
    """
    done = 0
    while not stop.is_set() and (turn := _claimed(store, settings)) is not None:
        done += 1
        extra = {"execution": turn.execution, "environment": turn.environment, "action": "way-back"}
        try:
            if turn.follows:
                _hold(store, parts, turn, extra)
                continue
            if turn.over:
                _end(store, settings, parts, turn, extra)
                continue
            kept = _keep(store, parts, turn, stop)
        except SegueError as error:
            quiet = isinstance(error, Busy) or error.retry is not Retry.NEVER
            log.log(logging.INFO if quiet else logging.WARNING, "%s: %s", turn.table, error, extra=extra)
            _note(store, turn.name, AGAIN, why=error.message)
        else:
            _told(store, turn, kept, extra)
    return done


def _claimed(store: Store, settings: Settings) -> _Turn | None:
    """Take the next change whose turn it is; None when there is none."""
    from sqlalchemy import and_, or_, select

    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.online import OnlineChangeRow

    query = (
        select(OnlineChangeRow)
        .join(ExecutionRow, ExecutionRow.id == OnlineChangeRow.execution_id)
        .where(
            or_(
                OnlineChangeRow.phase == OnlineChangePhase.REVERSIBLE,
                and_(OnlineChangeRow.strategy == OnlineStrategy.GHOST, OnlineChangeRow.phase.in_(FOLLOWING)),
            )
        )
        .order_by(OnlineChangeRow.started_at)
        .with_for_update(of=OnlineChangeRow, skip_locked=True)
    )
    with store.session() as session:
        now = watching.now(session)
        for row in session.scalars(query):
            kept = (row.performance_metrics or {}).get("kept") or {}
            if kept.get("next") and datetime.fromisoformat(kept["next"]) > now:
                continue
            execution = session.get_one(ExecutionRow, row.execution_id)
            if execution.status == ExecutionStatus.RUNNING and watching.driven(execution):
                continue
            since = checks.since(execution.environment)
            if since is not None and (execution.started_at or since) < since:
                continue  # it is on another database, to which the environment led before
            try:
                _, url = environments.resolve(session, settings, execution.environment.name)
            except SegueError as error:
                _set(row, now + AGAIN, why=error.message)
                continue
            _set(row, now + CLAIMED)
            return _Turn(
                row.change_name,
                row.table_name,
                execution.id,
                str(row.step_name),
                execution.environment.name,
                url,
                changes.over(session, row) and not _busy(session, execution),
                row.phase != OnlineChangePhase.REVERSIBLE,
                dict(execution.plan.document),
            )
    return None


def _busy(session: Any, execution: Any) -> bool:
    """Return whether something is driven on an execution's environment: ending a way back takes the lease."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    others = session.scalars(
        select(ExecutionRow).where(
            ExecutionRow.environment_id == execution.environment_id, ExecutionRow.status == ExecutionStatus.RUNNING
        )
    )
    return any(watching.driven(other) for other in others)


def _keep(store: Store, parts: Parts, turn: _Turn, stop: threading.Event) -> Kept | None:
    from segue.model.online import Kept

    database = parts.database(turn.url)
    waits = database.online_waiting(turn.url, execution=turn.execution, step=turn.step, most=1)
    if not waits:
        return None if waits is None else Kept()
    with _politely(store, database, turn, stop) as rest:
        if not rest(0.0):
            return Kept(left=True)
        return database.online_keep(turn.url, execution=turn.execution, step=turn.step, seconds=SECONDS, rest=rest)


@contextmanager
def _politely(
    store: Store, database: Database, turn: _Turn, stop: threading.Event
) -> Iterator[Callable[[float], bool]]:
    """Give what waits between two transactions, for as long as the environment's limits ask for."""
    gauge = database.gauge(turn.url)
    pacing = tuning.pacing(store, turn.execution, tuning.of_plan(turn.document), ())

    def rest(worked: float) -> bool:
        pacing.look()
        pace = pacing.pace()
        if pace.duty <= 0:
            log.info("%s: writes wait for the old table: %s", turn.table, pace.reason, extra={"action": "way-back"})
            return False
        return not stop.wait(min(5.0, worked * (1 / min(DUTY, pace.duty) - 1)))

    try:
        pacing.begin(gauge)
        yield rest
    finally:
        pacing.end()
        gauge.close()


def _told(store: Store, turn: _Turn, kept: Kept | None, extra: dict[str, Any]) -> None:
    """Write down how far a change's old tables are."""
    if kept is None:
        _note(store, turn.name, AGAIN, why="the target knows of no way back of this change")
        return
    if kept.held:
        _note(store, turn.name, EVERY, why="somebody works on this database", keys=kept.keys)
        return
    if kept.keys:
        log.info("%s: %d rows brought to the old table", turn.table, kept.keys, extra=extra)
    _note(store, turn.name, SOON if kept.left else EVERY, keys=kept.keys, current=not kept.left)


def _hold(store: Store, parts: Parts, turn: _Turn, extra: dict[str, Any]) -> None:
    """Write down what the server keeps back of its log for a change, and give that up beyond the limit."""
    steps: list[dict[str, Any]] = turn.document.get("steps") or []
    step = next((step for step in steps if step.get("name") == turn.step), {})
    held = parts.database(turn.url).online_retained(
        turn.url, execution=turn.execution, step=turn.step, limit=int(step.get("wal_limit") or WAL_LIMIT)
    )
    if held is not None and held.given_up and held.bytes:
        log.warning(
            "%s: %s of the server's log were kept back while nobody drove the change, more than %s: the replication "
            "slot was given up, and the copy begins anew when the change goes on",
            *(turn.table, size(held.bytes), size(held.limit)),
            extra=extra,
        )
    with store.session() as session:
        row = changes.find(session, turn.name)
        if row.phase in FOLLOWING:
            _set(row, watching.now(session) + EVERY)
            row.performance_metrics = {
                **(row.performance_metrics or {}),
                "wal": asdict(held) if held is not None else None,
            }


def _end(store: Store, settings: Settings, parts: Parts, turn: _Turn, extra: dict[str, Any]) -> None:
    """End the way back of a change whose time is over, as `segue change cleanup` does."""
    (done,) = changes.cleanup(
        store, settings, parts, [turn.name], lambda words: log.info("%s: %s", turn.table, words, extra=extra)
    )
    if done.error is not None:
        quiet = isinstance(done.error, Busy) or done.error.retry is not Retry.NEVER
        words = "%s: what was kept for the way back is not dropped yet: %s"
        log.log(logging.INFO if quiet else logging.WARNING, words, turn.table, done.error, extra=extra)
        _note(store, turn.name, AGAIN, why=done.error.message)
        return
    log.info("%s: the way back is over, and what was kept for it is dropped", turn.table, extra=extra)


def _note(
    store: Store, name: str, after: timedelta, *, why: str | None = None, keys: int = 0, current: bool = False
) -> None:
    with store.session() as session:
        row = changes.find(session, name)
        if row.phase not in (OnlineChangePhase.REVERSIBLE, *FOLLOWING):
            return
        now = watching.now(session)
        _set(row, now + after, why=why, keys=keys)
        if current:
            for shadow in row.shadows:
                shadow.last_sync_at = clock.now()


def _set(row: OnlineChangeRow, due: datetime, *, why: str | None = None, keys: int = 0) -> None:
    metrics = dict(row.performance_metrics or {})
    before = metrics.get("kept") or {}
    metrics["kept"] = {"rows": before.get("rows", 0) + keys, "why": why, "next": due.isoformat()}
    row.performance_metrics = metrics
