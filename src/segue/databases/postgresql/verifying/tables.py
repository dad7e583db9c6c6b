"""What two tables have in common: columns, how each is hashed alike on both sides, and a key to walk along."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg import sql

from segue.databases.postgresql import digests
from segue.databases.postgresql.keys import KEYS
from segue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    Connection = psycopg.Connection[tuple[Any, ...]]

ALL = """
select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition and n.nspname not in ('pg_catalog', 'information_schema')
    and n.nspname !~ '^(pg_|segue$|segue_)'
    and not exists (select from pg_catalog.pg_depend as d where d.classid = 'pg_class'::regclass and d.objid = c.oid
        and d.deptype = 'e')
order by 1
"""
_TABLE = """
select n.nspname, c.relname, c.relkind::text, c.oid::bigint
from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.oid = pg_catalog.to_regclass(%s)
"""
_COLUMNS = """
select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', t.typtype = 'e'
from pg_catalog.pg_attribute as a join pg_catalog.pg_type as t on t.oid = a.atttypid
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_COLLATION = """
select d.datcollate || ' ' || pg_catalog.current_setting('server_version_num')::integer / 10000
from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()
"""

# Types whose values every server puts in the same order.
_ORDERED = frozenset(
    ("smallint", "integer", "bigint", "oid", "uuid", "date", "boolean", "numeric", "bytea", "interval", "inet", "cidr")
) | {"timestamp without time zone", "timestamp with time zone", "time without time zone"}
_TEXTS = ("text", "character varying", "character", "name")


@dataclass(frozen=True, slots=True)
class Side:
    """A table on one side."""

    said: str
    schema: str
    name: str
    oid: int
    columns: dict[str, tuple[str, bool, bool]]  # type, generated, an enum
    keys: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str | None, ...]], ...]

    @property
    def identifier(self) -> sql.Identifier:
        """Return its name for statements."""
        return sql.Identifier(self.schema, self.name)


class Rows(Protocol):
    """Rows of one side: `said` for people, `identifier` as FROM wants it."""

    @property
    def said(self) -> str:
        """Return what they are called."""
        ...

    @property
    def identifier(self) -> sql.Composable:
        """Return a table's name, or a query in parentheses."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """A column that both sides have, and how it is hashed on each."""

    name: str
    type: str
    generated: bool
    forms: tuple[str, str]
    seed: int
    why: str

    def hash(self, side: int) -> sql.Composable:
        """Return 64 bits that say what the value is, NULL included."""
        form = sql.SQL(self.forms[side]).format(
            value=sql.Identifier("r", self.name), seed=digests.number(digests.constant(2 * self.seed))
        )
        return sql.SQL("coalesce({}, {})").format(form, digests.number(digests.constant(2 * self.seed + 1)))


@dataclass(frozen=True, slots=True)
class Key:
    """A key that both sides have. `ordered`: both put it in the same order; `types` are those of the first side."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    ordered: bool


@dataclass(frozen=True, slots=True)
class Match:
    """A pair of tables, ready to be compared."""

    sides: tuple[Rows, Rows]
    columns: tuple[Column, ...]
    key: Key | None
    alone: tuple[str, ...]


def find(connection: Connection, said: str, where: str) -> Side:
    """Look a table up. Raises InvalidInput where there is none."""
    try:
        row = connection.execute(_TABLE, [said]).fetchone()
    except psycopg.Error:
        if connection.closed:
            raise
        row = None  # not a name at all
    if row is None or row[2] not in ("r", "p"):
        raise InvalidInput(
            f'there is no table "{said}" in {where}',
            hint="names follow SQL: write upper case in double quotes, and the schema unless it is public",
        )
    columns = {name: (kind, generated, enum) for name, kind, generated, enum in connection.execute(_COLUMNS, [row[3]])}
    keys = tuple(
        (tuple(names), tuple(types), tuple(collations))
        for names, types, collations, _ in connection.execute(KEYS.encode(), {"table": str(row[3])})
    )
    return Side(said, row[0], row[1], row[3], columns, keys)


def match(a: Connection, b: Connection, sides: tuple[Side, Side], wanted: Sequence[str] | None) -> Match:
    """Find what both have. Raises InvalidInput when a column that is wanted is not there, or none is in common."""
    mine, theirs = sides
    both = [name for name in mine.columns if name in theirs.columns]
    alone = sorted(set(mine.columns) ^ set(theirs.columns))
    if wanted is not None:
        if missing := [name for name in wanted if name not in both]:
            raise InvalidInput(
                f'"{mine.said}" and "{theirs.said}" do not both have a column "{missing[0]}"',
                hint=f"both have {', '.join(both) or 'none'}",
            )
        both, alone = [name for name in both if name in wanted], []
    if not both:
        raise InvalidInput(f'"{mine.said}" and "{theirs.said}" have no column in common')
    forms = [digests.forms(connection, side.schema, side.name) for connection, side in zip((a, b), sides, strict=True)]
    columns = []
    for number, name in enumerate(both, 1):
        (type_a, generated_a, enum_a), (type_b, generated_b, enum_b) = mine.columns[name], theirs.columns[name]
        (how_a, form_a), (how_b, form_b) = forms[0][name], forms[1][name]
        why = how_a.why or how_b.why
        if enum_a or enum_b:
            why = "the hash of an enum is its number in its own database"
        elif type_a != type_b:
            why = f"it is {type_a} here and {type_b} there"
        elif how_a.how != how_b.how or form_a != form_b:
            why = why or "the two servers hash it in different ways"
        if enum_a or enum_b or type_a != type_b or form_a != form_b:
            form_a = form_b = digests.text_form()
        columns.append(Column(name, type_a, generated_a or generated_b, (form_a, form_b), number, why))
    return Match(sides, tuple(columns), _key(a, b, mine, theirs), tuple(alone))


def _key(a: Connection, b: Connection, mine: Side, theirs: Side) -> Key | None:
    """Return the best key that both have: one that both sort alike, if there is one."""
    others = {frozenset(names) for names, _, _ in theirs.keys}
    found = None
    alike = _order(a) == _order(b)
    for names, types, collations in mine.keys:
        if frozenset(names) not in others:
            continue
        there = tuple(theirs.columns[name][0] for name in names)
        far = next(collated for keys, _, collated in theirs.keys if frozenset(keys) == frozenset(names))
        ordered = types == there and all(
            _plain(kind) in _ORDERED
            or (_plain(kind) in _TEXTS and collation in (None, 'pg_catalog."C"') and (alike or collation))
            for kind, collation in zip(types, collations, strict=True)
        )
        ordered = ordered and set(far) == set(collations)
        if ordered:
            return Key(names, types, ordered=True)
        found = found or Key(names, types, ordered=False)
    return found


def _plain(kind: str) -> str:
    """Return a type without its length."""
    return re.sub(r" ?\(.*?\)", "", kind)


def _order(connection: Connection) -> str:
    row = connection.execute(_COLLATION).fetchone()
    return str(row[0]) if row else ""
