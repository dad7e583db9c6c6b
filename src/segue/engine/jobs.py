"""Keeps the store's record of chunked work up to date: the job, its batches, its rates and its end."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine import journal
from segue.engine.control import CancelRequested, Halted, MustWait, PauseRequested
from segue.engine.rejections import Rejections
from segue.errors import FenceLost, Interrupted
from segue.model.lifecycles import BatchStatus, JobStatus
from segue.ports.jobs import RejectingWork
from segue.store.tables.jobs import BatchRow, JobRow
from segue.store.transitions import advance, follow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from segue.engine.record import Record
    from segue.ports import Batch, ChunkedWork

WRITE_SECONDS = 1.0


class Job:
    """See `segue.ports.JobRecord`. The target knows how far the work is; this follows it, a second behind.

    Opened again after a death, it first brings the store's batches to what the target shows of them.
    """

    def __init__(
        self,
        record: Record,
        work: ChunkedWork,
        *,
        name: str,
        plan_id: str,
        step: str,
        table: str,
        settings: Mapping[str, Any],
    ) -> None:
        from sqlalchemy import select

        from segue.store.ids import new_id

        self._record = record
        self._step = step
        self._changed: dict[int, Batch] = {}
        self._began = self._written = clock.ticks()
        #: Called with the rows of each batch as they come.
        self.on_rows: Callable[[int], None] = lambda rows: None
        self._rejections = Rejections(work) if isinstance(work, RejectingWork) else None
        self._total = work.estimate()
        self._session_keys = 0
        known = work.board.known()
        #: Batches that are not done, as they were last heard of.
        self._open = {batch.number: batch for batch in known if batch.state != "done"}
        self._keys = sum(batch.written for batch in known)
        self._rows = sum(batch.rows for batch in known)
        self._count = sum(batch.state == "done" for batch in known)
        self._time = sum(batch.milliseconds for batch in known if batch.state == "done")

        # A store that is away is no failure of the step, and no reason to reach the target anew: it is waited for.
        def write(session: Session, again: bool) -> None:
            record.guard(session)
            job = session.scalars(select(JobRow).where(JobRow.job_name == name)).one_or_none()
            if job is None:
                job = JobRow(
                    id=new_id(),
                    job_name=name,
                    migration_plan_id=plan_id,
                    source_table=table,
                    target_table=settings.get("target", table),
                    batch_size=settings["batch_size"],
                    parallel_workers=settings["workers"],
                    throttle_ms=settings["throttle_ms"],
                    transformation_script=settings["script"],
                    filter_condition=settings["filter"],
                    max_retries=settings["max_retries"],
                    execution_id=record.execution,
                    step_name=step,
                    kind=settings.get("kind", "backfill"),
                    continue_on_error=settings.get("continue_on_error", False),
                    params=dict(settings),
                    total_rows=self._total,
                )
                session.add(job)
                session.flush()
            # Completed: its process died before the target was told, and nothing is left to be done.
            if job.status not in (JobStatus.RUNNING, JobStatus.COMPLETED):
                advance(
                    session,
                    job,
                    JobStatus.RUNNING,
                    actor=record.actor,
                    started_at=job.started_at or clock.now(),
                    paused_at=None,
                    total_rows=self._total,
                    current_retry=job.current_retry + (job.status == JobStatus.FAILED),
                )
            self._id = job.id
            self._started_at = job.started_at
            self._changed = {batch.number: batch for batch in self._agree(session, known)}

        record.written(write)
        journal.point("job-opened")
        if self._changed:
            self._flush()

    def _agree(self, session: Session, known: list[Batch]) -> list[Batch]:
        """Forget batches that the target does not show; return those that it shows otherwise.

        What is done is committed asynchronously: a server that crashes loses the last of it, rows and batches together,
        and the numbers come again with other keys.
        """
        from sqlalchemy import delete, select

        missing = {batch.number: batch for batch in known}
        gone = []
        for row in session.execute(
            select(BatchRow.id, BatchRow.batch_number, BatchRow.start_key, BatchRow.end_key, BatchRow.status).where(
                BatchRow.job_id == self._id
            )
        ):
            batch = missing.get(row.batch_number)
            if batch is None or (_key(batch.after), _key(batch.until)) != (row.start_key, row.end_key):
                gone.append(row.id)
            elif batch.state == "done" and row.status == BatchStatus.COMPLETED:
                del missing[row.batch_number]
        if gone:
            session.execute(delete(BatchRow).where(BatchRow.id.in_(gone)))
        return list(missing.values())

    def note(self, batches: Sequence[Batch]) -> None:
        """Take note of how batches stand by now."""
        for batch in batches:
            before = self._open.pop(batch.number, None)
            keys = batch.written - (before.written if before else 0)
            rows = batch.rows - (before.rows if before else 0)
            self._keys += keys
            self._rows += rows
            self._session_keys += keys
            if rows:
                self.on_rows(rows)
            if batch.state == "done":
                self._count += 1
                self._time += batch.milliseconds
            else:
                self._open[batch.number] = batch
            self._changed[batch.number] = batch
        if clock.ticks() - self._written >= WRITE_SECONDS:
            self._flush()

    def finish(self) -> None:
        """Close the record as completed."""
        self._flush(percent=100.0, ends=True)
        self._close(JobStatus.COMPLETED, completed_at=clock.now(), total_rows=self._keys, estimated_completion=None)

    def stop(self, error: BaseException) -> None:
        """Close the record for now."""
        if isinstance(error, FenceLost):
            return  # the job is another process's by now
        self._flush(ends=True)
        if isinstance(error, PauseRequested | Interrupted | KeyboardInterrupt | MustWait | Halted):
            self._close(JobStatus.PAUSED, paused_at=clock.now(), estimated_completion=None)
        elif isinstance(error, CancelRequested):
            self._close(JobStatus.CANCELLED, completed_at=clock.now(), estimated_completion=None)
        else:
            self._close(JobStatus.FAILED, estimated_completion=None)

    def _close(self, status: JobStatus, **columns: Any) -> None:
        def write(session: Session, again: bool) -> None:
            self._record.guard(session)
            job = session.get(JobRow, self._id)
            if job is not None and job.status != status:
                advance(session, job, status, actor=self._record.actor, **columns)

        self._record.written(write)
        journal.point(f"job-{status}")

    def _row(self, batch: Batch, now: datetime, failed: int) -> dict[str, Any]:
        from segue.store.ids import new_id

        done = batch.state == "done"
        return {
            "id": new_id(),
            "job_id": self._id,
            "batch_number": batch.number,
            "start_key": _key(batch.after),
            "end_key": _key(batch.until),
            "row_count": max(batch.keys, batch.written),
            "status": _status(batch),
            "worker_id": batch.owner or None,
            "execution_time": batch.milliseconds if done else None,
            "retry_count": batch.retries,
            "processed_rows": batch.written,
            "successful_rows": batch.rows,
            "failed_rows": failed,
            "started_at": batch.claimed_at,
            "completed_at": (batch.done_at or now) if done else None,
        }

    def _flush(self, percent: float | None = None, *, ends: bool = False) -> None:
        from sqlalchemy import update

        if self._rejections is not None and ends:
            self._rejections.try_read()
        elif self._rejections is not None:
            self._rejections.read(whole=False)
        failed = self._rejections.failed if self._rejections is not None else 0
        bad = self._rejections.by_batch() if self._rejections is not None else Counter[int]()
        good = self._rows + (self._rejections.settled if self._rejections is not None else 0)
        changed, self._changed = list(self._changed.values()), {}
        now = clock.now()
        self._written = clock.ticks()
        took = max(self._written - self._began, 0.001)
        rate = self._session_keys / took
        left = max(0, self._total - self._keys) if percent is None else 0
        # A table that was never analysed has no estimate, one that grew has a low one: nothing is known then about
        # what is left, and "all of it" would be a lie until the walk finds the end.
        known = percent is not None or self._keys < self._total
        share = percent if percent is not None else min(99.9, 100.0 * self._keys / max(self._total, self._keys, 1))
        completion = now + timedelta(seconds=left / rate) if rate and known else None

        def write(session: Session, again: bool) -> None:
            self._record.guard(session)
            if changed:
                follow(
                    session,
                    BatchRow,
                    ("job_id", "batch_number"),
                    [self._row(batch, now, bad[batch.number]) for batch in changed],
                )
            if self._rejections is not None:
                self._rejections.write(session, self._id)
            session.execute(
                update(JobRow)
                .where(JobRow.id == self._id)
                .values(
                    progress_percent=share,
                    processed_rows=self._keys,
                    successful_rows=good,
                    failed_rows=failed,
                    skipped_rows=max(0, self._keys - good - failed),
                    rows_per_second=rate or None,
                    avg_batch_time=self._time / self._count if self._count else None,
                    estimated_completion=completion,
                )
            )

        self._record.written(write)
        if self._rejections is not None:
            self._rejections.written()
        journal.point("job-written")
        self._record.tell(
            "progress",
            f"{self._keys:,} rows{'' if percent is not None else ', more to come'}"
            if percent is not None or not known
            else f"{self._keys:,} of about {self._total:,} rows",
            step=self._step,
            done=self._keys,
            total=max(self._total, self._keys) if known else None,
            percent=share if known else None,
            rows_per_second=rate,
            seconds_left=left / rate if rate and known else None,
        )


def _status(batch: Batch) -> BatchStatus:
    """Return the word of the store for how a batch stands."""
    if batch.failure is not None:
        return BatchStatus.FAILED
    return {"claimed": BatchStatus.RUNNING, "done": BatchStatus.COMPLETED}.get(batch.state, BatchStatus.PENDING)


def _key(key: tuple[str, ...] | None) -> str | None:
    """Return a key as the store keeps it: JSON."""
    return json.dumps(key) if key is not None else None
