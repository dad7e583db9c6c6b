"""Writes what happens into the store: the execution, its steps, its log, its validations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine import journal
from segue.engine.events import Event, Watch
from segue.errors import FenceLost, InternalError
from segue.model.lifecycles import ExecutionStatus, PlanStatus, StepRunStatus
from segue.store.tables.executions import ExecutionRow, LogRow, StepRunRow
from segue.store.tables.plans import PlanRow, ValidationRow
from segue.store.transitions import advance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from segue.store import Store


class Record:
    """The store's record of one execution. Every method is one transaction.

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

    # -- the execution

    def begin(self, *, direction: str, fence: int) -> None:
        """Say that this process drives the execution now, in this direction."""
        with self._store.session() as session:
            row = self._row(session, lock=True)
            if row.fence != self._fence:
                raise self._lost(row)
            columns: dict[str, Any] = {
                "direction": direction,
                "fence": fence,
                "lease_owner": self._owner,
                "heartbeat_at": clock.now(),
                "pause_requested": False,
                "cancel_requested": False,
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
        with self._store.session() as session:
            row = self.guard(session)
            now = clock.now()
            over = status in (ExecutionStatus.COMPLETED, ExecutionStatus.ROLLED_BACK, ExecutionStatus.CANCELLED)
            advance(
                session,
                row,
                status,
                actor=self.actor,
                detail={"error": dict(error)} if error else {},
                completed_at=now if over else row.completed_at,
                duration=round((now - (row.started_at or now)).total_seconds()),
                error_details=dict(error) if error else None,
                performance_metrics=dict(metrics) if metrics is not None else row.performance_metrics,
                lease_owner=None,
                current_step=None,
                pause_requested=False,
                cancel_requested=False,
                **columns,
            )
            plan = {
                ExecutionStatus.COMPLETED: PlanStatus.COMPLETED,
                ExecutionStatus.FAILED: PlanStatus.FAILED,
                ExecutionStatus.ROLLED_BACK: PlanStatus.ROLLED_BACK,
                ExecutionStatus.CANCELLED: PlanStatus.FAILED,
            }.get(status)
            if plan is not None:
                self._move_plan(session, row.plan, plan)
            if status is ExecutionStatus.COMPLETED:
                row.environment.last_migration = row.plan.plan_name
                row.environment.schema_version = row.plan.version
        journal.point(f"execution-{status}")

    def requests(self) -> tuple[bool, bool]:
        """Return whether a pause or a cancel is asked for; leave a sign of life."""
        with self._store.session() as session:
            row = self.guard(session)
            row.heartbeat_at = clock.now()
            return row.pause_requested, row.cancel_requested

    def measured(self, metrics: Mapping[str, Any]) -> None:
        """Write how the run does so far, and leave a sign of life; nothing where another process drives it by now."""
        from sqlalchemy import update

        with self._store.session() as session:
            session.execute(
                update(ExecutionRow)
                .where(ExecutionRow.id == self.execution, ExecutionRow.lease_owner == self._owner)
                .values(performance_metrics=dict(metrics), heartbeat_at=clock.now())
            )

    # -- steps

    def step_runs(self, direction: str) -> dict[int, StepRunRow]:
        """Return the runs of the steps in one direction, by step number."""
        from sqlalchemy import select

        with self._store.session() as session:
            rows = session.scalars(
                select(StepRunRow).where(StepRunRow.execution_id == self.execution, StepRunRow.direction == direction)
            )
            return {row.step_number: row for row in rows}

    def open_steps(self, steps: list[tuple[int, str, str]], direction: str) -> None:
        """Make the rows of all steps of a direction that have none yet."""
        from segue.store.ids import new_id

        there = self.step_runs(direction)
        with self._store.session() as session:
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

        with self._store.session() as session:
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
            row.heartbeat_at = now
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
        journal.point(f"step-{to}")

    # -- words

    def log(self, action: str, message: str, *, step: str | None = None, level: str = "info", **detail: Any) -> None:
        """Write a line into the execution's log and tell whoever watches."""
        with self._store.session() as session:
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
        self.tell(action, message, step=step, level=level, **detail)

    def tell(self, action: str, message: str, *, step: str | None = None, level: str = "info", **detail: Any) -> None:
        """Tell whoever watches, without a line in the log."""
        self._watch(Event(action, message, step, level, detail))

    def validation(self, verdict: Mapping[str, Any], *, step: str, tolerance: float, blocking: bool) -> None:
        """Keep what a validation found."""
        from sqlalchemy import JSON

        from segue.store.ids import new_id

        def kept(value: Any) -> Any:
            # An expected or found NULL is a result; the column's own null means that there is none.
            return JSON.NULL if value is None else value

        with self._store.session() as session:
            session.add(
                ValidationRow(
                    id=new_id(),
                    plan_id=self._row(session).plan_id,
                    execution_id=self.execution,
                    step_name=step,
                    query=verdict["query"],
                    expected=kept(verdict["expected"]),
                    actual=kept(verdict["actual"]),
                    tolerance=tolerance,
                    passed=verdict["passed"],
                    blocking=blocking,
                )
            )

    # -- parts

    def guard(self, session: Session) -> ExecutionRow:
        """Return the execution's row, locked for this transaction; raise FenceLost when it is not ours any more."""
        row = self._row(session, lock=True)
        if row.lease_owner != self._owner or row.fence != self._fence:
            raise self._lost(row)
        return row

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
