"""Brings the rows that a job has rejected from its target to the store."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from segue.errors import SegueError
from segue.store.tables.jobs import BatchRow, JobErrorRow
from segue.store.transitions import follow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from segue.model.jobs import RowError
    from segue.ports.jobs import RejectingWork

_PAGE = 1000


class Rejections:
    """The rejected rows of a job, as last heard of."""

    def __init__(self, work: RejectingWork) -> None:
        self._work = work
        self._last = 0
        self._unread: list[RowError] = []
        #: By the target's number: the batch, and what became of the row.
        self._known: dict[int, tuple[int | None, str | None]] = {}
        self._whole = False

    @property
    def failed(self) -> int:
        """Return how many rows nobody has settled."""
        return sum(resolution is None for _, resolution in self._known.values())

    @property
    def settled(self) -> int:
        """Return how many rows were written by a person's decision, outside of every batch."""
        return sum(resolution in ("retried", "corrected") for _, resolution in self._known.values())

    def by_batch(self) -> Counter[int]:
        """Return how many rows each batch has rejected."""
        return Counter(batch for batch, _ in self._known.values() if batch is not None)

    def read(self, *, whole: bool) -> None:
        """Read those that came since; `whole`: all of them anew, with what became of each.

        Numbers are given before their transactions end: one that is read late has a lower number than others.
        """
        if whole:
            self._last, self._known, self._unread = 0, {}, []
        while found := self._work.rejected(self._last, limit=_PAGE):
            self._known.update((one.id, (one.batch, one.resolution)) for one in found)
            self._unread += found
            self._last = found[-1].id
        self._whole = whole

    def try_read(self) -> None:
        """Read all of them, if the target can be reached."""
        before = self._last, self._known, self._unread
        try:
            self.read(whole=True)
        except SegueError:
            # Whoever goes on reads them.
            self._last, self._known, self._unread = before
            self._whole = False

    def write(self, session: Session, job: str) -> None:
        """Write what was read to the store; what the target does not show any more is no error."""
        from sqlalchemy import delete, select, update

        brought(session, job, self._unread)
        if not self._whole:
            return
        there = {identity_of(job, number) for number in self._known}
        gone = set(session.scalars(select(JobErrorRow.id).where(JobErrorRow.job_id == job))) - there
        if gone:
            session.execute(delete(JobErrorRow).where(JobErrorRow.id.in_(gone)))
        for number, count in self.by_batch().items():
            session.execute(
                update(BatchRow)
                .where(BatchRow.job_id == job, BatchRow.batch_number == number, BatchRow.failed_rows != count)
                .values(failed_rows=count)
            )

    def written(self) -> None:
        """Take note that the store has what was read."""
        self._unread = []


def as_row(job: str, one: RowError) -> dict[str, Any]:
    """Return a rejected row as the store keeps it."""
    return {
        "id": identity_of(job, one.id),
        "job_id": job,
        "batch_number": one.batch,
        "row_key": json.dumps(one.key),
        "error_type": one.type,
        "error_message": one.message,
        "stack_trace": one.stack,
        "source_data": one.source,
        "target_data": one.target,
        "is_resolved": one.resolution is not None,
        "resolution": ": ".join(filter(None, (one.resolution, one.note))) or None,
        "resolved_by": one.resolved_by,
        "resolved_at": one.resolved_at,
        "occurred_at": one.occurred_at,
    }


def brought(session: Session, job: str, rows: Sequence[RowError]) -> None:
    """Bring the store to what the target shows of these rows."""
    for at in range(0, len(rows), _PAGE):
        follow(session, JobErrorRow, ("id",), [as_row(job, one) for one in rows[at : at + _PAGE]])


def identity_of(job: str, number: int) -> str:
    """Return the id of a row of the store: the same whenever it is brought there."""
    return "e" + hashlib.sha256(f"{job}/{number}".encode()).hexdigest()[:23]
