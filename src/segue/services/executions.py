"""Run a plan in an environment, look at it, stop it, go on, take it back."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine.control import MustWait
from segue.engine.events import Event, Watch, nobody
from segue.errors import Blocked, Busy, CannotTell, NotFound, SegueError, StepFailed, UsageError
from segue.model.lifecycles import ExecutionStatus
from segue.model.vocabulary import Mode
from segue.ports import BACKWARD, FORWARD, Observed, Parts
from segue.services import environments, plans, tuning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from segue.engine.executor import PlannedStep
    from segue.planning.planfile import Plan
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow

# Without a sign of life for this long, the process that drove an execution is taken for dead.
SILENT_AFTER = timedelta(seconds=8)
# How often an execution that waits for a person, in the process of whoever started it, is looked at again.
ASK_AGAIN = timedelta(seconds=2)
# An approval is lately given if an execution may have missed it.
LATELY = timedelta(seconds=30)
UNFINISHED = (
    ExecutionStatus.PENDING,
    ExecutionStatus.WAITING,
    ExecutionStatus.RUNNING,
    ExecutionStatus.PAUSED,
    ExecutionStatus.FAILED,
)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    `resolve` is what a person saw of an effect that Segue cannot tell; `at` when to begin; `outside_window` why it may
    run although the environment's window is closed; `tuning` limits of its data work.
    """

    resume: bool = False
    accept_drift: bool = False
    resolve: Observed | None = None
    at: datetime | None = None
    outside_window: str | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what an execution must know of them later, when another process drives it."""
        kept = {
            "accept_drift": self.accept_drift or None,
            "resolve": self.resolve.value if self.resolve else None,
            "at": self.at.isoformat() if self.at else None,
            "outside_window": self.outside_window,
        }
        return {name: value for name, value in kept.items() if value is not None}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Options:
        """Return the options that an execution was started with."""
        return cls(
            accept_drift=bool(kept.get("accept_drift")),
            resolve=Observed(kept["resolve"]) if kept.get("resolve") else None,
            at=datetime.fromisoformat(kept["at"]) if kept.get("at") else None,
            outside_window=kept.get("outside_window"),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: the execution, and whether there was nothing left to do."""

    execution: str
    nothing_to_do: bool = False


@dataclass(frozen=True, slots=True)
class _Choice:
    """The execution to drive: an earlier one that can go on, or a new one with its number."""

    execution: str
    plan: Plan
    environment: str
    url: str
    number: int | None
    seen: int | None
    wait: MustWait | None
    assessment: Mapping[str, Any] | None = None


def run(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan_name: str,
    environment: str,
    options: Options = Options(),
    watch: Watch = nobody,
) -> Outcome:
    """Run a stored plan in an environment, or go on where an earlier run stopped, in this process.

    Raises MustWait when an approval or a window is missing (the execution is there then, waiting), Blocked where a
    restore point would be needed, Busy when the target is held, and whatever stops the run; the store then says where
    it stopped.
    """
    chosen = _chosen(store, settings, parts, plan_name, environment, options)
    if isinstance(chosen, Outcome):
        return chosen
    if chosen.wait is not None:
        _await(store, settings, chosen, options, chosen.wait, handed_over=False)
        raise chosen.wait
    _drive(
        store,
        settings,
        parts,
        chosen.plan,
        chosen.execution,
        chosen.url,
        options,
        watch,
        direction=FORWARD,
        seen=chosen.seen,
        create=chosen,
    )
    return Outcome(chosen.execution)


def hand_over(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan_name: str,
    environment: str,
    options: Options = Options(),
    *,
    mode: str = "manual",
    after: str | None = None,
) -> Outcome:
    """Leave a run to the workers: whichever is free drives it, from now on and whenever it is due.

    `mode` says who began it (manual, automated, scheduled); `after` is an execution that must be completed first.
    """
    chosen = _chosen(store, settings, parts, plan_name, environment, options, gated=False)
    if isinstance(chosen, Outcome):
        return chosen
    wait = MustWait("worker", "waits for a worker", due=clock.now(), hint="`segue worker` runs one")
    _await(store, settings, chosen, options, wait, handed_over=True, mode=mode, after=after)
    _nudge(store, chosen.execution)
    return Outcome(chosen.execution)


def hand_over_resume(
    store: Store, settings: Settings, parts: Parts, execution: str | None, options: Options = Options()
) -> Outcome:
    """Leave an execution that waits, was paused, failed, or lost its process to the workers."""
    with store.session() as session:
        row = find(session, execution)
        direction, name, environment, identity = row.direction, row.plan.plan_name, row.environment.name, row.id
    if direction == BACKWARD:
        return hand_over_rollback(store, settings, parts, identity, options)
    return hand_over(store, settings, parts, name, environment, options)


def hand_over_rollback(
    store: Store, settings: Settings, parts: Parts, execution: str | None, options: Options = Options()
) -> Outcome:
    """Leave a rollback to the workers."""
    from segue.store.transitions import advance

    with store.session() as session:
        row = find(session, execution)
        if row.status == ExecutionStatus.ROLLED_BACK:
            return Outcome(row.id, nothing_to_do=True)
        _rollback_plan(session, parts, row)
        wait = MustWait("worker", "waits for a worker, to be rolled back", hint="`segue worker` runs one")
        columns: dict[str, Any] = {
            "direction": BACKWARD,
            "handed_over": True,
            "waiting_for": wait.as_waiting(),
            "due_at": clock.now(),
            "options": options.as_json(),
            "lease_owner": None,
        }
        if row.status in (ExecutionStatus.WAITING, ExecutionStatus.RUNNING):
            for name, value in columns.items():
                setattr(row, name, value)
        else:
            advance(session, row, ExecutionStatus.WAITING, actor=settings.user, **columns)
        identity = row.id
    _nudge(store, identity)
    return Outcome(identity)


def drive(
    store: Store,
    settings: Settings,
    parts: Parts,
    execution: str,
    watch: Watch = nobody,
    *,
    drain: threading.Event | None = None,
) -> Outcome:
    """Do with an execution what its row says now, as a worker does: go on, wait again, or roll back.

    Raises MustWait when it has to wait (its row says so by then), Busy when somebody else drives it or holds the
    target, and whatever stops it, which is recorded by then. `drain` makes it stop at its next safe point, for another
    worker to go on.
    """
    _assess_first(store, settings, parts, execution)
    with store.session() as session:
        row = find(session, execution)
        if row.status not in UNFINISHED or row.status in (ExecutionStatus.PAUSED, ExecutionStatus.FAILED):
            return Outcome(row.id, nothing_to_do=True)
        _refuse_driven(row, "driven twice")
        options = Options.from_json(row.options)
        direction, seen = row.direction, row.fence
        wait: MustWait | None = None
        try:
            _, url = environments.resolve(session, settings, row.environment.name)
            if direction == BACKWARD:
                plan = _rollback_plan(session, parts, row)
            else:
                plan = _plan(row.plan, parts)
                _refuse_changed(row)
                _check_policy(plan, parts)
                wait = _gate(session, settings, plan, row.plan, row.environment, row, options)
        except SegueError as error:
            _fail(store, settings, row.id, error)
            raise
        if wait is not None:
            _set_waiting(session, settings, row, wait)
        # What has been driven before is past its beginning.
        after = row.after_execution if direction == FORWARD and seen is None else None
    if wait is not None:
        raise wait
    if after is not None:
        _follow_on(store, settings, parts, execution, after)
    _drive(
        store,
        settings,
        parts,
        plan,
        execution,
        url,
        options,
        watch,
        direction=direction,
        seen=seen,
        drain=drain,
        handed_over=True,
    )
    return Outcome(execution)


def _assess_first(store: Store, settings: Settings, parts: Parts, execution: str) -> None:
    """Look at what a handed-over execution meets on its target, once, before it begins."""
    from segue.services import assessments

    with store.session() as session:
        row = find(session, execution)
        if row.assessment is not None or row.steps_completed or row.direction == BACKWARD:
            return
        try:
            env_row, url = environments.resolve(session, settings, row.environment.name)
            plan = _plan(row.plan, parts)
        except SegueError:
            return  # said, and written down, by what comes next
    found = assessments.assess(store, settings, parts, plan, env_row, url)
    with store.session() as session:
        find(session, execution).assessment = found.as_json()


def _follow_on(store: Store, settings: Settings, parts: Parts, execution: str, after: str) -> None:
    """Raise MustWait while the target of the execution before is not calm, Blocked when that one did not go well."""
    from segue.services import following

    try:
        following.ready(store, settings, parts, after, patience=following.CALM_SECONDS)
    except MustWait as wait:
        with store.session() as session:
            _set_waiting(session, settings, find(session, execution), wait)
        raise
    except SegueError as error:
        _fail(store, settings, execution, error)
        raise


def due(session: Session, *, limit: int = 100) -> list[str]:
    """Return the executions that workers should look at now: waiting ones whose time has come, and abandoned ones."""
    from sqlalchemy import and_, func, or_, select

    from segue.store.tables.approvals import ApprovalRow
    from segue.store.tables.executions import ExecutionRow

    now = func.clock_timestamp()
    silent = now - SILENT_AFTER
    # Given while the execution was about to wait for it, so that nobody was there yet to be told.
    approved = (
        select(ApprovalRow.id)
        .where(
            ApprovalRow.plan_id == ExecutionRow.plan_id,
            ApprovalRow.environment_id == ExecutionRow.environment_id,
            ApprovalRow.approved_at > now - LATELY,
        )
        .exists()
    )
    return list(
        session.scalars(
            select(ExecutionRow.id)
            .where(
                # Where a process died with the application kept out, whoever is there lets it in again.
                or_(ExecutionRow.handed_over, ExecutionRow.fenced_at.is_not(None)),
                or_(
                    and_(
                        ExecutionRow.status.in_([ExecutionStatus.PENDING, ExecutionStatus.WAITING]),
                        or_(
                            ExecutionRow.due_at <= now,
                            and_(ExecutionRow.waiting_for["kind"].astext == "approval", approved),
                        ),
                    ),
                    and_(
                        ExecutionRow.status == ExecutionStatus.RUNNING,
                        or_(ExecutionRow.heartbeat_at.is_(None), ExecutionRow.heartbeat_at < silent),
                    ),
                ),
            )
            .order_by(ExecutionRow.due_at.nulls_first())
            .limit(limit)
        )
    )


def resume(
    store: Store, settings: Settings, parts: Parts, execution: str | None, options: Options, watch: Watch = nobody
) -> Outcome:
    """Go on with an execution that waits, was paused, failed, or lost its process, in the direction it was going."""
    with store.session() as session:
        row = find(session, execution)
        if row.status not in UNFINISHED:
            raise UsageError(
                f'execution {row.id} of "{row.plan.plan_name}" is {row.status}; there is nothing to resume',
                hint="`segue status` shows executions",
            )
        direction, name, environment, identity = row.direction, row.plan.plan_name, row.environment.name, row.id
    if direction == BACKWARD:
        return rollback(store, settings, parts, identity, options, watch)
    return run(store, settings, parts, name, environment, options, watch)


def rollback(
    store: Store,
    settings: Settings,
    parts: Parts,
    execution: str | None,
    options: Options = Options(),
    watch: Watch = nobody,
) -> Outcome:
    """Undo an execution's steps, last first. Raises Blocked when its rollback window is over."""
    with store.session() as session:
        row = find(session, execution)
        if row.status == ExecutionStatus.ROLLED_BACK:
            return Outcome(row.id, nothing_to_do=True)
        plan = _rollback_plan(session, parts, row)
        _, url = environments.resolve(session, settings, row.environment.name)
        identity, seen = row.id, row.fence
    _drive(store, settings, parts, plan, identity, url, options, watch, direction=BACKWARD, seen=seen)
    return Outcome(identity)


def _rollback_plan(session: Session, parts: Parts, row: ExecutionRow) -> Plan:
    """Return the plan to undo, or refuse: the window is over, somebody drives it, later executions stand on it."""
    if row.window_until is not None and row.window_until < clock.now() and row.direction == FORWARD:
        raise Blocked(
            f"the rollback window of execution {row.id} ended at {row.window_until:%Y-%m-%d %H:%M} UTC",
            hint="write a new plan that changes the schema back",
        )
    _refuse_driven(row, "rolled back")
    _refuse_later(session, row)
    plan = _plan(row.plan, parts)
    _refuse_changed(row)
    return plan


def _refuse_changed(row: ExecutionRow) -> None:
    if row.plan_hash != row.plan.plan_hash:
        raise Blocked(
            f'plan "{row.plan.plan_name}" was changed after execution {row.id} ran it',
            hint="add the version that was run again; its undo is not this one's",
        )


def follow(store: Store, execution: str, watch: Watch = nobody) -> None:
    """Stay with an execution that workers drive, telling its log, until its end; raise what stopped it."""
    after = 0
    while True:
        with store.session() as session:
            row = find(session, execution)
            status, error = row.status, row.error_details
            lines = logs(session, row, after=after)
        for line in lines:
            after = line["id"]
            detail = line["detail"] or {}
            watch(Event(line["action"], line["message"], line["step"], line["level"], detail))
        if status not in (ExecutionStatus.PENDING, ExecutionStatus.WAITING, ExecutionStatus.RUNNING) and not lines:
            break
        clock.sleep(0.5)
    if status not in (ExecutionStatus.COMPLETED, ExecutionStatus.ROLLED_BACK):
        said = error or {}
        raise StepFailed(
            f"execution {execution} is {status}" + (f": {said['message']}" if said.get("message") else ""),
            details=list(said.get("details", [])),
            hint=str(said.get("hint") or "`segue status` shows it"),
        )


def until_due(store: Store, wait: MustWait, watch: Watch = nobody) -> None:
    """Wait until an execution of this process may go on: its time has come, or somebody has approved it."""
    watch(Event("waiting", f"waiting: {wait.message}", wait.step, "info", {"hint": wait.hint}))
    began = clock.now()
    while wait.due is None or clock.now() < wait.due:
        clock.sleep(1.0)
        if wait.due is None and clock.now() - began > ASK_AGAIN:
            return


def handed_words(session: Session, execution: str) -> str:
    """Return what to tell a person who has handed an execution over."""
    from sqlalchemy import func, select

    from segue.store.tables.workers import WorkerRow

    alive = select(WorkerRow.id).where(
        WorkerRow.status == "running", WorkerRow.heartbeat_at > func.clock_timestamp() - SILENT_AFTER
    )
    if session.scalar(alive.limit(1)) is not None:
        return f"execution {execution} is the workers' now; `segue status {execution}` shows how far it is"
    return f"execution {execution} waits for a worker, and none is running: start one with `segue worker`"


def pause(store: Store, execution: str | None, *, actor: str) -> str:
    """Ask an execution to stop at its next safe point; say what will happen."""
    return _request(store, execution, ExecutionStatus.PAUSED, actor)


def cancel(store: Store, execution: str | None, *, actor: str) -> str:
    """Ask an execution to stop for good; what it did stays until it is rolled back."""
    return _request(store, execution, ExecutionStatus.CANCELLED, actor)


def _request(store: Store, execution: str | None, to: ExecutionStatus, actor: str) -> str:
    from segue.store.transitions import advance

    with store.session() as session:
        row = find(session, execution)
        word = "paused" if to is ExecutionStatus.PAUSED else "cancelled"
        if row.status == to:
            return f"execution {row.id} is {word} already"
        if row.status == ExecutionStatus.RUNNING and driven(row):
            from segue.store import ledger

            if to is ExecutionStatus.PAUSED:
                row.pause_requested = True
            else:
                row.cancel_requested = True
            ledger.append(
                session,
                actor=actor,
                action=f"{word}-requested",
                subject="migration_executions",
                subject_id=row.id,
                detail={},
            )
            if row.fenced_at is not None:
                return f"execution {row.id} keeps the application out: it will be undone, and the application let in"
            return f"execution {row.id} will be {word} at its next safe point"
        from segue.model.lifecycles import EXECUTION

        if not EXECUTION.allows(row.status, to):
            raise Blocked(
                f"execution {row.id} is {row.status} and cannot be {word}",
                hint="`segue rollback` takes back what it did" if to is ExecutionStatus.CANCELLED else "",
            )
        advance(session, row, to, actor=actor, lease_owner=None, waiting_for=None, due_at=None)
        return f"execution {row.id} is {word}"


# -- looking


def find(session: Session, execution: str | None) -> ExecutionRow:
    """Return an execution by its id or the beginning of it, or the latest one; raises NotFound."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    query = select(ExecutionRow).order_by(*_latest_first())
    if execution is None:
        row = session.scalars(query.limit(1)).first()
        if row is None:
            raise NotFound("there is no execution yet", hint="`segue run PLAN --env ENV` starts one")
        return row
    rows = session.scalars(query.where(ExecutionRow.id.startswith(execution, autoescape=True)).limit(2)).all()
    if not rows:
        raise NotFound(f'there is no execution "{execution}"', hint="`segue status --all` lists them")
    if len(rows) > 1:
        raise UsageError(f'"{execution}" is the beginning of several executions', hint="write more of it")
    return rows[0]


def _latest_first() -> tuple[Any, ...]:
    """Order executions by when they were last worked on: one that was resumed is the latest again."""
    from sqlalchemy import func

    from segue.store.tables.executions import ExecutionRow

    return (func.coalesce(ExecutionRow.heartbeat_at, ExecutionRow.started_at).desc().nulls_first(),)


def driven(row: ExecutionRow) -> bool:
    """Return whether a process shows signs of life for this execution."""
    from sqlalchemy import func, select
    from sqlalchemy.orm import object_session

    if row.lease_owner is None or row.heartbeat_at is None:
        return False
    session = object_session(row)
    # By the store's clock, which wrote it: machines differ by more than an execution may be silent.
    now = session.scalar(select(func.clock_timestamp())) if session is not None else clock.now()
    if now is None or now - row.heartbeat_at >= SILENT_AFTER:
        return False
    return not _dead_here(row.lease_owner)


def describe(session: Session, row: ExecutionRow) -> dict[str, Any]:
    """Return an execution as JSON values, with its steps and, where there is one, its job."""
    from sqlalchemy import select

    from segue.store.tables.jobs import JobRow

    jobs = {
        (job.step_name, job.job_name.endswith("/rollback")): job
        for job in session.scalars(select(JobRow).where(JobRow.execution_id == row.id))
    }
    runs: dict[str, dict[str, Any]] = {}
    for run in sorted(row.step_runs, key=lambda run: (run.direction == BACKWARD, run.step_number)):
        entry = runs.setdefault(
            run.step_name,
            {
                "number": run.step_number,
                "name": run.step_name,
                "kind": run.kind,
                "status": run.status,
                "attempt": run.attempt,
                "started_at": run.started_at,
                "completed_at": run.completed_at,
                "seconds": run.seconds,
                "error": run.error,
                "detail": run.detail,
            },
        )
        if run.direction == BACKWARD:
            entry["undo"] = {"status": run.status, "seconds": run.seconds, "error": run.error}
        job = jobs.get((run.step_name, run.direction == BACKWARD))
        if job is not None:
            entry["job"] = {
                "status": job.status,
                "percent": job.progress_percent,
                "total_rows": job.total_rows,
                "processed_rows": job.processed_rows,
                "written_rows": job.successful_rows,
                "rows_per_second": job.rows_per_second,
                "average_batch_ms": job.avg_batch_time,
                "estimated_completion": job.estimated_completion,
            }
    status = row.status
    return {
        "execution": row.id,
        "plan": row.plan.plan_name,
        "plan_hash": row.plan_hash,
        "environment": row.environment.name,
        "number": row.execution_number,
        "status": status,
        "direction": row.direction,
        "driven_by": row.lease_owner if driven(row) else None,
        "abandoned": status == ExecutionStatus.RUNNING and not driven(row),
        "handed_over": row.handed_over,
        "waiting_for": row.waiting_for if status == ExecutionStatus.WAITING else None,
        "due_at": row.due_at if status == ExecutionStatus.WAITING else None,
        "after": row.after_execution,
        "fenced_at": row.fenced_at,
        "fenced_until": row.fenced_until,
        "tuning": row.tuning or None,
        "requested": "cancel" if row.cancel_requested else "pause" if row.pause_requested else None,
        "current_step": row.current_step,
        "steps_completed": row.steps_completed,
        "steps_total": row.steps_total,
        "started_at": row.started_at,
        "completed_at": row.completed_at,
        "seconds": row.duration,
        "executed_by": row.executed_by,
        "mode": row.execution_mode,
        "rollback_until": row.window_until,
        "error": row.error_details,
        "metrics": row.performance_metrics,
        "steps": sorted(runs.values(), key=lambda entry: entry["number"]),
    }


def latest(session: Session, *, limit: int = 20) -> Sequence[ExecutionRow]:
    """Return the latest executions, newest first."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    return session.scalars(select(ExecutionRow).order_by(*_latest_first()).limit(limit)).all()


def logs(session: Session, row: ExecutionRow, *, after: int = 0, limit: int = 10_000) -> list[dict[str, Any]]:
    """Return an execution's log, oldest line first, from the line after `after`."""
    from sqlalchemy import select

    from segue.store.tables.executions import LogRow

    lines = session.scalars(
        select(LogRow).where(LogRow.execution_id == row.id, LogRow.id > after).order_by(LogRow.id).limit(limit)
    )
    return [
        {
            "id": line.id,
            "at": line.at,
            "level": line.level,
            "action": line.action,
            "step": line.step_name,
            "message": line.message,
            "detail": line.detail,
        }
        for line in lines
    ]


# -- parts


def _plan(row: PlanRow, parts: Parts) -> Plan:
    from segue.planning import planfile

    plan = planfile.from_document(row.document, parts.steps, source=f'stored plan "{row.plan_name}"')
    if planfile.digest(plan) != row.plan_hash:
        raise Blocked(
            f'stored plan "{row.plan_name}" is not the one that was added: somebody changed it in the store',
            hint="`segue plan add FILE` puts the true one back, and keeps the other in the ledger",
        )
    return plan


def _check_policy(plan: Plan, parts: Parts) -> None:
    """Refuse what needs a part of Segue that is not there yet: nothing is skipped silently."""
    from segue.planning import strategies

    if plan.strategy == "blue-green":
        raise Blocked(
            f'plan "{plan.plan}" asks for the strategy "blue-green", which this version does not have',
            hint="docs/strategies.md compares the strategies that there are",
        )
    for _, message in strategies.problems(plan):
        raise Blocked(f'plan "{plan.plan}": {message}', hint="`segue plan validate` shows where")
    for step in plan.steps:
        reason = parts.steps[step.kind].irreversible(step)
        if reason:
            raise Blocked(
                f'step "{step.name}" of plan "{plan.plan}" cannot be undone: {reason}',
                hint="such a step needs a restore point, which this version cannot make; rename instead of dropping",
            )


def _check_schema(plan: Plan, environment: str, schema: str) -> None:
    """Refuse a plan for another schema than the one that the environment was added for; "public" says nothing."""
    if schema not in ("public", plan.target_schema):
        raise Blocked(
            f'plan "{plan.plan}" changes the schema "{plan.target_schema}", '
            f'but environment "{environment}" is for the schema "{schema}"',
            hint=f"write `target_schema: {schema}` in the plan, or add an environment for the other schema",
        )


def _check_dependencies(session: Session, plan: Plan, environment: str, since: datetime | None) -> None:
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow

    for name in plan.depends_on:
        row = session.scalars(
            select(ExecutionRow)
            .join(PlanRow, PlanRow.id == ExecutionRow.plan_id)
            .where(PlanRow.plan_name == name, ExecutionRow.environment_id == environment)
            .order_by(ExecutionRow.execution_number.desc())
            .limit(1)
        ).first()
        elsewhere = since is not None and row is not None and (row.started_at or since) < since
        if row is None or elsewhere or row.status != ExecutionStatus.COMPLETED:
            state = "was never run here" if row is None or elsewhere else f"is {row.status} here"
            raise Blocked(
                f'plan "{plan.plan}" depends on plan "{name}", which {state}', hint=f"run {name} to its end first"
            )


def latest_of(session: Session, plan_id: str, environment: str) -> ExecutionRow | None:
    """Return the last execution of a plan in an environment, None where it was never run."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    return session.scalars(
        select(ExecutionRow)
        .where(ExecutionRow.plan_id == plan_id, ExecutionRow.environment_id == environment)
        .order_by(ExecutionRow.execution_number.desc())
        .limit(1)
    ).first()


def _chosen(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan_name: str,
    environment: str,
    options: Options,
    *,
    gated: bool = True,
) -> _Choice | Outcome:
    """Choose the execution to drive and say what it has to wait for; an Outcome when there is nothing to do."""
    from segue.services import assessments, checks

    with store.session() as session:
        plan_row = plans.get(session, plan_name)
        env_row, url = environments.resolve(session, settings, environment)
        plan = _plan(plan_row, parts)
        earlier = latest_of(session, plan_row.id, env_row.id)
        begins = earlier is None or earlier.status not in (*UNFINISHED, ExecutionStatus.COMPLETED)
    found: Mapping[str, Any] = {}
    assessment: Mapping[str, Any] | None = None
    # Whoever drives it will say that the database cannot be reached; who only hands it over may be far from it.
    with suppress(SegueError):
        found = checks.identity(url, parts)
    if found and gated and begins:
        assessment = assessments.assess(store, settings, parts, plan, env_row, url).as_json()
    with store.session() as session:
        env_row, url = environments.resolve(session, settings, environment)
        checks.remember(session, env_row, found, actor=settings.user)
        since = checks.since(env_row)
        plan_row = plans.get(session, plan_name)
        plan = _plan(plan_row, parts)
        _check_policy(plan, parts)
        _check_schema(plan, environment, env_row.schema_name)
        _check_dependencies(session, plan, env_row.id, since)
        earlier = latest_of(session, plan_row.id, env_row.id)
        if options.resume and (earlier is None or earlier.status not in UNFINISHED):
            raise UsageError(
                f'there is no unfinished execution of "{plan_name}" in "{environment}" to resume',
                hint="leave out --resume to start a new one",
            )
        execution, number = _choose(plan_row, earlier, since)
        if execution is None:
            return Outcome(earlier.id if earlier else "", nothing_to_do=True)
        same = earlier if earlier is not None and earlier.id == execution else None
        wait = _gate(session, settings, plan, plan_row, env_row, same, options) if gated else None
        seen = same.fence if same is not None else None
        return _Choice(execution, plan, environment, url, number, seen, wait, assessment)


def _gate(
    session: Session,
    settings: Settings,
    plan: Plan,
    plan_row: PlanRow,
    env_row: EnvironmentRow,
    row: ExecutionRow | None,
    options: Options,
) -> MustWait | None:
    """Return what the execution has to wait for before it may go on: a predecessor, a time, an approval, a window."""
    from segue.services import assessments, gates

    if row is not None and row.fenced_until is not None:
        return None  # the application is kept out until this run has ended: nothing comes before that
    assessed = assessments.kept(plan_row, env_row.name)
    expected = assessed["estimated_seconds"] if assessed else (plan_row.estimated_duration or 0) * 60.0
    seconds = None if row is not None and row.steps_completed else max(expected, (plan.maintenance_window or 0) * 60.0)
    return gates.opening(
        session,
        plan,
        plan_row,
        env_row,
        row,
        now=clock.now(),
        seconds=seconds,
        options=options,
        actor=settings.user,
    )


def _choose(plan: PlanRow, earlier: ExecutionRow | None, since: datetime | None) -> tuple[str | None, int | None]:
    """Return the execution to drive and, for a new one, its number; (None, None) when there is nothing to do.

    What ran before `since` ran on another database, to which the environment led then.
    """
    from segue.store.ids import new_id

    if earlier is None:
        return new_id(), 1
    if since is not None and (earlier.started_at or since) < since:
        if earlier.status in UNFINISHED:
            raise Blocked(
                f"execution {earlier.id} began on another database, to which "
                f'environment "{earlier.environment.name}" led before',
                hint=f"`segue cancel {earlier.id}` gives it up; then run the plan again",
            )
        return new_id(), earlier.execution_number + 1
    if earlier.status == ExecutionStatus.COMPLETED and earlier.plan_hash == plan.plan_hash:
        return None, None
    if earlier.status in UNFINISHED:
        if earlier.direction == BACKWARD:
            raise Blocked(
                f"execution {earlier.id} is being rolled back",
                hint="`segue rollback` finishes that; then run the plan again",
            )
        if earlier.plan_hash != plan.plan_hash:
            raise Blocked(
                f'plan "{plan.plan_name}" was changed after execution {earlier.id} began',
                hint="finish it with the plan it began with, or `segue rollback` it first",
            )
        _refuse_driven(earlier, "run a second time")
        return earlier.id, None
    if earlier.status == ExecutionStatus.CANCELLED and earlier.steps_completed:
        raise Blocked(
            f"execution {earlier.id} was cancelled with {earlier.steps_completed} of {earlier.steps_total} steps done",
            hint="`segue rollback` takes them back; then run the plan again",
        )
    return new_id(), earlier.execution_number + 1


def _await(
    store: Store,
    settings: Settings,
    chosen: _Choice,
    options: Options,
    wait: MustWait,
    *,
    handed_over: bool,
    mode: str = "manual",
    after: str | None = None,
) -> None:
    """Leave an execution waiting: make it if it is new."""
    if chosen.number is not None:
        _create(store, settings, chosen, options=options, mode=mode)
    with store.session() as session:
        row = find(session, chosen.execution)
        row.handed_over = handed_over
        row.after_execution = after
        row.options = {**row.options, **options.as_json()}
        tuning.tune(session, row, options.tuning, actor=settings.user)
        _set_waiting(session, settings, row, wait)


def _set_waiting(session: Session, settings: Settings, row: ExecutionRow, wait: MustWait) -> None:
    from segue.store.transitions import advance

    columns: dict[str, Any] = {"waiting_for": wait.as_waiting(), "due_at": wait.due, "lease_owner": None}
    if row.status == ExecutionStatus.WAITING:
        for name, value in columns.items():
            setattr(row, name, value)
    else:
        detail = {"for": wait.kind, "message": wait.message}
        advance(session, row, ExecutionStatus.WAITING, actor=settings.user, detail=detail, **columns)


def _fail(store: Store, settings: Settings, execution: str, error: SegueError) -> None:
    """Write down that a waiting execution cannot go on: otherwise it would be tried for ever, and say nothing."""
    from segue.store.transitions import advance

    with store.session() as session:
        row = find(session, execution)
        if row.status == ExecutionStatus.WAITING and not isinstance(error, Busy):
            advance(
                session,
                row,
                ExecutionStatus.FAILED,
                actor=settings.user,
                error_details=error.as_json(),
                waiting_for=None,
                due_at=None,
            )


def _nudge(store: Store, execution: str) -> None:
    """Tell the workers; a nudge that is lost is found by their sweep."""
    from segue.engine.queue import Queue

    Queue(store.url).nudge_execution(execution)


def _refuse_driven(row: ExecutionRow, verb: str) -> None:
    if row.status == ExecutionStatus.RUNNING and driven(row):
        raise Busy(
            f'execution {row.id} of "{row.plan.plan_name}" cannot be {verb}: {row.lease_owner} drives it',
            hint="`segue status` shows it, `segue pause` stops it",
        )


def _dead_here(owner: str) -> bool:
    """Return whether the owner was a process of this machine that is gone: no need to wait for its silence."""
    head, _, pid = owner.rpartition(" pid ")
    if not head.endswith(f"@{socket.gethostname()}") or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    try:
        # A killed process whose parent has not asked for its end yet still has its number.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] in ("Z", "X")
    except OSError:
        return False


def _refuse_later(session: Session, row: ExecutionRow) -> None:
    """Refuse to undo what later executions may stand on."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    later = session.scalars(
        select(ExecutionRow).where(
            ExecutionRow.environment_id == row.environment_id,
            ExecutionRow.id != row.id,
            ExecutionRow.started_at > row.started_at,
            ExecutionRow.steps_completed > 0,
            ExecutionRow.status != ExecutionStatus.ROLLED_BACK,
        )
    ).all()
    if later:
        raise Blocked(
            f'execution {row.id} of "{row.plan.plan_name}" cannot be rolled back: later ones stand on it',
            details=[f"{other.id}  {other.plan.plan_name}  {other.status}" for other in later],
            hint="roll those back first",
        )


def _owner(settings: Settings) -> str:
    return f"{settings.user}@{socket.gethostname()} pid {os.getpid()}"


def _drive(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan: Plan,
    execution: str,
    url: str,
    options: Options,
    watch: Watch,
    *,
    direction: str,
    seen: int | None,
    create: _Choice | None = None,
    drain: threading.Event | None = None,
    handed_over: bool = False,
) -> None:
    """Take the target and drive the execution; the store's row is made once the target is held."""
    from segue.engine import journal
    from segue.engine.executor import Assignment, Executor
    from segue.engine.gates import Open
    from segue.engine.record import Record
    from segue.planning import planfile, strategies
    from segue.services import gates

    database = parts.database(url)
    steps = _ordered(plan, parts)
    owner = _owner(settings)
    target = database.open_target(url, execution=execution, holder=owner, schema=plan.target_schema)
    try:
        if seen is not None and target.fence <= seen and options.resolve is None:
            # The fence only grows: here it began anew, and what the target showed of a step half done went with it.
            raise CannotTell(
                f"execution {execution} has worked on this target before, but the target does not show it: its record "
                'there (schema "segue") is gone, or older than the execution',
                hint="is this another database, or one restored from a backup? Look at it; where nothing of the "
                "execution is there, `segue rollback EXECUTION --resolve not-done` closes it, and a new run may follow",
            )
        if create is not None and create.number is not None:
            _create(store, settings, create, options=options)
            journal.point("execution-created")
        with store.session() as session:
            row = find(session, execution)
            row.handed_over = handed_over
            tuning.tune(session, row, options.tuning, actor=settings.user)
            prefix = f"{row.plan.plan_name}/{row.environment.name}/{row.execution_number}"
            environment = row.environment.name
            plan_id = row.plan_id
        work = Assignment(
            execution=execution,
            environment=environment,
            plan=plan.plan,
            plan_id=plan_id,
            plan_hash=planfile.digest(plan),
            schema=plan.target_schema,
            job_prefix=prefix,
            steps=steps,
            undo_on_failure=plan.rollback.on_failure == "rollback",
            rollback_window=plan.rollback.window,
            downtime=strategies.downtime(plan),
            accept_drift=options.accept_drift,
            resolve=options.resolve,
            handed_over=handed_over,
            gates=gates.RunGates(store, execution) if direction == FORWARD else Open(),
            ask_slots=_slots(store, execution) if handed_over else None,
            throttle=tuning.pacing(store, execution, plan.throttle, plan.steps),
            drain=drain,
        )
        record = Record(store, execution, actor=settings.user, owner=owner, watch=watch, seen=seen)
        executor = Executor(store, record, target, database, work)
        if direction == FORWARD:
            executor.forward()
        else:
            executor.backward()
    finally:
        target.close()


def _slots(store: Store, execution: str) -> Callable[[str, str, int], None]:
    """Return how a step asks other workers for copy slots."""

    def ask(step: str, direction: str, count: int) -> None:
        from segue.engine.queue import Queue

        Queue(store.url).nudge_slots(execution, step, direction, count)

    return ask


def _ordered(plan: Plan, parts: Parts) -> list[PlannedStep]:
    from segue.engine.executor import PlannedStep
    from segue.planning import graph

    numbers = {step.name: number for number, step in enumerate(plan.steps, 1)}
    by_name = {step.name: step for step in plan.steps}
    return [
        PlannedStep(numbers[name], by_name[name], parts.steps[by_name[name].kind])
        for name in graph.order({step.name: step.needs for step in plan.steps})
    ]


def _create(store: Store, settings: Settings, chosen: _Choice, *, options: Options, mode: str = Mode.MANUAL) -> None:
    from sqlalchemy.exc import IntegrityError

    from segue.planning import planfile
    from segue.store import ledger
    from segue.store.tables.executions import ExecutionRow

    plan = chosen.plan
    with store.session() as session:
        plan_row = plans.get(session, plan.plan)
        env_row = environments.get(session, chosen.environment)
        if options.at is not None or env_row.deployment_type == Mode.SCHEDULED:
            mode = Mode.SCHEDULED
        session.add(
            ExecutionRow(
                id=chosen.execution,
                plan_id=plan_row.id,
                environment_id=env_row.id,
                execution_number=chosen.number,
                steps_total=len(plan.steps),
                executed_by=settings.user,
                execution_mode=mode,
                assessment=chosen.assessment,
                options=options.as_json(),
                plan_hash=planfile.digest(plan),
                started_at=clock.now(),
            )
        )
        try:
            session.flush()
        except IntegrityError as error:
            raise Busy(
                f'"{plan.plan}" was started in "{chosen.environment}" by somebody else at the same moment',
                hint="`segue status` shows that execution",
            ) from error
        ledger.append(
            session,
            actor=settings.user,
            action="pending",
            subject="migration_executions",
            subject_id=chosen.execution,
            detail={
                "plan": plan.plan,
                "environment": chosen.environment,
                "plan_hash": planfile.digest(plan),
                "number": chosen.number,
            },
        )
