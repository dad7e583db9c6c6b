"""Look at executions: find them, say how they stand, stay with one until its end."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine.control import MustWait
from segue.engine.events import Event, Watch, nobody
from segue.errors import NotFound, StepFailed, UsageError
from segue.model.lifecycles import ExecutionStatus, StepRunStatus
from segue.model.vocabulary import WorkQueue
from segue.ports import BACKWARD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

    from segue.store import Store
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.online import OnlineChangeRow

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


def to_take_back(session: Session, execution: str | None) -> ExecutionRow:
    """Return the execution that a rollback is about. Raises UsageError where the latest did nothing, and another did.

    Whoever names none means the one that they have seen at work: to take back another one is not guessed.
    """
    row = find(session, execution)
    if execution is not None or not did_nothing(session, row):
        return row
    over = (ExecutionStatus.ROLLED_BACK, ExecutionStatus.CANCELLED)
    others = (one for one in latest(session, limit=200) if one.environment_id == row.environment_id)
    for other in others:
        if other.status not in over and not did_nothing(session, other):
            raise UsageError(
                f'the latest execution {row.id} of "{row.plan.plan_name}" did nothing that could be taken back',
                hint=f'`segue rollback {other.id}` takes back the one before it in "{row.environment.name}", '
                f'"{other.plan.plan_name}" ({other.status})',
            )
    return row


def did_nothing(session: Session, row: ExecutionRow) -> bool:
    """Return whether an execution failed before it could have any effect: what it was to change was refused."""
    if row.status != ExecutionStatus.FAILED or row.direction == BACKWARD or row.fenced_at is not None:
        return False
    if online_changes(session, row):
        return False
    begun = [run for run in row.step_runs if run.status not in (StepRunStatus.PENDING, StepRunStatus.SKIPPED)]
    return all(run.status == StepRunStatus.FAILED and (run.detail or {}).get("refused") for run in begun)


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
    """Return an execution as JSON values: its steps with their jobs, who works on it, and what to do next.

    `worker` is the name of the worker that drives it, None where a person's command does; `helpers` are the workers
    whose copy slots help with a step.
    """
    runs = _steps(session, row)
    status = row.status
    alive = driven(row)
    worker, helpers = _workers(session, row) if status == ExecutionStatus.RUNNING and row.handed_over else (None, [])
    waiting = status == ExecutionStatus.WAITING
    return {
        "execution": row.id,
        "plan": row.plan.plan_name,
        "plan_hash": row.plan_hash,
        "environment": row.environment.name,
        "number": row.execution_number,
        "status": status,
        "direction": row.direction,
        "driven_by": row.lease_owner if alive else None,
        "worker": worker if alive else None,
        "helpers": helpers,
        "abandoned": status == ExecutionStatus.RUNNING and not alive,
        "handed_over": row.handed_over,
        "waiting_for": row.waiting_for if waiting else None,
        "due_at": row.due_at if waiting else None,
        "after": row.after_execution,
        "fenced_at": row.fenced_at,
        "fenced_until": row.fenced_until,
        "tuning": row.tuning or None,
        "requested": "cancel" if row.cancel_requested else "pause" if row.pause_requested else None,
        "next": _next(session, row, alive=alive),
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


def _steps(session: Session, row: ExecutionRow) -> dict[str, dict[str, Any]]:
    """Return the steps by name, each as it stands: its undo and its job are in it."""
    from sqlalchemy import select

    from segue.store.tables.jobs import JobRow

    jobs = {
        (job.step_name, job.job_name.endswith("/rollback")): job
        for job in session.scalars(select(JobRow).where(JobRow.execution_id == row.id))
    }
    changes = {change.step_name: change for change in online_changes(session, row)}
    batches = _batches(session, row) if jobs else {}
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
            entry["undo"] = {
                "status": run.status,
                "started_at": run.started_at,
                "seconds": run.seconds,
                "error": run.error,
            }
        job = jobs.get((run.step_name, run.direction == BACKWARD))
        if job is not None:
            done, left = batches.get(job.id, (0, 0))
            entry["job"] = {
                "status": job.status,
                "percent": job.progress_percent,
                "total_rows": job.total_rows,
                "processed_rows": job.processed_rows,
                "written_rows": job.successful_rows,
                "rows_per_second": job.rows_per_second,
                "average_batch_ms": job.avg_batch_time,
                "batches_done": done,
                "batches_open": left,
                "batches_total": _all_batches(job.status, job.total_rows, job.processed_rows, done, left),
                "estimated_completion": job.estimated_completion,
            }
        change = changes.get(run.step_name)
        if change is not None:
            entry["change"] = describe_change(change)
    return runs


def online_changes(session: Session, row: ExecutionRow) -> Sequence[OnlineChangeRow]:
    """Return the online changes of an execution."""
    from sqlalchemy import select

    from segue.store.tables.online import OnlineChangeRow

    query = select(OnlineChangeRow).where(OnlineChangeRow.execution_id == row.id)
    return session.scalars(query.order_by(OnlineChangeRow.started_at)).all()


def describe_change(row: OnlineChangeRow) -> dict[str, Any]:
    """Return an online change as JSON values, with its shadow tables.

    `waiting` says why there is no swap yet, `slowed` why it is not faster; `rows_compared` counts while it verifies;
    `cleanup_due`: the time of its way back is over, and what was kept for it is still there.
    """
    metrics: Mapping[str, Any] = row.performance_metrics or {}
    swapped = datetime.fromisoformat(metrics["swapped_at"]) if metrics.get("swapped_at") else None
    days = max((shadow.retention_days for shadow in row.shadows), default=None)
    verified: Mapping[str, Any] = metrics.get("verified") or {}
    until = swapped + timedelta(days=days) if swapped and days is not None and row.phase == "reversible" else None
    return {
        "change": row.change_name,
        "execution": row.execution_id,
        "step": row.step_name,
        "table": row.table_name,
        "type": row.change_type,
        "column": row.column_name,
        "index": row.index_name,
        "strategy": row.strategy,
        "reasons": metrics.get("reasons") or [],
        "warnings": metrics.get("warnings") or [],
        "phase": row.phase,
        "percent": row.progress_percent,
        "rows_copied": row.rows_copied,
        "rows_compared": sum(one["rows"] for one in verified.values()) if verified else None,
        "total_rows": row.total_rows,
        "rows_per_second": metrics.get("rows_per_second"),
        "impact": row.impact_level,
        "throttling": row.throttling,
        "slowed": metrics.get("slowed"),
        "conflicts": metrics.get("conflicts") or 0,
        "waiting": metrics.get("waiting"),
        "blockers": metrics.get("blockers") or [],
        "wal": metrics.get("wal"),
        "started_at": row.started_at,
        "estimated_completion": row.estimated_completion,
        "completed_at": row.completed_at,
        "swapped_at": swapped,
        "reversible_until": until,
        "cleanup_due": until is not None and until <= clock.now(),
        "metrics": metrics,
        "spec": row.change_spec,
        "shadows": [
            {
                "original": shadow.original_table,
                "shadow": shadow.shadow_table,
                "active": shadow.is_active,
                "sync": shadow.sync_status,
                "last_sync_at": shadow.last_sync_at,
                "checksum_original": shadow.checksum_original,
                "checksum_shadow": shadow.checksum_shadow,
                "rows_original": shadow.row_count_original,
                "rows_shadow": shadow.row_count_shadow,
                "retention_days": shadow.retention_days,
                "marked_for_cleanup": shadow.marked_for_cleanup,
            }
            for shadow in row.shadows
        ],
    }


def _batches(session: Session, row: ExecutionRow) -> dict[str, tuple[int, int]]:
    """Return for each job how many batches are done, and how many are offered or worked on.

    They are not counted: there may be a million, somebody may look every second, and their numbers have no gaps.
    """
    from sqlalchemy import func, select

    from segue.model.lifecycles import BatchStatus
    from segue.store.tables.jobs import BatchRow, JobRow

    def of(what: Any, *conditions: Any) -> Any:
        return select(what).where(BatchRow.job_id == JobRow.id, *conditions).scalar_subquery()

    query = select(
        JobRow.id,
        func.coalesce(of(func.max(BatchRow.batch_number)) - of(func.min(BatchRow.batch_number)) + 1, 0),
        of(func.count(), BatchRow.status.in_([BatchStatus.PENDING, BatchStatus.RUNNING, BatchStatus.FAILED])),
    ).where(JobRow.execution_id == row.id)
    return {job: (made - left, left) for job, made, left in session.execute(query)}


def _all_batches(status: str, rows: int | None, processed: int, done: int, left: int) -> int | None:
    """Return how many batches a job should come to; None where nobody knows how many rows there are."""
    from segue.model.lifecycles import JobStatus

    if status == JobStatus.COMPLETED:
        return done + left
    if not done or not processed or not rows or processed >= rows:
        return None
    return max(done + left, round(done * rows / processed))


def _workers(session: Session, row: ExecutionRow) -> tuple[str | None, list[dict[str, Any]]]:
    """Return which worker drives an execution, and those whose copy slots help with it."""
    from sqlalchemy import func, select

    from segue.store.tables.workers import WorkerRow

    driver: str | None = None
    slots: dict[tuple[str, str, str], int] = {}
    alive = select(WorkerRow).where(
        WorkerRow.status != "stopped",
        WorkerRow.heartbeat_at > func.clock_timestamp() - SILENT_AFTER,
        WorkerRow.doing.contains([{"execution": row.id}]),
    )
    for worker in session.scalars(alive.order_by(WorkerRow.name)):
        if (row.lease_owner or "").endswith(f"@{worker.host} pid {worker.pid}"):
            driver = worker.name
        for entry in worker.doing:
            if entry["execution"] == row.id and entry["queue"] == WorkQueue.SLOTS:
                key = (worker.name, worker.host, entry["step"])
                slots[key] = slots.get(key, 0) + 1
    helpers = [{"worker": name, "host": host, "step": step, "slots": n} for (name, host, step), n in slots.items()]
    return driver, helpers


def _next(session: Session, row: ExecutionRow, *, alive: bool) -> str | None:
    """Return what a person can do now, where the execution does not go on by itself."""
    if row.status == ExecutionStatus.WAITING:
        waiting: Mapping[str, Any] = row.waiting_for or {}
        if waiting.get("kind") == "worker" and worker_alive(session):
            return None
        if waiting.get("hint"):
            return str(waiting["hint"])
        return None if row.handed_over else f"`segue resume {row.id}` looks again"
    if row.status == ExecutionStatus.PENDING and not row.handed_over:
        return f"`segue resume {row.id}` begins"
    if row.status == ExecutionStatus.COMPLETED:
        return _cleanup_due(session, row)
    if row.status == ExecutionStatus.PAUSED:
        return f"`segue resume {row.id}` goes on"
    if row.status == ExecutionStatus.RUNNING and not alive:
        if not row.handed_over:
            return "its process is gone; `segue resume` goes on, `segue rollback` takes it back"
        if worker_alive(session):
            return "its worker is gone; another one takes over"
        return "its worker is gone, and no other one is running: start one with `segue worker`"
    return None


def _cleanup_due(session: Session, row: ExecutionRow) -> str | None:
    """Return what to do about old tables that were kept for as long as they were to be."""
    due = [change.table_name for change in online_changes(session, row) if describe_change(change)["cleanup_due"]]
    if not due or worker_alive(session, WorkQueue.EXECUTIONS):
        return None
    what = f"the old table of {due[0]}" if len(due) == 1 else f"the old tables of {', '.join(due)}"
    return (
        f"the way back is over: `segue change cleanup --env {row.environment.name}` drops {what}, "
        "as a worker does by itself"
    )


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


def now(session: Session) -> datetime:
    """Return the time by the store's clock, which all that is stored goes by."""
    from sqlalchemy import func, select

    found: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return found


def last_line(session: Session, row: ExecutionRow, *, back: int = 0) -> int:
    """Return the id of the log's line after which `back` lines come; 0 where there are no more than that."""
    from sqlalchemy import select

    from segue.store.tables.executions import LogRow

    query = select(LogRow.id).where(LogRow.execution_id == row.id).order_by(LogRow.id.desc())
    return session.scalar(query.offset(back).limit(1)) or 0


def goes_on(row: ExecutionRow) -> bool:
    """Return whether something may still happen to an execution by itself: a process or the workers have it."""
    busy = (ExecutionStatus.PENDING, ExecutionStatus.WAITING, ExecutionStatus.RUNNING)
    return driven(row) or (row.handed_over and row.status in busy)


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
            about = {"execution": execution, "at": line["at"]}
            watch(Event(line["action"], line["message"], line["step"], line["level"], detail, **about))
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
    if worker_alive(session):
        return f"execution {execution} is the workers' now; `segue status {execution}` shows how far it is"
    return f"execution {execution} waits for a worker, and none is running: start one with `segue worker`"


def worker_alive(session: Session, queue: WorkQueue | None = None) -> bool:
    """Return whether a worker runs, or one that takes what is in a queue."""
    from sqlalchemy import func, select

    from segue.store.tables.workers import WorkerRow

    alive = select(WorkerRow.id).where(
        WorkerRow.status == "running", WorkerRow.heartbeat_at > func.clock_timestamp() - SILENT_AFTER
    )
    if queue is not None:
        alive = alive.where(WorkerRow.queues.contains([str(queue)]))
    return session.scalar(alive.limit(1)) is not None
