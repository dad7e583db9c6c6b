"""Keeps the store's record of chunked work up to date: the job, its batches, its rates and its end."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine import journal
from segue.engine.control import CancelRequested, PauseRequested
from segue.errors import FenceLost, Interrupted
from segue.model.lifecycles import BatchStatus, JobStatus
from segue.store.tables.jobs import BatchRow, JobRow
from segue.store.transitions import advance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from segue.engine.record import Record
    from segue.ports import Chunk, ChunkedWork
    from segue.store import Store

WRITE_SECONDS = 1.0


class Job:
    """See `segue.ports.JobRecord`. The target knows how far the work is; this follows it, a second behind.

    Opened again after a death, it first takes over the chunks that the target has and the store has not.
    """

    def __init__(
        self,
        store: Store,
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

        self._store = store
        self._record = record
        self._step = step
        self._new: list[Chunk] = []
        self._began = self._written = clock.ticks()
        #: Called with the rows of each chunk.
        self.on_rows: Callable[[int], None] = lambda rows: None
        self._total = work.estimate()
        self._session_rows = 0
        done = work.progress()
        self._keys = sum(chunk.keys for chunk in done)
        self._rows = sum(chunk.rows for chunk in done)
        self._count = len(done)
        self._time = sum(chunk.milliseconds for chunk in done)
        with store.session() as session:
            record.guard(session)
            job = session.scalars(select(JobRow).where(JobRow.job_name == name)).one_or_none()
            if job is None:
                job = JobRow(
                    id=new_id(),
                    job_name=name,
                    migration_plan_id=plan_id,
                    source_table=table,
                    target_table=table,
                    batch_size=settings["batch_size"],
                    parallel_workers=settings["workers"],
                    throttle_ms=settings["throttle_ms"],
                    transformation_script=settings["script"],
                    filter_condition=settings["filter"],
                    max_retries=settings["max_retries"],
                    execution_id=record.execution,
                    step_name=step,
                    kind="backfill",
                    params=dict(settings),
                    total_rows=self._total,
                )
                session.add(job)
                session.flush()
            if job.status != JobStatus.RUNNING:
                advance(
                    session,
                    job,
                    JobStatus.RUNNING,
                    actor=record.actor,
                    started_at=job.started_at or clock.now(),
                    paused_at=None,
                    total_rows=self._total,
                )
            self._id = job.id
            self._started_at = job.started_at
            known = self._agree(session, {chunk.number: _key(chunk.until) for chunk in done})
        self._new = [chunk for chunk in done if chunk.number not in known]
        journal.point("job-opened")
        if self._new:
            self._flush()

    def _agree(self, session: Session, done: dict[int, str | None]) -> set[int]:
        """Forget batches that the target does not show; return the numbers of those that both have.

        Chunks are committed asynchronously: a server that crashes loses the last ones, rows and progress together,
        and their numbers come again with other keys.
        """
        from sqlalchemy import delete, select

        kept, gone = set(), []
        for row in session.execute(
            select(BatchRow.id, BatchRow.batch_number, BatchRow.end_key).where(BatchRow.job_id == self._id)
        ):
            if row.batch_number in done and done[row.batch_number] == row.end_key:
                kept.add(row.batch_number)
            else:
                gone.append(row.id)
        if gone:
            session.execute(delete(BatchRow).where(BatchRow.id.in_(gone)))
        return kept

    def chunk(self, chunk: Chunk) -> None:
        """Take note of a finished chunk."""
        self._new.append(chunk)
        self._keys += chunk.keys
        self._rows += chunk.rows
        self.on_rows(chunk.rows)
        self._session_rows += chunk.keys
        self._count += 1
        self._time += chunk.milliseconds
        if clock.ticks() - self._written >= WRITE_SECONDS:
            self._flush()

    def finish(self) -> None:
        """Close the record as completed."""
        self._flush(percent=100.0)
        self._close(JobStatus.COMPLETED, completed_at=clock.now(), total_rows=self._keys, estimated_completion=None)

    def stop(self, error: BaseException) -> None:
        """Close the record for now."""
        if isinstance(error, FenceLost):
            return  # the job is another process's by now
        self._flush()
        if isinstance(error, PauseRequested | Interrupted | KeyboardInterrupt):
            self._close(JobStatus.PAUSED, paused_at=clock.now())
        elif isinstance(error, CancelRequested):
            self._close(JobStatus.CANCELLED, completed_at=clock.now())
        else:
            self._close(JobStatus.FAILED)

    def _close(self, status: JobStatus, **columns: Any) -> None:
        with self._store.session() as session:
            self._record.guard(session)
            job = session.get(JobRow, self._id)
            if job is not None and job.status != status:
                advance(session, job, status, actor=self._record.actor, **columns)
        journal.point(f"job-{status}")

    def _flush(self, percent: float | None = None) -> None:
        from sqlalchemy import insert, update

        from segue.store.ids import new_id

        chunks, self._new = self._new, []
        now = clock.now()
        self._written = clock.ticks()
        took = max(self._written - self._began, 0.001)
        rate = self._session_rows / took
        left = max(0, self._total - self._keys) if percent is None else 0
        # A table that was never analysed has no estimate, one that grew has a low one: nothing is known then about
        # what is left, and "all of it" would be a lie until the walk finds the end.
        known = percent is not None or self._keys < self._total
        share = percent if percent is not None else min(99.9, 100.0 * self._keys / max(self._total, self._keys, 1))
        completion = now + timedelta(seconds=left / rate) if rate and known else None
        with self._store.session() as session:
            self._record.guard(session)
            if chunks:
                session.execute(
                    insert(BatchRow),
                    [
                        {
                            "id": new_id(),
                            "job_id": self._id,
                            "batch_number": chunk.number,
                            "start_key": _key(chunk.after),
                            "end_key": _key(chunk.until),
                            "row_count": chunk.keys,
                            "status": BatchStatus.COMPLETED,
                            "worker_id": chunk.worker,
                            "execution_time": chunk.milliseconds,
                            "processed_rows": chunk.keys,
                            "successful_rows": chunk.rows,
                            "started_at": now - timedelta(milliseconds=chunk.milliseconds),
                            "completed_at": now,
                        }
                        for chunk in chunks
                    ],
                )
            session.execute(
                update(JobRow)
                .where(JobRow.id == self._id)
                .values(
                    progress_percent=share,
                    processed_rows=self._keys,
                    successful_rows=self._rows,
                    skipped_rows=self._keys - self._rows,
                    rows_per_second=rate or None,
                    avg_batch_time=self._time / self._count if self._count else None,
                    estimated_completion=completion,
                )
            )
        journal.point("job-written")
        self._record.tell(
            "progress",
            f"{self._keys:,} of about {self._total:,} rows" if known else f"{self._keys:,} rows, more to come",
            step=self._step,
            done=self._keys,
            total=max(self._total, self._keys) if known else None,
            percent=share if known else None,
            rows_per_second=rate,
            seconds_left=left / rate if rate and known else None,
        )


def _key(key: tuple[str, ...] | None) -> str | None:
    """Return a key as the store keeps it: JSON."""
    return json.dumps(key) if key is not None else None
