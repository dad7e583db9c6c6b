"""A job whose rows are brought, range by range, into a temporary table of the target.

That is so where the source is in another database, and where a function gives columns. All else is as within one
database: expressions, lookups and checks work on that table, in the target, in the transaction that records the range.
Only what cuts the ranges asks the source.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.moving.snapshot import columns_of
from segue.databases.postgresql.passing import pass_through
from segue.errors import OutcomeUnknown, StepRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from segue.databases.postgresql.jobs.tables import Key, Table

    Connection = psycopg.Connection[tuple[Any, ...]]

#: The temporary table; statements call it by the source's name, as the plan's expressions do.
STAGED = "segue_job_source"

_ALL = sql.SQL("")

_PINS = {"default_transaction_read_only": "on", "enable_seqscan": "off", "jit": "off"}

_TEXTS = ("text", "character varying", "character", "name", "citext")
_COLLATION = """
select d.datcollate || ' ' || pg_catalog.current_setting('server_version_num')::integer / 10000
from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()
"""


def open_far(url: str, schema: str, application: str) -> Connection:
    """Open a session on the source, in which nothing can be written."""
    return open_session(url, application=application, schema=schema, pins=_PINS)


class Import:
    """What brings a table's rows; opens a session on the source for each that works."""

    def __init__(self, url: str, schema: str, application: str, table: Table, near: Connection) -> None:
        """Look how the columns come over; `near` is a session of the target."""
        self.table = table
        self._url, self._schema, self._application = url, schema, application
        self._columns: list[tuple[str, str, bool]] = []
        #: The plan's filter, where it says the same in the source: then rows that it leaves out stay there.
        self.filter: str | None = None
        known: list[bool] = []
        with self.session() as far:
            columns = columns_of(far, table.identifier.as_string(far))
            kinds = [column.type for column in columns.values()]
            row = near.execute(
                "select array(select pg_catalog.to_regtype(k) is not null from unnest(%s::text[]) "
                "with ordinality as t (k, n) order by n)",
                [kinds],
            ).fetchone()
            known = row[0] if row else []
        for column, there in zip(columns.values(), known, strict=True):
            # A type that the target does not have comes as its text.
            self._columns.append((column.name, column.type if there else "text", there))
        self._binary = all(column.plain for column in columns.values())

    @property
    def staged(self) -> Table:
        """Return the source as it stands in statements on the target."""
        columns = {
            name: replace(self.table.columns[name], type=kind, generated=False) for name, kind, _ in self._columns
        }
        return replace(self.table, columns=columns, staged=sql.Identifier("pg_temp", STAGED))

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Open a session on the source, in which the source's errors are told as such."""
        connection = open_far(self._url, self._schema, self._application)
        try:
            with self.telling(connection):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def telling(self, connection: Connection) -> Iterator[None]:
        """Let no error of the driver's on the source leave."""
        try:
            yield
        except psycopg.Error as error:
            if connection.closed:
                raise OutcomeUnknown(
                    f"the connection to the source, {place(self._url)}, was lost",
                    hint="run again: progress is kept in the target, with the rows",
                ) from error
            raise explain(error, place(self._url)) from error

    def stage(self, near: Connection) -> None:
        """Make the temporary table in a session of the target."""
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in self._staged()
        )
        statement = sql.SQL("create temp table if not exists {} ({}) on commit delete rows").format(
            sql.Identifier(STAGED), columns
        )
        near.execute(statement.as_string(near).encode())

    def bringing(self, far: Connection) -> Bringing:
        """Return what brings rows by a session on the source."""
        return Bringing(self, far)

    def reading(self, condition: sql.Composable, *, text: bool = False, limit: sql.Composable = _ALL) -> sql.Composed:
        """Return the COPY of the rows that fulfil a condition, and the filter where the source applies that."""
        columns = sql.SQL(", ").join(
            sql.Identifier(name) if known else sql.SQL("{}::text").format(sql.Identifier(name))
            for name, _, known in self._columns
        )
        if self.filter is not None:
            # A line of its own: a comment at its end must not swallow what comes after it.
            condition = sql.SQL("{} and (\n{}\n)").format(condition, sql.SQL(self.filter))
        return sql.SQL("copy (select {} from {} where {}{}) to stdout {}").format(
            columns, self.table.identifier, condition, limit, self._form(text)
        )

    def writing(self, *, text: bool = False) -> sql.Composed:
        """Return the COPY into the temporary table."""
        names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in self._staged())
        return sql.SQL("copy pg_temp.{} ({}) from stdin {}").format(sql.Identifier(STAGED), names, self._form(text))

    def _form(self, text: bool) -> sql.Composable:
        return sql.SQL("(format {})").format(sql.SQL("binary" if self._binary and not text else "text"))

    def _staged(self) -> list[tuple[str, str]]:
        """Return the columns of the temporary table, with their types."""
        return [(name, kind) for name, kind, _ in self._columns]

    def check_key(self, key: Key, far: Connection, near: Connection) -> None:
        """Refuse a key that the two databases would not put in the same order."""
        kinds = dict(zip(key.names, key.types, strict=True))
        for name, kind in kinds.items():
            row = near.execute("select pg_catalog.to_regtype(%s) is null", [kind]).fetchone()
            if row and row[0]:
                raise StepRefused(
                    f'the key column "{name}" of "{self.table.said}" is of the type {kind}, which the target lacks',
                    hint="make the type there, or give the source a unique index over columns of other types",
                )
        texts = [
            name
            for (name, kind), collation in zip(kinds.items(), key.collations, strict=True)
            if collation is None and kind.partition("(")[0] in _TEXTS
        ]
        if texts and self._order(far) != self._order(near):
            raise StepRefused(
                f'the key column "{texts[0]}" of "{self.table.said}" is a text, and the two databases may not sort it '
                "alike",
                hint='give the source a unique index over numbers, or over the text with COLLATE "C"',
            )

    def _order(self, connection: Connection) -> str:
        row = connection.execute(_COLLATION).fetchone()
        return str(row[0]) if row else ""


class Bringing:
    """Brings ranges of rows: each is fetched before the transaction that is to have it, and put there within it."""

    #: How many rows were put that nothing can be done with but to reject them; see `transforming`.
    faults = 0

    def __init__(self, importing: Import, far: Connection) -> None:
        self._importing = importing
        self._far = far
        self._wanted: sql.Composable = sql.SQL("false")

    def fetch(
        self,
        condition: sql.Composable,
        *,
        beat: Callable[[], object] = lambda: None,
        fault: Mapping[str, Any] | None = None,
    ) -> None:
        """Say which rows are wanted.

        Where a function is called for them, it is called here, and `beat` meanwhile; not with `fault`, which is what is
        wrong with them all. Raises ChunkTooSlow when it does not come to its end.
        """
        self._wanted = condition

    def put(self, near: Connection) -> None:
        """Put the rows that were fetched into the temporary table, in the target's transaction."""
        importing = self._importing
        try:
            pass_through(
                self._far,
                importing.reading(self._wanted),
                near,
                importing.writing(),
                reading=lambda: importing.telling(self._far),
            )
        except psycopg.Error as error:
            if near.closed or near.info.transaction_status is TransactionStatus.INERROR:
                raise
            # The target knows of no error: it was the source's.
            with importing.telling(self._far):
                raise error

    def close(self) -> None:
        """End what was begun for it; the session is whoever opened it's."""
