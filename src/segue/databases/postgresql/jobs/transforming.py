"""A job some of whose columns a Python function gives: rows go through its process on their way to the target.

They are read before the transaction of the range, so that nothing is held while the function works. What it gave
stands in the temporary table beside each row, as texts, which the INSERT casts to the columns' types: a value that does
not fit is found as any other. So does what is wrong with a row, which is then rejected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.jobs.importing import STAGED, Bringing, Import
from segue.databases.postgresql.jobs.process import CallEnded, FunctionProcess
from segue.databases.postgresql.jobs.wording import FAULT, widest
from segue.databases.postgresql.passing import blocks
from segue.errors import StepRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from segue.databases.postgresql.jobs.tables import Table
    from segue.databases.postgresql.jobs.wording import Wording
    from segue.model.jobs import JobSpec, Transform

    Connection = psycopg.Connection[tuple[Any, ...]]

# With so many rows the function is tried before any row moves; where that does not come to its end, with single ones.
TRIED_ROWS = 100
TRIED_ALONE = (0, 33, 66)


def given(spec: JobSpec, target: Table) -> dict[str, str]:
    """Return the columns that the function gives, with their types; refuse those that it cannot."""
    transform = spec.transform
    assert transform is not None  # noqa: S101  asked of jobs with one
    for name in transform.gives:
        column = target.columns.get(name)
        if column is None:
            raise StepRefused(
                f'`gives` names "{name}", and table "{target.said}" has no such column',
                hint=f"its columns are {', '.join(target.columns)}",
            )
        if column.generated:
            raise StepRefused(f'`gives` names "{name}", a column of "{target.said}" that is generated')
        if name in spec.assignments:
            raise StepRefused(f'column "{name}" has an expression in `set`, and is among what the function `gives`')
    return {name: target.columns[name].type for name in transform.gives}


class Transforming(Import):
    """What brings a table's rows through a function."""

    def __init__(
        self, url: str, schema: str, application: str, table: Table, near: Connection, spec: JobSpec, target: Table
    ) -> None:
        super().__init__(url, schema, application, table, near)
        assert spec.transform is not None  # noqa: S101  asked of jobs with one
        self.transform: Transform = spec.transform
        self.gives = given(spec, target)
        if clash := [name for name in table.columns if name == FAULT or name in self._made()]:
            raise StepRefused(f'"{table.said}" has a column "{clash[0]}", a name that the job needs for itself')

    def _made(self) -> list[str]:
        return [f"segue_made_{place}" for place in range(1, len(self.transform.gives) + 1)]

    def _staged(self) -> list[tuple[str, str]]:
        return [*super()._staged(), *((name, "text") for name in self._made()), (FAULT, "jsonb")]

    @property
    def beside(self) -> list[str]:
        """Return the columns of the temporary table that the source does not have."""
        return [*self._made(), FAULT]

    def assigning(self, spec: JobSpec) -> JobSpec:
        """Return a job with expressions for what the function gives, of the temporary table."""
        made = {
            name: sql.SQL("{}::{}").format(sql.Identifier(self.table.name, column), sql.SQL(widest(kind))).as_string()
            for (name, kind), column in zip(self.gives.items(), self._made(), strict=True)
        }
        return replace(spec, assignments={**spec.assignments, **made})

    def bringing(self, far: Connection) -> Bringing:
        """Return what brings rows by a session on the source, with a process of its own."""
        return _Calling(self, far, self._process(far))

    def _process(self, far: Connection) -> FunctionProcess:
        described = far.execute(self._columns_read()).description or ()
        return FunctionProcess(
            self.transform, [(column.name, column.type_code) for column in described], list(self.gives.items())
        )

    def _columns_read(self) -> sql.Composed:
        columns = sql.SQL(", ").join(
            sql.SQL("{0}{1} as {0}").format(sql.Identifier(name), sql.SQL("" if known else "::text"))
            for name, _, known in self._columns
        )
        return sql.SQL("select {} from {} limit 0").format(columns, self.table.identifier)

    def attempt(self, far: Connection, near: Connection, wording: Wording) -> None:
        """Call the function with some rows, and refuse one that could not work with any of them; nothing is kept."""
        bringing = _Calling(self, far, self._process(far))
        name = self.transform.python
        try:
            self._try(bringing)
            said = bringing.said
            with near.transaction(force_rollback=True):
                bringing.put(near)
                first = near.execute(
                    sql.SQL(
                        "select {0} ->> 'message', {0} ->> 'stack' from pg_temp.{1} where {0} is not null limit 1"
                    ).format(sql.Identifier(FAULT), sql.Identifier(STAGED))
                ).fetchone()
                if said["shape"] or (first and said["faults"] == said["rows"]):
                    message, stack = first or ("", None)
                    raise StepRefused(
                        f'the function "{name}" cannot work: {said["shape"] or message}',
                        details=(stack or "").rstrip().split("\n")[-12:] if stack and not said["shape"] else [],
                        hint=f"it was tried with {said['rows']:,} rows, nothing was moved; correct it and start again",
                    )
                self._fits(near, wording)
        finally:
            bringing.close()

    def _try(self, bringing: _Calling) -> None:
        """Fetch some rows, or one where that ends well; refuse a function that ends well with none."""
        ended: CallEnded | None = None
        for limit in (f" limit {TRIED_ROWS}", *(f" offset {place} limit 1" for place in TRIED_ALONE)):
            bringing.limit = sql.SQL(limit)
            try:
                bringing.fetch(sql.SQL("true"))
            except CallEnded as error:
                ended = error
            else:
                if ended is None or bringing.said["rows"]:
                    return
        raise StepRefused(
            f'the function "{self.transform.python}" cannot work: {ended}',
            hint=f"it was tried with {TRIED_ROWS} rows, and with single ones; nothing was moved",
        ) from ended

    def _fits(self, near: Connection, wording: Wording) -> None:
        """Refuse a function none of whose values fit into the columns."""
        whole = sql.SQL("select count(*), count(t) from ({}) as r (t)")
        try:
            with near.transaction():
                near.execute(whole.format(wording.target_row(sql.SQL("true"))))
        except psycopg.Error as error:
            if near.closed:
                raise
            first = error
        else:
            return
        keys = near.execute(
            sql.SQL("select {}::text[] from {} where {} is null").format(
                wording.key_text(), wording.source.origin, sql.Identifier(FAULT)
            )
        ).fetchall()
        for (key,) in keys:
            condition = sql.SQL("{} = {}::text[]").format(wording.key_text(), sql.Literal(key))
            try:
                with near.transaction():
                    near.execute(whole.format(wording.target_row(condition)))
                return
            except psycopg.Error:
                continue
        raise StepRefused(
            f'what the function "{self.transform.python}" gives does not fit: {first.diag.message_primary}',
            details=[f"{name} is {kind}" for name, kind in self.gives.items()],
            hint=f"it was tried with {len(keys):,} rows, none of which fits; nothing was moved",
        )


class _Calling(Bringing):
    """Brings rows through a function."""

    def __init__(self, importing: Transforming, far: Connection, process: FunctionProcess) -> None:
        super().__init__(importing, far)
        self._process = process
        self.limit: sql.Composable = sql.SQL("")
        self._ready = False
        #: What the process said of the rows that were fetched last.
        self.said: dict[str, Any] = {}

    def fetch(
        self,
        condition: sql.Composable,
        *,
        beat: Callable[[], object] = lambda: None,
        fault: Mapping[str, Any] | None = None,
    ) -> None:
        """Read the rows and call the function for them."""
        self._ready = False
        importing = self._importing
        query = importing.reading(condition, text=True, limit=self.limit)
        with importing.telling(self._far), self._far.cursor() as cursor, cursor.copy(query) as out:
            self.said = self._process.call(blocks(out), fault=fault, beat=beat)
        self.faults = int(self.said["faults"])
        self._ready = True

    def put(self, near: Connection) -> None:
        """Put the rows with what the function gave into the temporary table."""
        if not self._ready:
            raise AssertionError("nothing was fetched")
        self._ready = False
        results = self._process.results()
        try:
            with near.cursor() as cursor, cursor.copy(self._importing.writing(text=True)) as into:
                for piece in results:
                    into.write(piece)
        finally:
            # What nobody takes would be taken for the answer to the next batch.
            for _ in results:
                pass

    def close(self) -> None:
        """End the process."""
        self._process.end()
