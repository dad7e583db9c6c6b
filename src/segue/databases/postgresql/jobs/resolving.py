"""What a person decides about rejected rows: try again, write other values, or leave out; each in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.jobs.process import CallEnded
from segue.databases.postgresql.jobs.sifting import is_row_fault
from segue.databases.postgresql.lease import check_fence
from segue.errors import Blocked, NotFound

if TYPE_CHECKING:
    from datetime import datetime

    from segue.databases.postgresql.jobs.work import JobWork

    Connection = psycopg.Connection[tuple[Any, ...]]

_ITS = sql.SQL("where execution = %(execution)s and step = %(step)s and key = %(key)s")

_RESOLVE = sql.SQL(
    "update segue.rejected set resolution = %(resolution)s, note = %(note)s, resolved_by = %(by)s, "
    "resolved_at = clock_timestamp(), target = coalesce(target, '{{}}') || coalesce(%(values)s::jsonb, '{{}}') {}"
).format(_ITS)
_AGAIN = sql.SQL(
    "update segue.rejected set error_type = %(type)s, sqlstate = %(state)s, message = %(message)s, "
    "stack = %(stack)s, target = coalesce(target, '{{}}') || coalesce(%(values)s::jsonb, '{{}}'), "
    "occurred_at = clock_timestamp() {}"
).format(_ITS)
_OPEN = sql.SQL("select resolution, occurred_at from segue.rejected {} for update").format(_ITS)
_TAKEN_BACK = sql.SQL("update segue.rejected set resolution = 'skipped', note = 'taken back' {}").format(_ITS)
_CORRECTED = (
    "select key, target::text from segue.rejected "
    "where execution = %(execution)s and step = %(step)s and resolution = 'corrected' order by id for update"
)


class Resolver:
    """Resolves the rejected rows of a job."""

    def __init__(self, work: JobWork) -> None:
        self._work = work

    def retry(self, connection: Connection, key: Sequence[str], by: str) -> bool:
        """Write the row as its source has it now; return whether that went well."""
        put = self._work.wording.put(self._work.holds(key), None)
        try:
            self._work.fetch(key)
        except CallEnded as error:
            self._again(connection, key, {"type": error.kind, "state": "", "message": str(error), "stack": None})
            return False
        values = {"resolution": "retried", "note": None, "by": by, "values": None}
        return self._write(connection, key, put, values, fetched=True)

    def correct(self, connection: Connection, key: Sequence[str], values: str, by: str) -> bool:
        """Write the row as it would have been, with the values that are given as JSON; return whether it went well."""
        meant = sql.SQL(
            "(select coalesce(target, '{{}}') || {}::jsonb from segue.rejected "
            "where (execution, step, key) = ({}, {}, {}::text[]))"
        ).format(sql.Literal(values), *map(sql.Literal, self._whose(key).values()))
        put = self._work.wording.put_values(meant)
        return self._write(connection, key, put, {"resolution": "corrected", "note": None, "by": by, "values": values})

    def skip(self, connection: Connection, key: Sequence[str], by: str, note: str) -> None:
        """Leave the row out."""
        with self._open(connection, key):
            values = {"resolution": "skipped", "note": note, "by": by, "values": None}
            connection.execute(_RESOLVE, {**self._whose(key), **values})

    def _write(
        self,
        connection: Connection,
        key: Sequence[str],
        put: sql.Composable,
        values: dict[str, Any],
        *,
        fetched: bool = False,
    ) -> bool:
        try:
            with self._open(connection, key) as before:
                connection.execute("set constraints all immediate")
                if fetched and not self._work.put_fetched(connection):
                    return False
                rows = connection.execute(put.as_string(connection).encode()).rowcount
                if not rows and self._rejected_anew(connection, key, before):
                    return False
                if not rows:
                    values = {**values, "note": self._why_none(key)}
                connection.execute(_RESOLVE, {**self._whose(key), **values})
        except psycopg.Error as error:
            if connection.closed or not is_row_fault(error):
                raise
            self._again(connection, key, _words_of(error), values["values"])
            return False
        return True

    def _rejected_anew(self, connection: Connection, key: Sequence[str], before: datetime) -> bool:
        row = connection.execute(_OPEN, self._whose(key)).fetchone()
        return row is not None and row[1] != before

    def _why_none(self, key: Sequence[str]) -> str:
        """Return why nothing was there to be written, or raise where that settles nothing."""
        if self._work.spec.on_conflict == "skip":
            return "the target has its key already"
        raise Blocked(
            f"the row ({', '.join(key)}) is gone from the source, or the job leaves it out",
            hint="`segue job resolve --skip` leaves it out for good",
        )

    def _again(
        self, connection: Connection, key: Sequence[str], words: dict[str, Any], values: str | None = None
    ) -> None:
        """Keep why the row still cannot be written."""
        with self._open(connection, key):
            connection.execute(_AGAIN, {**self._whose(key), **words, "values": values})

    def take_back(self, connection: Connection) -> int:
        """Remove what was written with corrected values, where it still is as it was written; return how many rows."""
        removed = 0
        with self._fenced(connection):
            for key, values in connection.execute(_CORRECTED.encode(), self._whose(())).fetchall():
                out = self._work.wording.take_out_values(sql.SQL("{}::jsonb").format(sql.Literal(values)))
                removed += connection.execute(out.as_string(connection).encode()).rowcount
                connection.execute(_TAKEN_BACK, self._whose(key))
        return removed

    @contextmanager
    def _open(self, connection: Connection, key: Sequence[str]) -> Iterator[datetime]:
        """Hold a rejected row that nobody has resolved; give when it was rejected last."""
        with self._fenced(connection):
            row = connection.execute(_OPEN, self._whose(key)).fetchone()
            if row is None:
                raise NotFound(f"the job has rejected no row ({', '.join(key)})", hint="`segue job errors` lists them")
            if row[0] is not None:
                raise Blocked(f"the row ({', '.join(key)}) is {row[0]} already")
            yield row[1]

    @contextmanager
    def _fenced(self, connection: Connection) -> Iterator[None]:
        work = self._work
        with connection.transaction():
            check_fence(connection, work.lease.execution, work.lease.fence)
            yield

    def _whose(self, key: Sequence[str]) -> dict[str, Any]:
        return {**self._work.whose, "key": list(key)}


def _words_of(error: psycopg.Error) -> dict[str, Any]:
    state = error.sqlstate or ""
    kind = {"23": "constraint", "P0": "validation"}.get(state[:2], "transformation")
    message = ": ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
    return {"type": kind, "state": state, "message": message, "stack": error.diag.context}
