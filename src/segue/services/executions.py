"""Run a plan in an environment, look at it, stop it, go on, take it back."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine.events import Watch, nobody
from segue.errors import Blocked, CannotTell, NotFound, UsageError
from segue.model.lifecycles import ExecutionStatus
from segue.ports import BACKWARD, FORWARD, Observed, Parts
from segue.services import environments, plans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from segue.engine.executor import PlannedStep
    from segue.planning.planfile import Plan
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow

# Without a sign of life for this long, the process that drove an execution is taken for dead.
SILENT_AFTER = timedelta(seconds=8)
UNFINISHED = (
    ExecutionStatus.PENDING,
    ExecutionStatus.WAITING,
    ExecutionStatus.RUNNING,
    ExecutionStatus.PAUSED,
    ExecutionStatus.FAILED,
)


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. `resolve` is what a person saw of an effect that Segue cannot tell."""

    resume: bool = False
    accept_drift: bool = False
    resolve: Observed | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: the execution, and whether there was nothing left to do."""

    execution: str
    nothing_to_do: bool = False


def run(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan_name: str,
    environment: str,
    options: Options = Options(),
    watch: Watch = nobody,
) -> Outcome:
    """Run a stored plan in an environment, or go on where an earlier run stopped.

    Raises Blocked when an approval, a window, a worker or a restore point is needed, Busy when the target is held,
    and whatever stops the run; the store then says where it stopped.
    """
    with store.session() as session:
        plan_row = plans.get(session, plan_name)
        env_row, url = environments.resolve(session, settings, environment)
        plan = _plan(plan_row, parts)
        _check_policy(plan, parts, env_row.type, env_row.deployment_type)
        _check_schema(plan, environment, env_row.schema_name)
        _check_dependencies(session, plan, env_row.id)
        earlier = _latest(session, plan_row.id, env_row.id)
        if options.resume and (earlier is None or earlier.status not in UNFINISHED):
            raise UsageError(
                f'there is no unfinished execution of "{plan_name}" in "{environment}" to resume',
                hint="leave out --resume to start a new one",
            )
        execution_id, fresh = _choose(session, plan_row, env_row.id, earlier)
        if execution_id is None:
            return Outcome(earlier.id if earlier else "", nothing_to_do=True)
        seen = earlier.fence if earlier is not None and earlier.id == execution_id else None
    create = (environment, fresh)
    _drive(store, settings, parts, plan, execution_id, url, options, watch, direction=FORWARD, seen=seen, create=create)
    return Outcome(execution_id)


def resume(
    store: Store, settings: Settings, parts: Parts, execution: str | None, options: Options, watch: Watch = nobody
) -> Outcome:
    """Go on with an execution that was paused, failed, or lost its process, in the direction it was going."""
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
        if row.window_until is not None and row.window_until < clock.now() and row.direction == FORWARD:
            raise Blocked(
                f"the rollback window of execution {row.id} ended at {row.window_until:%Y-%m-%d %H:%M} UTC",
                hint="write a new plan that changes the schema back",
            )
        _refuse_driven(row, "rolled back")
        _refuse_later(session, row)
        plan = _plan(row.plan, parts)
        if row.plan_hash != row.plan.plan_hash:
            raise Blocked(
                f'plan "{row.plan.plan_name}" was changed after execution {row.id} ran it',
                hint="add the version that was run again; its undo is not this one's",
            )
        _, url = environments.resolve(session, settings, row.environment.name)
        identity, seen = row.id, row.fence
    _drive(store, settings, parts, plan, identity, url, options, watch, direction=BACKWARD, seen=seen)
    return Outcome(identity)


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
            return f"execution {row.id} will be {word} at its next safe point"
        from segue.model.lifecycles import EXECUTION

        if not EXECUTION.allows(row.status, to):
            raise Blocked(
                f"execution {row.id} is {row.status} and cannot be {word}",
                hint="`segue rollback` takes back what it did" if to is ExecutionStatus.CANCELLED else "",
            )
        advance(session, row, to, actor=actor, lease_owner=None)
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
    if row.lease_owner is None or row.heartbeat_at is None or clock.now() - row.heartbeat_at >= SILENT_AFTER:
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


def _check_policy(plan: Plan, parts: Parts, kind: str, deployment: str) -> None:
    """Refuse what needs a part of Segue that is not there yet: nothing is skipped silently."""
    if plan.strategy != "online" or plan.maintenance_window is not None:
        raise Blocked(
            f'plan "{plan.plan}" asks for the strategy "{plan.strategy}"'
            + (" with a maintenance window" if plan.maintenance_window else "")
            + ", which needs windows and routing that this version does not have",
            hint='only "online" plans can be run',
        )
    waiting = [step.name for step in plan.steps if step.approval]
    if waiting:
        raise Blocked(
            f'step "{waiting[0]}" of plan "{plan.plan}" asks for an approval, which this version cannot give',
            hint="leave out `approval: true`, or wait for a version with `segue approve`",
        )
    for step in plan.steps:
        reason = parts.steps[step.kind].irreversible(step)
        if reason:
            raise Blocked(
                f'step "{step.name}" of plan "{plan.plan}" cannot be undone: {reason}',
                hint="such a step needs a restore point, which this version cannot make; rename instead of dropping",
            )
    if deployment == "scheduled":
        raise Blocked(
            "this environment is deployed on schedule, which needs workers and windows that this version lacks",
            hint="set its deployment type to manual with `segue env add --replace`",
        )


def _check_schema(plan: Plan, environment: str, schema: str) -> None:
    """Refuse a plan for another schema than the one that the environment was added for; "public" says nothing."""
    if schema not in ("public", plan.target_schema):
        raise Blocked(
            f'plan "{plan.plan}" changes the schema "{plan.target_schema}", '
            f'but environment "{environment}" is for the schema "{schema}"',
            hint=f"write `target_schema: {schema}` in the plan, or add an environment for the other schema",
        )


def _check_dependencies(session: Session, plan: Plan, environment: str) -> None:
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
        if row is None or row.status != ExecutionStatus.COMPLETED:
            state = "was never run here" if row is None else f"is {row.status} here"
            raise Blocked(
                f'plan "{plan.plan}" depends on plan "{name}", which {state}', hint=f"run {name} to its end first"
            )


def _latest(session: Session, plan_id: str, environment: str) -> ExecutionRow | None:
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    return session.scalars(
        select(ExecutionRow)
        .where(ExecutionRow.plan_id == plan_id, ExecutionRow.environment_id == environment)
        .order_by(ExecutionRow.execution_number.desc())
        .limit(1)
    ).first()


def _choose(
    session: Session, plan: PlanRow, environment: str, earlier: ExecutionRow | None
) -> tuple[str | None, int | None]:
    """Return the execution to drive and, for a new one, its number; (None, None) when there is nothing to do."""
    from segue.store.ids import new_id

    if earlier is None:
        return new_id(), 1
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


def _refuse_driven(row: ExecutionRow, verb: str) -> None:
    from segue.errors import Busy

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
    create: tuple[str, int | None] | None = None,
) -> None:
    """Take the target and drive the execution; the store's row is made once the target is held."""
    from segue.engine import journal
    from segue.engine.executor import Assignment, Executor
    from segue.engine.record import Record
    from segue.planning import planfile

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
        if create is not None and create[1] is not None:
            _create(store, settings, plan, execution, environment=create[0], number=create[1])
            journal.point("execution-created")
        with store.session() as session:
            row = find(session, execution)
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
            accept_drift=options.accept_drift,
            resolve=options.resolve,
        )
        record = Record(store, execution, actor=settings.user, owner=owner, watch=watch, seen=seen)
        executor = Executor(store, record, target, database, work)
        if direction == FORWARD:
            executor.forward()
        else:
            executor.backward()
    finally:
        target.close()


def _ordered(plan: Plan, parts: Parts) -> list[PlannedStep]:
    from segue.engine.executor import PlannedStep
    from segue.planning import graph

    numbers = {step.name: number for number, step in enumerate(plan.steps, 1)}
    by_name = {step.name: step for step in plan.steps}
    return [
        PlannedStep(numbers[name], by_name[name], parts.steps[by_name[name].kind])
        for name in graph.order({step.name: step.needs for step in plan.steps})
    ]


def _create(store: Store, settings: Settings, plan: Plan, execution: str, *, environment: str, number: int) -> None:
    from sqlalchemy.exc import IntegrityError

    from segue.errors import Busy
    from segue.planning import planfile
    from segue.store import ledger
    from segue.store.tables.executions import ExecutionRow

    with store.session() as session:
        plan_row = plans.get(session, plan.plan)
        env_row = environments.get(session, environment)
        session.add(
            ExecutionRow(
                id=execution,
                plan_id=plan_row.id,
                environment_id=env_row.id,
                execution_number=number,
                steps_total=len(plan.steps),
                executed_by=settings.user,
                execution_mode="manual",
                plan_hash=planfile.digest(plan),
                started_at=clock.now(),
            )
        )
        try:
            session.flush()
        except IntegrityError as error:
            raise Busy(
                f'"{plan.plan}" was started in "{environment}" by somebody else at the same moment',
                hint="`segue status` shows that execution",
            ) from error
        ledger.append(
            session,
            actor=settings.user,
            action="pending",
            subject="migration_executions",
            subject_id=execution,
            detail={
                "plan": plan.plan,
                "environment": environment,
                "plan_hash": planfile.digest(plan),
                "number": number,
            },
        )
