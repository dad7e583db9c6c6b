"""A job whose source is in another database: its rows are brought, range by range, into a temporary table.

All else is as within one database: expressions, lookups and checks work on that table, in the target, in the
transaction that records the range. Only what cuts the ranges asks the source.
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
    from collections.abc import Iterator

    from segue.databases.postgresql.jobs.tables import Key, Table

    Connection = psycopg.Connection[tuple[Any, ...]]

#: The temporary table; statements call it by the source's name, as the plan's expressions do.
STAGED = "segue_job_source"

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
    """What brings a table's rows from another database; opens a session there for each that works."""

    def __init__(self, url: str, schema: str, application: str, table: Table, near: Connection) -> None:
        """Look how the columns come over; `near` is a session of the target."""
        self.table = table
        self._url, self._schema, self._application = url, schema, application
        self._columns: list[tuple[str, str, bool]] = []
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
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind, _ in self._columns
        )
        statement = sql.SQL("create temp table if not exists {} ({}) on commit delete rows").format(
            sql.Identifier(STAGED), columns
        )
        near.execute(statement.as_string(near).encode())

    def bring(self, far: Connection, near: Connection, condition: sql.Composable) -> int:
        """Bring the rows that fulfil a condition, in the target's transaction, and return how many."""
        read = sql.SQL(", ").join(
            sql.Identifier(name) if known else sql.SQL("{}::text").format(sql.Identifier(name))
            for name, _, known in self._columns
        )
        names = sql.SQL(", ").join(sql.Identifier(name) for name, _, _ in self._columns)
        form = sql.SQL("(format {})").format(sql.SQL("binary" if self._binary else "text"))
        try:
            return self._pass(far, near, read, names, form, condition)
        except psycopg.Error as error:
            if near.closed or near.info.transaction_status is TransactionStatus.INERROR:
                raise
            # The target knows of no error: it was the source's.
            with self.telling(far):
                raise error

    def _pass(
        self,
        far: Connection,
        near: Connection,
        read: sql.Composable,
        names: sql.Composable,
        form: sql.Composable,
        condition: sql.Composable,
    ) -> int:
        return pass_through(
            far,
            sql.SQL("copy (select {} from {} where {}) to stdout {}").format(
                read, self.table.identifier, condition, form
            ),
            near,
            sql.SQL("copy pg_temp.{} ({}) from stdin {}").format(sql.Identifier(STAGED), names, form),
            reading=lambda: self.telling(far),
        )

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
