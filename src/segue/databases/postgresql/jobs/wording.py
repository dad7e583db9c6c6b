"""The statements of a data job, for any condition on the rows of its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from segue.databases.postgresql.jobs.tables import Column, Key, Table
    from segue.model.jobs import JobSpec, Lookup
    from segue.ports import EffectKey

    Lookups = Sequence[tuple[Lookup, Table]]

# A cast to these, without a length, would be to the length 1.
_WIDEST = {"character": "bpchar", "bit": "bit varying"}

#: The column beside a row that went through a function, with what is wrong with it, as JSON: `type`, `message`,
#: `stack`, `target`.
FAULT = "segue_fault"

# What a row of the source holds is kept up to this size.
MOST_KEPT = 1_000_000

_REJECT = """
insert into segue.rejected as r
    (execution, step, batch, key, error_type, sqlstate, message, stack, source, target, stopped)
{}
on conflict (execution, step, key) do update set batch = excluded.batch, error_type = excluded.error_type,
    sqlstate = excluded.sqlstate, message = excluded.message, stack = excluded.stack, source = excluded.source,
    target = excluded.target, stopped = excluded.stopped, occurred_at = clock_timestamp(), resolution = null,
    note = null, resolved_by = null, resolved_at = null
"""


class Wording:
    """Composes the statements of a job. Conditions are on the source, called by its own name as in the plan."""

    def __init__(
        self,
        effect: EffectKey,
        spec: JobSpec,
        source: Table,
        key: Key,
        target: Table,
        columns: Sequence[Column],
        lookups: Lookups,
        conflict: Sequence[str],
        beside: Sequence[str] = (),
    ) -> None:
        """Compose for a job; `beside`: columns of the rows that are none of the source's, a fault's among them."""
        self.source, self.key, self.target, self.columns = source, key, target, columns
        self._spec = spec
        self._lookups = lookups
        self._conflict = conflict
        self._beside = list(beside)
        self._whose = sql.SQL("{}, {}").format(sql.Literal(effect.execution), sql.Literal(effect.step))
        self.names = comma(sql.Identifier(column.name) for column in columns)
        self._checks = dict(spec.checks)
        for lookup, _ in lookups:
            if lookup.missing == "error":
                first = sql.Identifier(lookup.alias, next(iter(lookup.on)))
                self._checks[f"{lookup.alias} is found"] = sql.SQL("{} is not null").format(first).as_string()

    @property
    def checked(self) -> bool:
        """Return whether rows are looked at before they are written."""
        return bool(self._checks)

    # -- pieces

    def _expression(self, column: Column) -> sql.Composable:
        given = self._spec.assignments.get(column.name)
        if given is None:
            return sql.Identifier(self.source.name, column.name)
        # A line of its own: a comment at its end must not swallow what comes after it.
        return sql.SQL("(\n{}\n)").format(sql.SQL(given))

    def _cast(self, column: Column, *, exact: bool) -> sql.Composable:
        """Return an expression in its column's type; `exact` with the length that the column has, cut to it."""
        kind = column.type if exact else widest(column.type)
        return sql.SQL("{}::{} as {}").format(self._expression(column), sql.SQL(kind), sql.Identifier(column.name))

    def _from(self, first: sql.Composable | None) -> sql.Composable:
        parts: list[sql.Composable] = [sql.SQL(" from ")]
        if first is not None:
            parts += [first, sql.SQL(" cross join ")]
        parts.append(self.source.origin)
        for lookup, table in self._lookups:
            parts.append(
                sql.SQL("\n{} join {} as {} on {}").format(
                    sql.SQL("" if lookup.missing == "skip" else "left"),
                    table.identifier,
                    sql.Identifier(lookup.alias),
                    sql.SQL(" and ").join(
                        sql.SQL("{} = (\n{}\n)").format(sql.Identifier(lookup.alias, name), sql.SQL(expression))
                        for name, expression in lookup.on.items()
                    ),
                )
            )
        return sql.Composed(parts)

    def _where(self, condition: sql.Composable, *, faulty: bool = False) -> sql.Composable:
        if self._beside:
            how = "is not null" if faulty else "is null"
            fault = sql.Identifier(self.source.name, FAULT)
            condition = sql.SQL("{} and {} {}").format(condition, fault, sql.SQL(how))
        if self._spec.where is None:
            return sql.SQL("\nwhere {}").format(condition)
        return sql.SQL("\nwhere {} and (\n{}\n)").format(condition, sql.SQL(self._spec.where))

    def key_text(self) -> sql.Composable:
        """Return the key as texts."""
        return sql.SQL("array[{}]").format(
            comma(sql.SQL("{}::text").format(sql.Identifier(self.source.name, name)) for name in self.key.names)
        )

    def source_row(self) -> sql.Composable:
        """Return what the source's row holds, unless it is large."""
        row = sql.SQL("{}.*").format(sql.Identifier(self.source.name))
        kept = sql.SQL("pg_catalog.to_jsonb({})").format(row)
        if self._beside:
            kept = sql.SQL("({} - {}::text[])").format(kept, sql.Literal(self._beside))
        return sql.SQL("case when pg_catalog.pg_column_size({}) <= {} then {} end").format(
            row, sql.SQL(str(MOST_KEPT)), kept
        )

    def into(self) -> sql.Composable:
        """Return the beginning of the INSERT into the target."""
        always = any(column.always for column in self.columns)
        return sql.SQL("insert into {} ({}){}").format(
            self.target.identifier, self.names, sql.SQL(" overriding system value" if always else "")
        )

    def on_conflict(self) -> sql.Composable:
        """Return the end of the INSERT."""
        if self._spec.on_conflict == "fail":
            return sql.SQL("")
        of = sql.SQL(" ({})").format(comma(map(sql.Identifier, self._conflict))) if self._conflict else sql.SQL("")
        others = [column.name for column in self.columns if column.name not in self._conflict]
        if self._spec.on_conflict == "skip" or not others:
            return sql.SQL("\non conflict{} do nothing").format(of)
        return sql.SQL("\non conflict{} do update set {}").format(
            of, comma(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in others)
        )

    # -- statements

    def plain_put(self, condition: sql.Composable, first: sql.Composable | None = None) -> sql.Composable:
        """Return the INSERT of the rows that fulfil a condition, unchecked; `first` is joined before the source."""
        return sql.SQL("{}\nselect {}{}{}{}").format(
            self.into(),
            comma(self._expression(column) for column in self.columns),
            self._from(first),
            self._where(condition),
            self.on_conflict(),
        )

    def put(self, condition: sql.Composable, batch: int | None, first: sql.Composable | None = None) -> sql.Composable:
        """Return the INSERT of the rows that fulfil a condition; what fails a check goes to the rejected."""
        if not self._checks:
            return self.plain_put(condition, first)
        failed = sql.SQL(" ").join(
            sql.SQL("when (\n{}\n) is not true then {}").format(sql.SQL(check), sql.Literal(name))
            for name, check in self._checks.items()
        )
        rows = sql.SQL(
            "select {}, segue_check.failed as segue_failed, case when segue_check.failed is not null then {} end as "
            "segue_key, case when segue_check.failed is not null then {} end as segue_source{}\n"
            "cross join lateral (select case {} end as failed) as segue_check{}"
        ).format(
            comma(self._cast(column, exact=False) for column in self.columns),
            self.key_text(),
            self.source_row(),
            self._from(first),
            failed,
            self._where(condition),
        )
        bad = self.reject(
            sql.SQL(
                "select {}, {}, segue_key, 'validation', '', 'the check \"' || segue_failed || '\" does not hold', "
                "null, segue_source, pg_catalog.to_jsonb(segue_row) - array['segue_failed', 'segue_key', "
                "'segue_source'], false from segue_rows as segue_row where segue_failed is not null"
            ).format(self._whose, sql.Literal(batch))
        )
        return sql.SQL(
            "with segue_rows as materialized (\n{}\n), segue_bad as ({})\n{}\nselect {} from segue_rows "
            "where segue_failed is null{}"
        ).format(rows, bad, self.into(), self.names, self.on_conflict())

    def asked(self, expression: sql.Composable) -> sql.Composable:
        """Return a query for an expression over the job's rows that gives none: for the server to look at."""
        return sql.SQL("select {}{}\nwhere false").format(expression, self._from(None))

    def unsettled(self) -> sql.Composable:
        """Return the condition that no person has settled what becomes of a row at which the job had stopped."""
        return sql.SQL(" and not {}").format(self._known("resolution is not null and resolution <> 'written'"))

    def accepted(self) -> sql.Composable:
        """Return the condition that a row was written by the job: it was not rejected, or its retry succeeded."""
        return sql.SQL(" and not {}").format(
            self._known("resolution is null or resolution not in ('retried', 'written')")
        )

    def _known(self, how: str) -> sql.Composable:
        return sql.SQL(
            "exists (select from segue.rejected as segue_x where (segue_x.execution, segue_x.step) = ({}) "
            "and segue_x.key = {} and ({}))"
        ).format(self._whose, self.key_text(), sql.SQL(how))

    def take_out(self, condition: sql.Composable, first: sql.Composable | None = None) -> sql.Composable:
        """Return the DELETE of what was written for rows that fulfil a condition, where it still is as it was."""
        return sql.SQL("delete from {} as segue_t using (select {}{}{}) as segue_r where {}").format(
            self.target.identifier,
            comma(self._cast(column, exact=True) for column in self.columns),
            self._from(first),
            self._where(condition),
            self._same(),
        )

    def take_out_values(self, values: sql.Composable) -> sql.Composable:
        """Return the DELETE of a row that was written with values, JSON by column, where it still is as it was."""
        return sql.SQL(
            "delete from {0} as segue_t using pg_catalog.jsonb_populate_record(null::{0}, {1}) as segue_r where {2}"
        ).format(self.target.identifier, values, self._same())

    def put_values(self, values: sql.Composable) -> sql.Composable:
        """Return the INSERT of one row with values, JSON by column."""
        return sql.SQL("{}\nselect {} from pg_catalog.jsonb_populate_record(null::{}, {}) as segue_r{}").format(
            self.into(), self.names, self.target.identifier, values, self.on_conflict()
        )

    def _same(self) -> sql.Composable:
        """Return the condition that a row of the target is what would be written; its key comes by an index."""
        written = {column.name for column in self.columns}
        key = next((key.names for key in self.target.keys if set(key.names) <= written), ())
        parts = []
        for column in self.columns:
            mine, theirs = sql.Identifier("segue_t", column.name), sql.Identifier("segue_r", column.name)
            if not column.plain:
                parts.append(sql.SQL("{}::text is not distinct from {}::text").format(mine, theirs))
            if column.name in key:
                parts.append(sql.SQL("{} = {}").format(mine, theirs))
            elif column.plain:
                parts.append(sql.SQL("{} is not distinct from {}").format(mine, theirs))
        return sql.SQL(" and ").join(parts)

    def target_row(self, condition: sql.Composable, first: sql.Composable | None = None) -> sql.Composable:
        """Return the query for what would be written for a row, as JSON."""
        return sql.SQL("select pg_catalog.to_jsonb(segue_t) from (select {}{}{}) as segue_t").format(
            comma(self._cast(column, exact=False) for column in self.columns), self._from(first), self._where(condition)
        )

    def target_parts(self, condition: sql.Composable, first: sql.Composable | None = None) -> list[sql.Composable]:
        """Return the same as queries for a column each: where one of them cannot be worked out, the others can."""
        return [
            sql.SQL("select pg_catalog.to_jsonb(segue_t) from (select {}{}{}) as segue_t").format(
                self._cast(column, exact=False), self._from(first), self._where(condition)
            )
            for column in self.columns
        ]

    def reject(self, rows: sql.Composable) -> sql.Composable:
        """Return the statement that keeps rejected rows, which a SELECT gives in the order of the columns."""
        return sql.SQL(_REJECT).format(rows)

    def faulty(self, condition: sql.Composable) -> sql.Composable:
        """Return a query for the key and the fault's message of rows with which nothing can be done."""
        return sql.SQL("select {}, {} ->> 'message'{}{}").format(
            self.key_text(),
            sql.Identifier(self.source.name, FAULT),
            self._from(None),
            self._where(condition, faulty=True),
        )

    def reject_faulty(self, condition: sql.Composable, batch: int | None) -> sql.Composable:
        """Return the statement that keeps rows of the source as rejected with which nothing can be done."""
        return self.reject(
            sql.SQL(
                "select {whose}, {batch}, {key}, {fault} ->> 'type', '', {fault} ->> 'message', {fault} ->> 'stack', "
                "{row}, nullif({fault} -> 'target', 'null'), false{of}{where}"
            ).format(
                whose=self._whose,
                batch=sql.Literal(batch),
                key=self.key_text(),
                fault=sql.Identifier(self.source.name, FAULT),
                row=self.source_row(),
                of=self._from(None),
                where=self._where(condition, faulty=True),
            )
        )

    def reject_found(
        self,
        condition: sql.Composable,
        batch: int | None,
        first: sql.Composable | None,
        values: tuple[sql.Composable, ...],
        *,
        stopped: bool = False,
    ) -> sql.Composable:
        """Return the statement that keeps the rows of the source that fulfil a condition as rejected.

        `values`: type, SQLSTATE, message, stack, and the row as it would be in the target.
        """
        kind, state, message, stack, target = values
        return self.reject(
            sql.SQL("select {}, {}, {}, {}, {}, {}, {}, {}, {}, {} from {}{} where {}").format(
                self._whose,
                sql.Literal(batch),
                self.key_text(),
                kind,
                state,
                message,
                stack,
                self.source_row(),
                target,
                sql.Literal(stopped),
                sql.Composed([first, sql.SQL(" cross join ")]) if first is not None else sql.SQL(""),
                self.source.origin,
                condition,
            )
        )


def widest(kind: str) -> str:
    """Return a type without its length, in which any value that an expression gives is kept whole."""
    plain, _, rest = kind.partition("(")
    # `timestamp(3) with time zone` and `numeric(12,2)[]` have more behind it.
    bare = plain.rstrip() + rest.partition(")")[2]
    return _WIDEST.get(bare, bare)


def comma(parts: Iterable[sql.Composable]) -> sql.Composable:
    """Return parts with commas between them."""
    return sql.SQL(", ").join(parts)
