"""How the columns of a change are compared: the destination's with expressions over the source's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.databases.postgresql import digests
from segue.databases.postgresql.online.wording import comma
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from segue.databases.postgresql.online.blueprint import Flow

    Connection = psycopg.Connection[tuple[Any, ...]]

#: What the destination is called where its rows are reduced; the source is called by its name.
INTO = "segue_into"

# What the server computes from other columns is the same on both sides where these are, in the same types.
_GENERATED = """
select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attcollation,
    pg_catalog.pg_get_expr(d.adbin, d.adrelid),
    array(
        select array[r.attname::text, pg_catalog.format_type(r.atttypid, r.atttypmod), r.attcollation::text]
        from pg_catalog.pg_depend as p
        join pg_catalog.pg_attribute as r on r.attrelid = a.attrelid and r.attnum = p.refobjsubid
        where p.refobjid = a.attrelid and p.refobjsubid <> a.attnum and p.refobjsubid > 0
            and ((p.classid = 'pg_attrdef'::regclass and p.objid = d.oid)
                or (p.classid = 'pg_class'::regclass and p.objid = a.attrelid and p.objsubid = a.attnum))
        order by r.attname
    )
from pg_catalog.pg_attribute as a
join pg_catalog.pg_class as c on c.oid = a.attrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where n.nspname = %(schema)s and c.relname = %(name)s and a.attgenerated <> '' and not a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class Compared:
    """A column of the destination, and what it is compared with: an expression over the source's columns."""

    into: str
    expression: str
    method: digests.Method
    form: str
    seed: int
    missing: int

    def value(self, side: str) -> sql.Composable:
        """Return the value on a side, source or into."""
        if side == "into":
            return sql.Identifier(INTO, self.into)
        # A line of its own: a comment at its end must not swallow what comes after it.
        return sql.SQL("({}\n)").format(sql.SQL(self.expression))

    def hash(self, side: str) -> sql.Composable:
        """Return 64 bits that say what the value is on a side, NULL included."""
        return sql.SQL("coalesce({}, {})").format(
            sql.SQL(self.form).format(value=self.value(side), seed=digests.number(self.seed)),
            digests.number(self.missing),
        )


def compared(connection: Connection, flow: Flow) -> tuple[Compared, ...]:
    """Return how each column is compared; what has no value in the source is not.

    Generated columns are, where both sides compute them alike from columns that are alike. Raises StepFailed when the
    destination lacks a column.
    """
    known = digests.forms(connection, flow.into.schema_name, flow.into.name)
    # The assignment to an array cuts and pads each element as its type says; the expression has not done that yet.
    wanted = [
        (column.into, f"({column.expression}\n)::{column.type}" if column.type.endswith("]") else column.expression)
        for column in flow.columns
    ]
    wanted += [(name, _quoted(name)) for name in _generated(connection, flow)]
    found = []
    for number, (name, expression) in enumerate(wanted, 1):
        if name not in known:
            raise StepFailed(
                f'table {flow.into} has no column "{name}" any more', hint="somebody has altered it: begin anew"
            )
        method, form = known[name]
        found.append(
            Compared(name, expression, method, form, digests.constant(2 * number), digests.constant(2 * number + 1))
        )
    return tuple(found)


def methods(columns: Sequence[Compared]) -> Mapping[str, str]:
    """Return how each column is compared, in words for the record."""
    return {column.into: str(column.method) for column in columns}


def row_hash(columns: Sequence[Compared], side: str) -> sql.Composed:
    """Return 64 bits that say what a row is on a side."""
    # Each column has a seed of its own, so that two that hold the same do not cancel each other.
    return sql.SQL(" # ").join(column.hash(side) for column in columns)


def hashes(columns: Sequence[Compared], side: str) -> sql.Composed:
    """Return the columns' own hashes as an array, to see which of them differ."""
    return sql.SQL("array[{}]").format(comma(column.hash(side) for column in columns))


def _generated(connection: Connection, flow: Flow) -> list[str]:
    sides = []
    for place in (flow.source, flow.into):
        rows = connection.execute(_GENERATED.encode(), {"schema": place.schema_name, "name": place.name})
        sides.append({row[0]: row[1:] for row in rows})
    mine, theirs = sides
    plain = {column.into for column in flow.columns if column.expression == _quoted(column.into)}
    taken = {column.into for column in flow.columns} | set(flow.kept)
    return [
        name
        for name, made in theirs.items()
        if name not in taken and mine.get(name) == made and plain.issuperset(used[0] for used in made[3])
    ]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
