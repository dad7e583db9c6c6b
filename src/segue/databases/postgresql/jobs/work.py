"""A data job from one table to another, as work along the source's key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.jobs import tables
from segue.databases.postgresql.jobs.filtering import says_the_same
from segue.databases.postgresql.jobs.importing import Bringing, Import, open_far
from segue.databases.postgresql.jobs.transforming import Transforming
from segue.databases.postgresql.jobs.wording import Wording
from segue.databases.postgresql.lease import Lease, Tenure
from segue.databases.postgresql.rows import KeyedWork
from segue.errors import PrivilegeMissing, StepRefused
from segue.model.jobs import JobSpec
from segue.ports import FORWARD, Cut, EffectKey

_PINS = {
    # The progress stands in the same transaction: a crash loses both or neither.
    "synchronous_commit": "off",
    "enable_seqscan": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": "5s",
}


class JobWork(KeyedWork):
    """The tables of a job and the statements on them. On the way back it takes out what it wrote."""

    counts = False
    session_pins = _PINS

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        url: str,
        lease: Tenure,
        schema: str,
        key: EffectKey,
        spec: JobSpec,
        source_url: str | None = None,
    ) -> None:
        """Look at the tables and refuse what could not work; nothing is moved yet.

        `source_url`: where the source is, if not in the target's database.
        """
        super().__init__(connection, url, lease, schema, key, f'the job from "{spec.source}" to "{spec.target}"')
        self.spec = spec
        self.importing: Import | None = None
        self._far: psycopg.Connection[Any] | None = None
        self._bringing: Bringing | None = None
        # Rows that go through a function are read by a session of their own, wherever they are.
        brought = source_url or (url if spec.transform is not None else None)
        if brought is not None:
            self._far = open_far(brought, schema, lease.application)
        try:
            self._prepare(connection, lease, schema, key, spec, source_url)
        except BaseException:
            self.close()
            raise

    def _prepare(
        self,
        connection: psycopg.Connection[Any],
        lease: Tenure,
        schema: str,
        key: EffectKey,
        spec: JobSpec,
        source_url: str | None,
    ) -> None:
        source = tables.table_of(self._reading, spec.source, "source")
        target = tables.table_of(connection, spec.target, "target")
        if source_url is None and source.oid == target.oid:
            raise StepRefused(
                f'source and target of the job are the same table "{spec.target}"',
                hint="a step of the kind `backfill` fills columns of a table where they are",
            )
        walked = tables.source_key(source)
        wanted, beside = spec, []
        if self._far is not None:
            self.importing = self._import(source_url or self._url, spec, source, target)
            if source_url is not None:
                self.importing.check_key(walked, self._far, connection)
            if spec.where is not None and says_the_same(spec.where, source, self._far):
                self.importing.filter = spec.where
            self.importing.stage(connection)
            if isinstance(self.importing, Transforming):
                wanted, beside = self.importing.assigning(spec), self.importing.beside
            source = self.importing.staged
        columns = tables.columns_of(wanted, source, target)
        lookups = [(lookup, tables.lookup_of(connection, lookup)) for lookup in spec.lookups]
        conflict = tables.conflict_key(spec, target, columns)
        self.source, self.target = spec.source, spec.target
        self.columns = tuple(column.name for column in columns)
        self.stays = tables.stays(connection, spec, target, columns)
        self.wording = Wording(key, wanted, source, walked, target, columns, lookups, conflict, beside)
        self._name = source.name
        self._check(connection)
        if isinstance(lease, Lease):
            script = files("segue.databases.postgresql").joinpath("sql/job.sql").read_text()
            connection.execute(script.encode())
            self._try_function(connection)
        self._walk_along(source.identifier, walked.names, walked.types, walked.collations, lanes=lambda: 1)
        # Rows are looked up among the rejected only where a person has resolved one at which the job had stopped.
        row = connection.execute(
            "select exists (select from segue.rejected where execution = %(execution)s and step = %(step)s "
            "and stopped and resolution is not null)",
            self.whose,
        ).fetchone()
        self._stopped = bool(row and row[0])

    def _import(self, url: str, spec: JobSpec, source: tables.Table, target: tables.Table) -> Import:
        application = self.lease.application
        if spec.transform is None:
            return Import(url, self._schema, application, source, self._connection)
        return Transforming(url, self._schema, application, source, self._connection, spec, target)

    def _try_function(self, connection: psycopg.Connection[Any]) -> None:
        """Refuse a function that cannot work, before the first row moves."""
        if not isinstance(self.importing, Transforming) or self._far is None or self.effect.direction != FORWARD:
            return
        row = connection.execute(
            "select exists (select from segue.history where execution = %(execution)s and step = %(step)s "
            "and part = -1)",
            self.whose,
        ).fetchone()
        if row and not row[0]:
            self.importing.attempt(self._far, connection, self.wording)

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        """Let the server plan each statement, so that what is wrong with one is not taken for a fault of the rows."""
        nothing = sql.SQL("false")
        statements = [self.wording.plain_put(nothing)]
        if self.wording.checked:
            statements.append(self.wording.target_row(nothing))
        if self.stays is None:
            statements.append(self.wording.take_out(nothing))
        for statement in statements:
            try:
                connection.execute(sql.SQL("explain ") + statement)
            except psycopg.Error as error:
                if connection.closed:
                    raise self.lost(connection, error) from error
                raise StepRefused(
                    f"{self.what} is refused: {error.diag.message_primary} (SQLSTATE {error.sqlstate})",
                    details=[f"{name} = {expression}" for name, expression in self.spec.assignments.items()]
                    + ([f"where {self.spec.where}"] if self.spec.where else []),
                    hint=error.diag.message_hint or "nothing was moved; correct the job and start it again",
                ) from error
        self._check_checks(connection)
        self._check_temporary(connection)

    def _check_temporary(self, connection: psycopg.Connection[Any]) -> None:
        """Refuse a job that could not look for a row at fault: that takes a temporary table."""
        row = connection.execute(
            "select current_user, current_database(), "
            "pg_catalog.has_database_privilege(current_database(), 'temporary')"
        ).fetchone()
        if row and not row[2]:
            raise PrivilegeMissing(
                f'role "{row[0]}" may not make temporary tables in "{row[1]}", by which rows at fault are found',
                hint=f'GRANT TEMPORARY ON DATABASE "{row[1]}" TO "{row[0]}"',
            )

    def _check_checks(self, connection: psycopg.Connection[Any]) -> None:
        for name, check in self.spec.checks.items():
            statement = sql.SQL("explain ") + self.wording.asked(sql.SQL("(\n{}\n)::boolean").format(sql.SQL(check)))
            try:
                connection.execute(statement)
            except psycopg.Error as error:
                if connection.closed:
                    raise self.lost(connection, error) from error
                raise StepRefused(
                    f'the check "{name}" of {self.what} is refused: {error.diag.message_primary} '
                    f"(SQLSTATE {error.sqlstate})",
                    details=[check],
                    hint=error.diag.message_hint or "a check is a condition on the source's row",
                ) from error

    # -- a source elsewhere

    @property
    def _reading(self) -> psycopg.Connection[Any]:
        return self._far or self._connection

    @contextmanager
    def _telling(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        if self.importing is not None and connection is self._far:
            with self.importing.telling(connection):
                yield
        else:
            with super()._telling(connection):
                yield

    def fetch(self, key: Sequence[str]) -> None:
        """Have a row of the source ready for the next transaction, where it is not there anyway.

        Raises ChunkTooSlow when a function does not come to its end with it.
        """
        if self.importing is not None and self._far is not None:
            if self._bringing is None:
                with self._telling(self._far):
                    self._bringing = self.importing.bringing(self._far)
            self._bringing.fetch(self.holds(key))

    def put_fetched(self, connection: psycopg.Connection[Any]) -> bool:
        """Have that row at hand in the transaction of a session; return False when nothing can be done with it.

        Then it is rejected anew.
        """
        if self._bringing is None:
            return True
        self._bringing.put(connection)
        if self._bringing.faults:
            connection.execute(self.wording.reject_faulty(sql.SQL("true"), None).as_string(connection).encode())
        return not self._bringing.faults

    def close(self) -> None:
        """End the session on the source."""
        if self._bringing is not None:
            self._bringing.close()
        if self._far is not None:
            self._far.close()

    # -- as work

    def statement(self, cut: Cut) -> sql.Composable:
        """Return the statement that does a range; what fails a check is of no batch."""
        return self.statement_of(cut, None)

    def statement_of(self, cut: Cut, batch: int | None) -> sql.Composable:
        """Return the statement that does a range of a batch."""
        return self.doing(self.keys_of(cut), batch)

    def doing(
        self, condition: sql.Composable, batch: int | None, first: sql.Composable | None = None
    ) -> sql.Composable:
        """Return the statement that writes the rows that fulfil a condition, or takes them out on the way back."""
        if self.effect.direction != FORWARD:
            return self.wording.take_out(condition + self.wording.accepted(), first)
        if self._stopped:
            condition += self.wording.unsettled()
        return self.wording.put(condition, batch, first)

    def unsettled(self) -> sql.Composable:
        """Return the condition that no person has settled what becomes of a row."""
        return sql.SQL("true") + (self.wording.unsettled() if self._stopped else sql.SQL(""))

    def keys_of(self, cut: Cut) -> sql.Composable:
        """Return the condition that a row of the source is in a range."""
        return self._range(cut.after, cut.until, self._name)

    def listing(self) -> tuple[sql.Composable, sql.Composable]:
        """Return the columns of a list of keys, with their types, and the condition that joins it to the source."""
        columns, joined = [], []
        for place, (name, kind, collation) in enumerate(zip(self.key, self._types, self._collations, strict=True), 1):
            here = sql.Identifier(f"segue_k{place}")
            of = sql.SQL(f" collate {collation}" if collation else "")
            columns.append(sql.SQL("{} {}{}").format(here, sql.SQL(kind), of))
            joined.append(
                sql.SQL("{} = {}").format(
                    sql.Identifier(self._name, name), sql.Identifier("segue_k", f"segue_k{place}")
                )
            )
        return sql.SQL(", ").join(columns), sql.SQL(" and ").join(joined)

    def numbered(self, cut: Cut) -> sql.Composable:
        """Return the query for a range's keys, numbered in their order."""
        return sql.SQL("select row_number() over (order by {}), {} from {} where {}").format(
            sql.SQL(", ").join(self._columns(self._name)),
            sql.SQL(", ").join(sql.Identifier(self._name, name) for name in self.key),
            self.wording.source.origin,
            self.keys_of(cut),
        )

    def holds(self, key: Sequence[str]) -> sql.Composable:
        """Return the condition that a row of the source is the one with this key."""
        return self._compare("=", tuple(key), self._name)

    @property
    def whose(self) -> dict[str, Any]:
        """Return the columns by which the job's rejected rows are found."""
        return {"execution": self.effect.execution, "step": self.effect.step}
