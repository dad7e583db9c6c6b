"""Look at executions: find them, say how they stand, stay with one until its end."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine.control import MustWait
from segue.engine.events import Event, Watch, nobody
from segue.errors import NotFound, StepFailed, UsageError
from segue.model.lifecycles import ExecutionStatus
from segue.ports import BACKWARD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from segue.store import Store
    from segue.store.tables.executions import ExecutionRow

# Without a sign of life for this long, the process that drove an execution is taken for dead.
SILENT_AFTER = timedelta(seconds=8)
# How often an execution that waits for a person, in the process of whoever started it, is looked at again.
ASK_AGAIN = timedelta(seconds=2)
UNFINISHED = (
    ExecutionStatus.PENDING,
    ExecutionStatus.WAITING,
    ExecutionStatus.RUNNING,
    ExecutionStatus.PAUSED,
    ExecutionStatus.FAILED,
)


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


def latest(session: Session, *, limit: int = 20) -> Sequence[ExecutionRow]:
    """Return the latest executions, newest first."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    return session.scalars(select(ExecutionRow).order_by(*_latest_first()).limit(limit)).all()


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
