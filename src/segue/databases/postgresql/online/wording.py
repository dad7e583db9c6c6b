"""The SQL that a flow of rows is made of: the same words for copying, for draining and for what is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.databases.postgresql.online.blueprint import KeyColumn
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

    from segue.databases.postgresql.online.blueprint import Flow, Place

    Connection = psycopg.Connection[tuple[Any, ...]]

_RELATION = """
select c.relkind::text
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s
"""

# Of a domain its base: a marker in a log has a NULL for a key, and a domain may refuse that.
_TYPE = """
with recursive base as (
    select t.oid, t.typtype, t.typbasetype, t.typtypmod, false as stepped
    from pg_catalog.pg_type as t where t.oid = %(type)s::text::regtype
    union all
    select t.oid, t.typtype, t.typbasetype, b.typtypmod, true
    from base as b join pg_catalog.pg_type as t on t.oid = b.typbasetype
    where b.typtype = 'd'
)
select case when stepped then pg_catalog.format_type(oid, typtypmod) else %(type)s::text end,
    (oid = any(%(exact)s::text[]::regtype[]) or typtype = 'e') and coalesce((
        select o.collisdeterministic from pg_catalog.pg_collation as o where o.oid = %(collation)s::text::regcollation
    ), true)
from base where typtype <> 'd'
"""

# The database's own collation goes without saying; one that is written would have to be that of the index too.
_COLLATION = """
select quote_ident(n.nspname) || '.' || quote_ident(o.collname)
from pg_catalog.pg_attribute as a
join pg_catalog.pg_class as c on c.oid = a.attrelid
join pg_catalog.pg_namespace as r on r.oid = c.relnamespace
join pg_catalog.pg_collation as o on o.oid = a.attcollation and o.collname <> 'default'
join pg_catalog.pg_namespace as n on n.oid = o.collnamespace
where r.nspname = %s and c.relname = %s and a.attname = %s and a.attnum > 0 and not a.attisdropped
"""

#: Types of which equal values are identical, so that of two equal keys one says as much as both. Of the others
#: (numeric 1.0 and 1.00, text without regard to case) either may mean another row on the other side.
EXACT = (
    *("smallint", "integer", "bigint", "oid", "uuid", "boolean", "date", "timestamp", "timestamptz", "time"),
    *("text", "varchar", '"char"', "name", "bytea", "inet", "macaddr"),
)


#: Plain types of which each compares with the others in one index.
WHOLE = ("smallint", "integer", "bigint")
TEXTS = ("text", "character varying")
_MODIFIER = re.compile(r"\(\d+(,-?\d+)?\)")


def comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    """Join parts with commas."""
    return sql.SQL(", ").join(parts)


def key_names(key: Sequence[KeyColumn], prefix: str = "") -> sql.Composed:
    """Return the columns of a key as logs and lists have them."""
    return comma(sql.SQL(f"{prefix}segue_k{number}") for number, _ in enumerate(key, 1))


def key_type(connection: Connection, column: KeyColumn) -> tuple[str, bool]:
    """Return a key column's type in a log, and whether of equal values one says as much as all."""
    row = connection.execute(
        _TYPE.encode(), {"type": column.type, "collation": column.collation, "exact": list(EXACT)}
    ).fetchone()
    if row is None:
        raise StepFailed(f'the type "{column.type}" of key column "{column.name}" is not there any more')
    return row[0], row[1]


def plain(connection: Connection, type_: str) -> str:
    """Return a type without its modifier, of a domain that of its base."""
    column = KeyColumn(name="", type=type_, into="", into_type="")
    return _MODIFIER.sub("", key_type(connection, column)[0])


def compare_alike(came: str, goes: str) -> bool:
    """Return whether values of two plain types compare with each other as they are, in one index."""
    return came == goes or (came in WHOLE and goes in WHOLE) or (came in TEXTS and goes in TEXTS)


def is_exact(connection: Connection, key: Sequence[KeyColumn]) -> bool:
    """Return whether of equal keys one says as much as all."""
    return all(key_type(connection, column)[1] for column in key)


class Wording:
    """SQL of one flow, for sessions on the server where both of its tables are.

    Looks at the two tables once: it is to be made anew when they have moved. Raises StepFailed when one is missing.
    """

    def __init__(self, connection: Connection, flow: Flow) -> None:
        self.flow = flow
        self.source = self._only(connection, flow.source)
        self.into = self._only(connection, flow.into)
        self.exact = is_exact(connection, flow.key)
        self._into_collations = [self._collation(connection, column.into) for column in flow.key]
        types = [(plain(connection, column.type), plain(connection, column.into_type)) for column in flow.key]
        self._into_casts = ["" if compare_alike(came, goes) else f"::{goes}" for came, goes in types]
        self._same = [came == goes for came, goes in types]
        names = [column.into for column in flow.columns]
        values = [column.expression for column in flow.columns]
        self.insert = self._insert(names, values)
        kept = [*names, *flow.kept]
        self.insert_kept = self._insert(kept, [*values, *(f"segue_kept_{n}" for n, _ in enumerate(flow.kept, 1))])

    def _only(self, connection: Connection, place: Place) -> sql.Composed:
        row = connection.execute(_RELATION.encode(), [place.schema_name, place.name]).fetchone()
        if row is None:
            raise StepFailed(f"table {place} is not there any more", hint="somebody has dropped or renamed it")
        # Of a table that others inherit from, they are members of their own.
        return sql.SQL("{}{}").format(sql.SQL("" if row[0] == "p" else "only "), place.sql)

    def _collation(self, connection: Connection, name: str) -> str | None:
        into = self.flow.into
        row = connection.execute(_COLLATION.encode(), [into.schema_name, into.name, name]).fetchone()
        return row[0] if row else None

    def _insert(self, names: Sequence[str], values: Sequence[str]) -> sql.Composed:
        # A line of its own for each expression: a comment at its end must not swallow what comes after it.
        return sql.SQL("insert into {} ({}) overriding system value\nselect {}\nfrom {}").format(
            self.flow.into.sql,
            comma(sql.Identifier(name) for name in names),
            sql.SQL("\n, ").join(sql.SQL(value) for value in values),
            self.source,
        )

    # -- keys

    def key(self, name: str | None = None) -> list[sql.Composable]:
        """Return the key's columns in the source, called as its table is, in the collation in which they are walked."""
        return [
            sql.Identifier(name or self.flow.source.name, column.name)
            + sql.SQL(f" collate {column.collation}" if column.collation else "")
            for column in self.flow.key
        ]

    def key_text(self, name: str | None = None) -> sql.Composed:
        """Return the source's key as an array of texts, as conflicts are known by."""
        return sql.SQL("array[{}]").format(
            comma(
                sql.SQL("{}::text").format(sql.Identifier(name or self.flow.source.name, column.name))
                for column in self.flow.key
            )
        )

    def into_key(self) -> list[sql.Composable]:
        """Return the key's columns in the destination, called segue_into."""
        return [sql.Identifier("segue_into", column.into) for column in self.flow.key]

    def cast_key(self, parts: Sequence[sql.Composable]) -> list[sql.Composed]:
        """Return a key of the source to be compared with the destination's.

        It is neither rounded nor cut, nor can it fail: a key that the destination cannot hold just meets no row there.
        """
        return [
            sql.SQL("({}){}").format(part, sql.SQL(cast + (f" collate {collation}" if collation else "")))
            for part, cast, collation in zip(parts, self._into_casts, self._into_collations, strict=True)
        ]

    def written_key(self) -> list[sql.Composed]:
        """Return the source's key as the destination writes it: a numeric with as many digits."""
        return [
            sql.SQL("({})::{}").format(part, sql.SQL(column.into_type))
            if alike and column.type != column.into_type
            else cast
            for part, cast, column, alike in zip(
                self.key(), self.cast_key(self.key()), self.flow.key, self._same, strict=True
            )
        ]


class Listing:
    """A list of keys in a session of its own, and the statements that bring these keys up to date.

    The table is made once per session; its rows are gone when a transaction ends, so that nothing of it is written to
    the catalogue from then on. `segue_n` numbers the keys, when they have been numbered; equal keys have one number.
    """

    def __init__(self, connection: Connection, wording: Wording, name: str) -> None:
        self.wording = wording
        self.table = sql.Identifier("pg_temp", name)
        flow = wording.flow
        self.names = key_names(flow.key)
        columns = [
            sql.SQL(f"segue_k{n} {key_type(connection, column)[0]}")
            + sql.SQL(f" collate {column.collation}" if column.collation else "")
            for n, column in enumerate(flow.key, 1)
        ]
        kept = comma(
            sql.SQL("{} as {}").format(sql.Identifier("segue_into", name), sql.Identifier(f"segue_kept_{n}"))
            for n, name in enumerate(flow.kept, 1)
        )
        connection.execute(
            sql.SQL("create temp table if not exists {} (segue_n bigint, {}) on commit delete rows").format(
                sql.Identifier(name), comma(columns)
            )
        )
        self.saved = sql.Identifier("pg_temp", f"{name}_kept") if flow.kept else None
        if self.saved is not None:
            connection.execute(
                sql.SQL(
                    "create temp table if not exists {} on commit delete rows as "
                    "select segue_keys.*, {} from {} as segue_into, {} as segue_keys with no data"
                ).format(sql.Identifier(f"{name}_kept"), kept, wording.into, self.table)
            )
        self._kept = kept
        self.numbered = sql.SQL(
            "with numbered as (select ctid as segue_place, dense_rank() over (order by {names}) as segue_number "
            "from {table}) update {table} as segue_keys set segue_n = segue_number from numbered "
            "where segue_keys.ctid = segue_place"
        ).format(names=self.names, table=self.table)
        self.emptied = sql.SQL("delete from {}").format(self.table)

    def key_text(self) -> sql.Composed:
        """Return a listed key, called segue_keys, as an array of texts."""
        return sql.SQL("array[{}]").format(
            comma(sql.SQL(f"segue_keys.segue_k{n}::text") for n, _ in enumerate(self.wording.flow.key, 1))
        )

    def cast_key(self) -> list[sql.Composed]:
        """Return a listed key, called segue_keys, as the destination has it."""
        return self.wording.cast_key(
            [sql.SQL(f"segue_keys.segue_k{n}") for n, _ in enumerate(self.wording.flow.key, 1)]
        )

    def holds(self, where: str = "true", name: str | None = None) -> sql.Composed:
        """Return the condition that a row of the source is listed."""
        return sql.SQL("({}) in (select {} from {} where {})").format(
            comma(self.wording.key(name)), self.names, self.table, sql.SQL(where)
        )

    def holds_into(self) -> sql.Composed:
        """Return the condition that a row of the destination, called segue_into, is listed."""
        return sql.SQL("({}) in (select {} from {} as segue_keys)").format(
            comma(self.wording.into_key()), comma(self.cast_key()), self.table
        )

    def remove(self) -> list[sql.Composed]:
        """Return the statements that delete the listed keys from the destination; what is to be kept is kept."""
        wording = self.wording
        meets = sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(mine, theirs)
            for mine, theirs in zip(wording.into_key(), self.cast_key(), strict=True)
        )
        found = []
        if self.saved is not None:
            found.append(
                sql.SQL(
                    "insert into {} select segue_keys.*, {} from {} as segue_into, {} as segue_keys where {}"
                ).format(self.saved, self._kept, wording.into, self.table, meets)
            )
        found.append(
            sql.SQL("delete from {} as segue_into using {} as segue_keys where {}").format(
                wording.into, self.table, meets
            )
        )
        return found

    def kept_row(self, name: str) -> sql.Composable:
        """Return what is kept of a row of the source, called by a name, as one value."""
        if self.saved is None:
            return sql.SQL("null")
        return sql.SQL("(select pg_catalog.to_jsonb(segue_had) from {} as segue_had where ({}) = ({}) limit 1)").format(
            self.saved, comma(self.wording.key(name)), key_names(self.wording.flow.key, "segue_had.")
        )

    def give_back(self, gone: sql.Composable, rest: sql.Composable | None = None) -> sql.Composed:
        """Return the statement that takes conflicts away and lays by what was kept of their rows.

        `gone` is a DELETE that returns `key` and `kept`; with `rest`, its keys are listed.
        """
        parts: list[sql.Composable] = [sql.SQL("with segue_gone as ({})").format(gone)]
        back: sql.Composable = sql.SQL("select 1")
        if self.saved is not None:
            back = sql.SQL(
                "insert into {saved} select (pg_catalog.jsonb_populate_record(null::{saved}, kept)).* "
                "from segue_gone where kept is not null"
            ).format(saved=self.saved)
        if rest is None:
            return sql.SQL(" ").join([*parts, back])
        if self.saved is not None:
            parts.append(sql.SQL(", segue_back as ({})").format(back))
        listed = sql.SQL("insert into {} ({}) select {} from segue_gone").format(self.table, self.names, rest)
        return sql.SQL(" ").join([*parts, listed])

    def put(self, where: str = "true") -> list[sql.Composed]:
        """Return the statements that insert the present state of the listed keys, or of some of them by number."""
        wording = self.wording
        if self.saved is None:
            return [wording.insert + sql.SQL("\nwhere ") + self.holds(where)]
        had = sql.SQL("({}) = ({})").format(comma(wording.key()), key_names(wording.flow.key, "segue_had."))
        # Of keys that are equal and not the same in the source, the destination may have had either.
        one = sql.SQL(
            "\njoin (select distinct on ({names}) * from {saved} order by {names}) as segue_had on {had}\nwhere "
        ).format(names=self.names, saved=self.saved, had=had)
        none = sql.SQL(" and not exists (select from {} as segue_had where {})").format(self.saved, had)
        return [
            wording.insert_kept + one + self.holds(where),
            wording.insert + sql.SQL("\nwhere ") + self.holds(where) + none,
        ]
