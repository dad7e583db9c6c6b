"""Writes what happens into the store: the execution, its steps, its log, its validations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from segue import clock
from segue.engine import journal
from segue.engine.events import Event, Watch
from segue.errors import FenceLost, InternalError, TargetUnreachable
from segue.model.lifecycles import ExecutionStatus, PlanStatus, StepRunStatus
from segue.model.urls import redact, redacted
from segue.ports import FORWARD
from segue.store.tables.executions import ExecutionRow, LogRow, StepRunRow
from segue.store.tables.plans import PlanRow, ValidationRow
from segue.store.transitions import advance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from segue.store import Store

T = TypeVar("T")

# How long a store that went away is waited for before a run stops; what it does on the target goes on meanwhile.
STORE_PATIENCE = 60.0
# Of the options that an execution is handed over with, those that say what a person has seen.
_SEEN = ("resolve", "accept_drift")


class Record:
    """The store's record of one execution. Every method is one transaction; a store that restarts is waited for.

    `seen` is the fence that the execution had when this process chose it. What moves the record raises FenceLost when
    another process has driven or ended the execution since: one that was stopped and wakes must not write over it.
    """

    def __init__(
        self, store: Store, execution: str, *, actor: str, owner: str, watch: Watch, seen: int | None = None
    ) -> None:
        self._store = store
        self.execution = execution
        self.actor = actor
        self._owner = owner
        self._fence = seen
        self._watch = watch
        self._missed: float | None = None

    def written(self, write: Callable[[Session, bool], T]) -> T:
        """Run a transaction on the store, again and again while the store is away; raise when it stays away.

        `write` is told whether it was tried before: then its commit may have taken place without our hearing of it.
        """
        deadline: float | None = None
        while True:
            try:
                with self._store.session() as session:
                    return write(session, deadline is not None)
            except TargetUnreachable:
                deadline = deadline or clock.ticks() + STORE_PATIENCE
                if clock.ticks() > deadline:
                    raise
                clock.sleep(0.5)

    # -- the execution

    def begin(self, *, direction: str, fence: int) -> None:
        """Say that this process drives the execution now, in this direction."""
        from sqlalchemy import func

        def write(session: Session, again: bool) -> None:
            row = self._row(session, lock=True)
            if again and row.fence == fence and row.lease_owner == self._owner:
                return
            if row.fence != self._fence or (direction == FORWARD and row.status in self._stopped_meanwhile(row)):
                raise self._lost(row)
            # What a person asked of the process before is still to be done, unless a person says how it goes on.
            kept = (
                row.handed_over
                and row.direction == direction
                and row.status in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING)
            )
            # A person has seen what was there until now, and not what comes: whoever takes over asks again.
            row.options = {name: word for name, word in row.options.items() if name not in _SEEN}
            columns: dict[str, Any] = {
                "direction": direction,
                "fence": fence,
                "lease_owner": self._owner,
                "heartbeat_at": func.clock_timestamp(),
                "pause_requested": kept and row.pause_requested,
                "cancel_requested": kept and row.cancel_requested,
                "waiting_for": None,
                "due_at": None,
                "error_details": None,
                "started_at": row.started_at or clock.now(),
            }
            if row.status == ExecutionStatus.RUNNING:
                for name, value in columns.items():
                    setattr(row, name, value)
            else:
                advance(
                    session, row, ExecutionStatus.RUNNING, actor=self.actor, detail={"direction": direction}, **columns
                )
            self._move_plan(session, row.plan, PlanStatus.EXECUTING)

        self.written(write)
        self._fence = fence
        journal.point("execution-running")

    def end(
        self,
        status: ExecutionStatus,
        *,
        error: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> None:
        """Say how the execution ended, for now or for good."""
        error = redacted(error)
        stops = (ExecutionStatus.CANCELLED, ExecutionStatus.PAUSED) if status is ExecutionStatus.WAITING else ()

        def write(session: Session, again: bool) -> None:
            row = self._row(session, lock=True)
            if again and row.status in (status, *stops) and row.lease_owner is None and row.fence == self._fence:
                return
            self.guard(session)
            to = status
            waits = status is ExecutionStatus.WAITING
            if waits and row.fenced_at is None and (row.cancel_requested or row.pause_requested):
                # It was asked for while the run was about to wait, and nobody is there to ask any more.
                to = ExecutionStatus.CANCELLED if row.cancel_requested else ExecutionStatus.PAUSED
                columns.update(waiting_for=None, due_at=None)
            now = clock.now()
            over = to in (ExecutionStatus.COMPLETED, ExecutionStatus.ROLLED_BACK, ExecutionStatus.CANCELLED)
            advance(
                session,
                row,
                to,
                actor=self.actor,
                detail={"error": dict(error)} if error else {},
                completed_at=now if over else row.completed_at,
                duration=round((now - (row.started_at or now)).total_seconds()),
                error_details=dict(error) if error else None,
                performance_metrics=dict(metrics) if metrics is not None else row.performance_metrics,
                lease_owner=None,
                current_step=None,
                pause_requested=row.pause_requested and to is ExecutionStatus.WAITING,
                cancel_requested=row.cancel_requested and to is ExecutionStatus.WAITING,
                **columns,
            )
            plan = {
                ExecutionStatus.COMPLETED: PlanStatus.COMPLETED,
                ExecutionStatus.FAILED: PlanStatus.FAILED,
                ExecutionStatus.ROLLED_BACK: PlanStatus.ROLLED_BACK,
                ExecutionStatus.CANCELLED: PlanStatus.FAILED,
            }.get(to)
            if plan is not None:
                self._move_plan(session, row.plan, plan)
            if status is ExecutionStatus.COMPLETED:
                row.environment.last_migration = row.plan.plan_name
                row.environment.schema_version = row.plan.version

        self.written(write)
        journal.point(f"execution-{status}")

    def requests(self) -> tuple[bool, bool]:
        """Return whether a pause or a cancel is asked for; leave a sign of life.

        While the store is away nobody can have asked: the work goes on, for as long as a store is waited for.
        """
        from sqlalchemy import func

        try:
            with self._store.session() as session:
                row = self.guard(session)
                row.heartbeat_at = func.clock_timestamp()
                asked = row.pause_requested, row.cancel_requested
        except TargetUnreachable:
            self._missed = self._missed or clock.ticks()
            if clock.ticks() - self._missed > STORE_PATIENCE:
                raise
            return False, False
        self._missed = None
        return asked

    def tuning(self) -> dict[str, Any]:
        """Return what people have set for the execution while it runs; raises TargetUnreachable at once."""
        with self._store.session() as session:
            return dict(self._row(session).tuning or {})

    def measured(self, metrics: Mapping[str, Any]) -> None:
        """Write how the run does so far, and leave a sign of life; nothing where another process drives it by now."""
        from sqlalchemy import func, update

        with self._store.session() as session:
            session.execute(
                update(ExecutionRow)
                .where(
                    ExecutionRow.id == self.execution,
                    ExecutionRow.lease_owner == self._owner,
                    ExecutionRow.fence == self._fence,
                )
                .values(performance_metrics=dict(metrics), heartbeat_at=func.clock_timestamp())
            )

    # -- steps

    def step_runs(self, direction: str) -> dict[int, StepRunRow]:
        """Return the runs of the steps in one direction, by step number."""
        from sqlalchemy import select

        def read(session: Session, again: bool) -> dict[int, StepRunRow]:
            rows = session.scalars(
                select(StepRunRow).where(StepRunRow.execution_id == self.execution, StepRunRow.direction == direction)
            )
            return {row.step_number: row for row in rows}

        return self.written(read)

    def began(self, number: int, direction: str) -> datetime:
        """Return when a step was begun for the first time."""
        return self.step_runs(direction)[number].started_at or clock.now()

    def open_steps(self, steps: list[tuple[int, str, str]], direction: str) -> None:
        """Make the rows of all steps of a direction that have none yet."""
        from segue.store.ids import new_id

        def write(session: Session, again: bool) -> None:
            from sqlalchemy import select

            there = set(
                session.scalars(
                    select(StepRunRow.step_number).where(
                        StepRunRow.execution_id == self.execution, StepRunRow.direction == direction
                    )
                )
            )
            for number, name, kind in steps:
                if number not in there:
                    session.add(
                        StepRunRow(
                            id=new_id(),
                            execution_id=self.execution,
                            step_number=number,
                            step_name=name,
                            kind=kind,
                            direction=direction,
                        )
                    )

        self.written(write)

    def step(
        self,
        number: int,
        direction: str,
        to: StepRunStatus,
        *,
        error: Mapping[str, Any] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Move a step's run; the execution's counters move with it, in the same transaction."""
        from sqlalchemy import func, select

        error = redacted(error)

        def write(session: Session, again: bool) -> None:
            row = self.guard(session)
            run = session.scalars(
                select(StepRunRow).where(
                    StepRunRow.execution_id == self.execution,
                    StepRunRow.step_number == number,
                    StepRunRow.direction == direction,
                )
            ).one()
            now = clock.now()
            columns: dict[str, Any] = {}
            if to is StepRunStatus.RUNNING:
                columns = {"attempt": run.attempt + 1, "started_at": run.started_at or now, "error": None}
            elif to is StepRunStatus.WAITING:
                columns = {"error": None}
            elif to is not StepRunStatus.UNDONE:
                started = run.started_at or now
                columns = {"completed_at": now, "seconds": (now - started).total_seconds()}
                columns["error"] = dict(error) if error else None
            if run.status == to:
                # A run that was killed left the step "running"; it is begun again.
                for name, value in columns.items():
                    setattr(run, name, value)
            else:
                advance(session, run, to, actor=self.actor, detail={"step": run.step_name}, **columns)
            if detail is not None:
                run.detail = {**(run.detail or {}), **detail}
            session.flush()
            row.current_step = run.step_name if to is StepRunStatus.RUNNING else row.current_step
            row.heartbeat_at = func.clock_timestamp()
            done = session.scalar(
                select(func.count())
                .select_from(StepRunRow)
                .where(
                    StepRunRow.execution_id == self.execution,
                    StepRunRow.direction == "forward",
                    StepRunRow.status.in_([StepRunStatus.COMPLETED, StepRunStatus.WARNED, StepRunStatus.SKIPPED]),
                )
            )
            row.steps_completed = done or 0

        self.written(write)
        journal.point(f"step-{to}")

    def keep(self, number: int, direction: str, detail: Mapping[str, Any]) -> None:
        """Add facts to what is kept of a step's run."""
        from sqlalchemy import select

        def write(session: Session, again: bool) -> None:
            self.guard(session)
            run = session.scalars(
                select(StepRunRow).where(
                    StepRunRow.execution_id == self.execution,
                    StepRunRow.step_number == number,
                    StepRunRow.direction == direction,
                )
            ).one()
            run.detail = {**(run.detail or {}), **detail}

        self.written(write)

    # -- words

    def log(self, action: str, message: str, *, step: str | None = None, level: str = "info", **detail: Any) -> None:
        """Write a line into the execution's log and tell whoever watches."""
        # A statement that fails is quoted, whatever it holds.
        message, detail = redact(message), redacted(detail)

        def write(session: Session, again: bool) -> None:
            session.add(
                LogRow(
                    execution_id=self.execution,
                    level=level,
                    action=action,
                    step_name=step,
                    message=message,
                    detail=detail or None,
                )
            )

        self.written(write)
        self.tell(action, message, step=step, level=level, **detail)

    def tell(self, action: str, message: str, *, step: str | None = None, level: str = "info", **detail: Any) -> None:
        """Tell whoever watches, without a line in the log."""
        self._watch(Event(action, message, step, level, detail, self.execution))

    def validation(self, verdict: Mapping[str, Any], *, step: str, tolerance: float, blocking: bool) -> None:
        """Keep what a validation found."""
        from sqlalchemy import JSON

        from segue.store.ids import new_id

        def kept(value: Any) -> Any:
            # An expected or found NULL is a result; the column's own null means that there is none.
            return JSON.NULL if value is None else value

        identity = new_id()

        def write(session: Session, again: bool) -> None:
            if again and session.get(ValidationRow, identity) is not None:
                return
            session.add(
                ValidationRow(
                    id=identity,
                    plan_id=self._row(session).plan_id,
                    execution_id=self.execution,
                    step_name=step,
                    query=verdict["query"],
                    expected=kept(verdict["expected"]),
                    actual=kept(verdict["actual"]),
                    tolerance=tolerance,
                    passed=verdict["passed"],
                    blocking=blocking,
                    error_message=verdict["error"],
                    seconds=verdict["seconds"],
                )
            )

        self.written(write)

    # -- parts

    def guard(self, session: Session) -> ExecutionRow:
        """Return the execution's row, locked for this transaction; raise FenceLost when it is not ours any more."""
        row = self._row(session, lock=True)
        if row.lease_owner != self._owner or row.fence != self._fence:
            raise self._lost(row)
        return row

    def _stopped_meanwhile(self, row: ExecutionRow) -> tuple[str, ...]:
        """Return the statuses that somebody gave it since it was chosen: a person goes on with what is paused."""
        over = (ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED, ExecutionStatus.ROLLED_BACK)
        return (*over, ExecutionStatus.PAUSED, ExecutionStatus.FAILED) if row.handed_over else over

    def _lost(self, row: ExecutionRow) -> FenceLost:
        by = f'"{row.lease_owner}" drives it' if row.lease_owner else f"it is {row.status}"
        return FenceLost(
            f"execution {row.id} is not this process's any more: {by}; this process stops",
            hint="`segue status` shows how it stands",
        )

    def _row(self, session: Session, *, lock: bool = False) -> ExecutionRow:
        # Without a lock on the key, which every new line of the log refers to.
        row = session.get(ExecutionRow, self.execution, with_for_update={"key_share": True} if lock else None)
        if row is None:
            raise InternalError(f'execution "{self.execution}" is not in the store')
        return row

    def _move_plan(self, session: Session, plan: PlanRow, to: PlanStatus) -> None:
        """Move the plan's own status, which speaks of all environments together; another one may be ahead."""
        from segue.model.lifecycles import PLAN

        if plan.status == to or not PLAN.allows(plan.status, to):
            return
        now = clock.now()
        columns: dict[str, Any] = {
            PlanStatus.EXECUTING: {"executed_at": now},
            PlanStatus.COMPLETED: {"completed_at": now},
        }.get(to, {})
        advance(session, plan, to, actor=self.actor, **columns)
