"""What the catalogues say of the tables and functions that a shape names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue.databases.postgresql.passing import NUMBERED, PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segue.databases.postgresql.moving.support import Connection

# A type of the target's own is not there on the source, so its values pass as text.
_COLUMNS = """
select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.format_type(a.atttypid, null),
    PLAIN and e.typnamespace = 'pg_catalog'::regnamespace, a.attgenerated <> '',
    a.attnotnull and not a.atthasdef and a.attidentity = '',
    case when t.typtype = 'd' then (
        with recursive below (oid, typmod) as (
            select t.oid, a.atttypmod
            union all
            select d.typbasetype, d.typtypmod
            from below as b join pg_catalog.pg_type as d on d.oid = b.oid and d.typtype = 'd'
        )
        select pg_catalog.format_type(b.oid, b.typmod)
        from below as b join pg_catalog.pg_type as d on d.oid = b.oid and d.typtype <> 'd'
    ) end
from pg_catalog.pg_attribute as a
join pg_catalog.pg_type as t on t.oid = a.atttypid
join pg_catalog.pg_type as e on e.oid = case when t.typcategory = 'A' and t.typelem <> 0 then t.typelem else t.oid end
where a.attrelid = pg_catalog.to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
order by a.attnum
""".replace("PLAIN", f"({PLAIN.strip()})")
_PRIMARY = """
select array_agg(a.attname::text order by k.place)
from pg_catalog.pg_index as x
cross join lateral unnest(x.indkey::smallint[]) with ordinality as k (attnum, place)
join pg_catalog.pg_attribute as a on a.attrelid = x.indrelid and a.attnum = k.attnum
where x.indrelid = pg_catalog.to_regclass(%s) and x.indisprimary and x.indisvalid and x.indimmediate
    and k.place <= x.indnkeyatts
"""
# Owned by a column, or drawn from by its default.
_SEQUENCES = """
select a.attname::text, pg_catalog.format('%%I.%%I', n.nspname, c.relname)
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join (
    select d.objid as sequence, d.refobjid as relation, d.refobjsubid as attnum from pg_catalog.pg_depend as d
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
    union
    select d.refobjid, f.adrelid, f.adnum from pg_catalog.pg_depend as d
    join pg_catalog.pg_attrdef as f on f.oid = d.objid
    where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
) as u on u.sequence = c.oid
join pg_catalog.pg_attribute as a on a.attrelid = u.relation and a.attnum = u.attnum
where c.relkind = 'S' and u.relation = pg_catalog.to_regclass(%s)
"""
# Functions that do not give one value for one row, the same whenever they are asked. What one of the user's own reads
# is not followed.
_UNFIT = """
select p.proname, bool_and(p.prokind = 'f' and not p.proretset), bool_or(o.own)
from pg_catalog.pg_proc as p
cross join lateral (
    select p.pronamespace <> 'pg_catalog'::regnamespace and p.provolatile <> 'i' and not exists (
        select from pg_catalog.pg_depend as d
        where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
    ) as own
) as o
where p.proname = any(%s)
group by p.proname
having bool_and(p.provolatile = 'v' or p.provolatile = 's' and p.pronargs = 0)
    or bool_and(p.prokind <> 'f' or p.proretset) or bool_or(o.own)
order by 1
"""
_TRIGGERS = """
select exists (
    select from pg_catalog.pg_trigger as t
    where t.tgrelid = pg_catalog.to_regclass(%s) and not t.tgisinternal and t.tgenabled = 'O'
        and not pg_catalog.starts_with(t.tgname, 'segue_')
)
"""

# A cast to these, without a length, would be to the length 1.
_WIDEST = {"character": "bpchar", "bit": "bit varying"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `base`: its type without a length, `plain`: its bytes mean the same in every database."""

    name: str
    type: str
    base: str
    plain: bool
    generated: bool
    needed: bool
    #: What a domain is made of.
    below: str | None

    @property
    def cast(self) -> str:
        """Return what a value is cast to: never to a length, which would cut it without a word."""
        return _WIDEST.get(self.base, self.base) if self.plain else "text"


@dataclass(frozen=True, slots=True)
class Table:
    """A table, `name` as SQL writes it, with its columns by name and its primary key."""

    name: str
    columns: dict[str, Column]
    key: tuple[str, ...]


def read(connection: Connection, name: str) -> Table:
    """Return a table by its name, as SQL writes it; one that is not there has no columns."""
    found = connection.execute(_COLUMNS.encode(), {"table": name, "numbered": list(NUMBERED)}).fetchall()
    row = connection.execute(_PRIMARY, [name]).fetchone()
    return Table(name, {one[0]: Column(*one) for one in found}, tuple(row[0] or ()) if row else ())


def sequences(connection: Connection, table: str) -> dict[str, str]:
    """Return the sequences that a table's columns draw from, by column."""
    return dict(connection.execute(_SEQUENCES, [table]).fetchall())


def unfit(connection: Connection, functions: Iterable[str]) -> str | None:
    """Return which of the functions cannot stand in an expression over one row, and why."""
    row = connection.execute(_UNFIT, [list(functions)]).fetchone()
    if row is None:
        return None
    name, one_row, own = row
    if own:
        return f"{name}() is not IMMUTABLE: what it reads is not followed"
    return f"{name}() {'gives another value each time' if one_row else 'is not of one row'}"


def has_triggers(connection: Connection, table: str) -> bool:
    """Tell whether a table has triggers of the user's that fire for ordinary writes."""
    row = connection.execute(_TRIGGERS, [table]).fetchone()
    return bool(row and row[0])
