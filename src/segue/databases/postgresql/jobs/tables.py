"""Looks at the tables of a data job, and refuses what could not work, before any row is moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.keys import KEYS
from segue.errors import StepRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.model.jobs import JobSpec, Lookup

    Connection = psycopg.Connection[tuple[Any, ...]]

_TABLE = """
select n.nspname, c.relname, c.relkind::text, c.oid::bigint
from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.oid = pg_catalog.to_regclass(%s)
"""

# `plain`: the type's own operator tells whether two values are the same row's; otherwise their texts do.
_COLUMNS = """
select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.atthasdef or a.attidentity <> '', a.attgenerated <> '', a.attidentity = 'a',
    exists (
        select from pg_catalog.pg_opclass as o join pg_catalog.pg_am as m on m.oid = o.opcmethod
        where o.opcintype = a.atttypid and o.opcdefault and m.amname = 'btree'
    )
from pg_catalog.pg_attribute as a
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    type: str
    not_null: bool
    filled: bool  # by a default, an identity or the like, where nothing is given
    generated: bool
    always: bool  # GENERATED ALWAYS AS IDENTITY
    plain: bool


@dataclass(frozen=True, slots=True)
class Key:
    """A key: unique, over NOT NULL columns, in the order of a btree index."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    collations: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, as the server knows it; `said` is how the plan writes it."""

    said: str
    schema: str
    name: str
    oid: int
    columns: dict[str, Column]
    keys: tuple[Key, ...]
    #: Where its rows are found by statements, if not under its own name.
    staged: sql.Identifier | None = None

    @property
    def origin(self) -> sql.Composable:
        """Return it as a FROM names it; it is called by its own name there."""
        if self.staged is None:
            return self.identifier
        return sql.SQL("{} as {}").format(self.staged, sql.Identifier(self.name))

    @property
    def identifier(self) -> sql.Identifier:
        """Return its name for statements."""
        return sql.Identifier(self.schema, self.name)


def table_of(connection: Connection, said: str, what: str) -> Table:
    """Look a table up; `what` says what it is to the job. Raises StepRefused where there is none."""
    try:
        row = connection.execute(_TABLE, [said]).fetchone()
    except psycopg.Error:
        if connection.closed:
            raise
        row = None  # not a name at all
    if row is None:
        raise StepRefused(
            f'there is no table "{said}", the {what} of the job',
            hint="names follow SQL: write upper case in double quotes, and the schema where it is not the plan's",
        )
    schema, name, kind, oid = row
    if kind not in ("r", "p"):
        raise StepRefused(f'"{said}", the {what} of the job, is not a table', hint="a job goes from a table to a table")
    columns = {row[0]: Column(*row) for row in connection.execute(_COLUMNS, [oid])}
    keys = tuple(
        Key(tuple(names), tuple(types), tuple(collations))
        for names, types, collations, _ in connection.execute(KEYS.encode(), {"table": str(oid)})
    )
    return Table(said, schema, name, oid, columns, keys)


def source_key(source: Table) -> Key:
    """Return the key along which the source is walked."""
    if not source.keys:
        raise StepRefused(
            f'table "{source.said}" has no primary key and no unique index over NOT NULL columns',
            hint="a job walks a key, by which each row is written once; add one to the source",
        )
    return source.keys[0]


def columns_of(spec: JobSpec, source: Table, target: Table) -> tuple[Column, ...]:
    """Return the columns that are written, or refuse those that cannot be."""
    wanted = list(spec.columns) if spec.columns is not None else _same_named(spec, source, target)
    for name in [*wanted, *spec.assignments]:
        if name not in target.columns:
            raise StepRefused(
                f'table "{target.said}" has no column "{name}"', hint=f"its columns are {', '.join(target.columns)}"
            )
        if target.columns[name].generated:
            raise StepRefused(f'column "{name}" of "{target.said}" is generated and cannot be written')
    for name in spec.assignments:
        if name not in wanted:
            raise StepRefused(
                f'column "{name}" has an expression, and is not among the `columns`', hint="add it there, or drop it"
            )
    for name in wanted:
        if name not in spec.assignments and name not in source.columns:
            raise StepRefused(
                f'nothing is said of column "{name}" of "{target.said}", and "{source.said}" has none of that name',
                hint=f'give an expression for it in `set`; columns of "{source.said}" are {", ".join(source.columns)}',
            )
    if not wanted:
        raise StepRefused(
            f'"{source.said}" and "{target.said}" have no column of the same name',
            hint="give expressions by column of the target in `set`",
        )
    empty = [
        column.name
        for column in target.columns.values()
        if column.not_null and not column.filled and not column.generated and column.name not in wanted
    ]
    if empty:
        raise StepRefused(
            f'"{target.said}" refuses NULL in {_listed(empty)}, and the job gives {"it" if len(empty) == 1 else "them"}'
            " no value",
            hint="give an expression in `set`",
        )
    return tuple(target.columns[name] for name in wanted)


def _same_named(spec: JobSpec, source: Table, target: Table) -> list[str]:
    return [
        name
        for name, column in target.columns.items()
        if name in spec.assignments or (name in source.columns and not column.generated)
    ]


def lookup_of(connection: Connection, lookup: Lookup) -> Table:
    """Return the table of a lookup; refuse one that could find several rows for one of the source's."""
    table = table_of(connection, lookup.table, "lookup")
    for name in lookup.on:
        if name not in table.columns:
            raise StepRefused(
                f'the lookup "{lookup.alias}" has no column "{name}"',
                hint=f"its columns are {', '.join(table.columns)}",
            )
    if not any(set(key.names) <= set(lookup.on) for key in table.keys):
        raise StepRefused(
            f'the lookup "{lookup.alias}" could find several rows for one: ({", ".join(lookup.on)}) is no key of '
            f'"{lookup.table}"',
            hint="`on` must give an expression for each column of its primary key, or of a unique index over columns "
            "that are NOT NULL",
        )
    return table


def conflict_key(spec: JobSpec, target: Table, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the columns by which a row counts as there already; none where that is nobody's business."""
    written = {column.name for column in columns}
    if spec.conflict:
        if missing := [name for name in spec.conflict if name not in written]:
            raise StepRefused(f"`conflict` names {_listed(missing)}, which the job does not write")
        return tuple(spec.conflict)
    if spec.on_conflict != "update":
        return ()
    found = next((key.names for key in target.keys if set(key.names) <= written), None)
    if found is None:
        raise StepRefused(
            f'"{target.said}" has no key among the columns that the job writes, by which a row could be there already',
            hint="name the columns of a unique index in `conflict`",
        )
    return found


def stays(connection: Connection, spec: JobSpec, target: Table, columns: Sequence[Column]) -> str | None:
    """Return why a rollback leaves what the job has written, None when it takes it out.

    Raises StepRefused where the plan wants it taken out and that cannot be done safely.
    """
    if spec.reverse == "nothing":
        return "its `reverse` is nothing"
    why = None
    written = {column.name for column in columns}
    row = connection.execute(
        "select pg_catalog.has_table_privilege(t, 'delete') and pg_catalog.has_table_privilege(t, 'select') "
        "from (values (%s::oid)) as v (t)",
        [target.oid],
    ).fetchone()
    if spec.on_conflict != "fail":
        why = f"with `on_conflict: {spec.on_conflict}` it cannot be told what was there before"
    elif not any(set(key.names) <= written for key in target.keys):
        why = f'"{target.said}" has no key among the columns that it writes, by which its rows could be told'
    elif row is None or not row[0]:
        why = f'this role may not take rows out of "{target.said}"'
    if why is not None and spec.reverse == "delete":
        raise StepRefused(
            f"the job's rows could not be taken back: {why}",
            hint="write `reverse: nothing` where they may stay after a rollback",
        )
    return why


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
