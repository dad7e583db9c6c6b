"""A data job from one table to another: what is done with its rows, and at its end."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.databases.postgresql.jobs.resolving import Resolver
from segue.databases.postgresql.jobs.work import JobWork
from segue.databases.postgresql.jobs.writing import ImportWriter, JobWriter
from segue.databases.postgresql.lease import check_fence
from segue.errors import InvalidInput
from segue.model.jobs import RowError
from segue.ports import FORWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import psycopg

    from segue.databases.postgresql.rows import Writer
    from segue.ports import ChunkWriter

_REJECTED = """
select id, key, error_type, message, batch, sqlstate, stack, source, target, occurred_at, resolution, note, resolved_by,
    resolved_at
from segue.rejected where execution = %(execution)s and step = %(step)s
"""

# Only forward: what the application has taken from the sequence meanwhile stays taken.
_SEQUENCES = """
select a.attname, pg_catalog.pg_get_serial_sequence(%(table)s, a.attname)
from pg_catalog.pg_attribute as a
where a.attrelid = %(table)s::regclass and a.attname = any(%(columns)s)
    and pg_catalog.pg_get_serial_sequence(%(table)s, a.attname) is not null
"""


class PostgresJob(JobWork):
    """See `segue.ports.jobs.DataJob`."""

    def writer(self, connection: psycopg.Connection[Any], owner: str) -> Writer:
        """Return the writer of a labourer."""
        if self.importing is not None:
            return ImportWriter(self, self.importing, connection, owner)
        return JobWriter(self, connection, owner)

    @contextmanager
    def open(self, owner: str) -> Iterator[ChunkWriter]:
        """Open one labourer's sessions."""
        with super().open(owner) as writer:
            try:
                yield writer
            finally:
                if isinstance(writer, ImportWriter):
                    writer.close()

    # -- rejected rows

    def rejected(self, after: int = 0, *, limit: int = 1000) -> list[RowError]:
        """Return rows that could not be written; on the way back none is."""
        if self.effect.direction != FORWARD:
            return []
        with self._telling(self._connection):
            return [
                _row_error(row)
                for row in self._connection.execute(
                    (_REJECTED + " and id > %(after)s order by id limit %(limit)s").encode(),
                    {**self.whose, "after": after, "limit": limit},
                )
            ]

    def rejected_row(self, key: Sequence[str]) -> RowError | None:
        """Return a rejected row by its key."""
        with self._telling(self._connection):
            query = (_REJECTED + " and key = %(key)s").encode()
            found = self._connection.execute(query, {**self.whose, "key": list(key)}).fetchone()
        return _row_error(found) if found else None

    def retry(self, key: Sequence[str], by: str) -> RowError | None:
        """Try to write a row again."""
        with self._telling(self._connection):
            done = Resolver(self).retry(self._connection, key, by)
        return None if done else self.rejected_row(key)

    def correct(self, key: Sequence[str], values: Mapping[str, Any], by: str) -> RowError | None:
        """Write a rejected row with other values."""
        for name in values:
            if name not in self.columns:
                raise InvalidInput(
                    f'the job writes no column "{name}" of "{self.target}"',
                    hint=f"it writes {', '.join(self.columns)}",
                )
        with self._telling(self._connection):
            done = Resolver(self).correct(self._connection, key, json.dumps(values), by)
        return None if done else self.rejected_row(key)

    def skip(self, key: Sequence[str], by: str, note: str) -> None:
        """Leave a rejected row out for good."""
        with self._telling(self._connection):
            Resolver(self).skip(self._connection, key, by, note)

    # -- the end

    def finish(self, note: Callable[[str], None]) -> None:
        """Lead the target's sequences on, and close the errors at which the job had stopped before."""
        target = self.wording.target
        name = target.identifier.as_string(self._connection)
        with self._telling(self._connection), self._connection.transaction():
            check_fence(self._connection, self.lease.execution, self.lease.fence)
            self._connection.execute(
                "update segue.rejected set resolution = 'written', note = 'written when the job went on', "
                "resolved_by = %(by)s, resolved_at = clock_timestamp() "
                "where execution = %(execution)s and step = %(step)s and stopped and resolution is null",
                {**self.whose, "by": self.holder},
            )
            found = self._connection.execute(
                _SEQUENCES.encode(), {"table": name, "columns": list(self.columns)}
            ).fetchall()
            for column, sequence in found:
                self._lead_on(column, sequence, note)

    def _lead_on(self, column: str, sequence: str, note: Callable[[str], None]) -> None:
        moved = self._connection.execute(
            sql.SQL(
                "select pg_catalog.setval({}, m.most) from (select max({}) as most from {}) as m, {} as s "
                "where m.most >= 1 and (m.most > s.last_value or (m.most = s.last_value and not s.is_called))"
            ).format(sql.Literal(sequence), sql.Identifier(column), self.wording.target.identifier, sql.SQL(sequence))
        ).fetchone()
        if moved is not None:
            note(f'the sequence {sequence} of "{column}" goes on after {moved[0]:,}')

    def take_back_corrected(self) -> int:
        """Remove what was written with corrected values, where it is still as it was."""
        with self._telling(self._connection):
            return Resolver(self).take_back(self._connection)


def _row_error(row: tuple[Any, ...]) -> RowError:
    number, key, kind, *rest = row
    return RowError(number, tuple(key), kind, *rest)
