"""Digests of rows: one 64-bit number per row, added up over a range, by which two tables are compared on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

    from segue.databases.postgresql.online.blueprint import Flow

    Connection = psycopg.Connection[tuple[Any, ...]]

HASH = "hash"
TEXT = "text"

# Of these types equal values are the same values, and PostgreSQL has a 64-bit hash for them. Of every other type the
# text is hashed: equality is coarser than identity there (numeric 1.0 and 1.00, float 0.0 and -0.0, interval, jsonb,
# character(n), a collation without regard to case), or there is no hash at all (json, xml, point, bit, tsvector).
_METHODS = """
with recursive base as (
    select w.place, t.oid, t.typtype, t.typbasetype, t.typcollation
    from unnest(%(types)s::text[]) with ordinality as w (name, place)
    join pg_catalog.pg_type as t on t.oid = w.name::regtype
    union all
    select b.place, t.oid, t.typtype, t.typbasetype, t.typcollation
    from base as b join pg_catalog.pg_type as t on t.oid = b.typbasetype where b.typtype = 'd'
)
select b.place,
    (b.typtype = 'e' or b.oid = any (array['boolean', 'smallint', 'integer', 'bigint', 'oid', 'uuid', 'text',
        'varchar', '"char"', 'name', 'bytea', 'date', 'time', 'timestamp', 'timestamptz', 'macaddr',
        'macaddr8', 'xid8', 'tid']::regtype[]))
    and coalesce((
        select o.collisdeterministic from pg_catalog.pg_attribute as a
        join pg_catalog.pg_collation as o on o.oid = a.attcollation
        where a.attrelid = pg_catalog.to_regclass(%(into)s) and a.attname = (%(names)s::text[])[b.place]
    ), true)
from base as b where b.typtype <> 'd'
order by b.place
"""


def methods(connection: Connection, flow: Flow) -> dict[str, str]:
    """Return by column of the destination whether its value is hashed (`hash`), or its text form (`text`)."""
    names = [column.into for column in flow.columns]
    rows = connection.execute(
        _METHODS.encode(),
        {"types": [column.type for column in flow.columns], "names": names, "into": str(flow.into)},
    ).fetchall()
    return {names[place - 1]: HASH if hashed else TEXT for place, hashed in rows}


def of_source(flow: Flow, how: Mapping[str, str]) -> sql.Composed:
    """Return the number of a row of the source, whose columns go by their bare names."""
    # A line of its own for each expression: a comment at its end must not swallow what comes after it.
    values = [sql.SQL("({}\n)::{}").format(sql.SQL(column.expression), sql.SQL(column.type)) for column in flow.columns]
    return _row(values, [how[column.into] for column in flow.columns])


def of_into(flow: Flow, how: Mapping[str, str]) -> sql.Composed:
    """Return the number of a row of the destination, which is called segue_into."""
    return _row(
        [sql.Identifier("segue_into", column.into) for column in flow.columns],
        [how[column.into] for column in flow.columns],
    )


def _row(values: list[Any], how: list[str]) -> sql.Composed:
    # Places in a record do not run together, and NULL is no text. But a record's hash is a sum of its columns' hashes,
    # each with a factor by its place: added up over rows, it would not notice values that two rows have exchanged. So
    # each row's number is hashed once more.
    parts = [
        value if method == HASH else sql.SQL('({})::text collate "C"').format(value)
        for value, method in zip(values, how, strict=True)
    ]
    return sql.SQL("pg_catalog.hashint8extended(pg_catalog.hash_record_extended(row({}), 7), 7)").format(
        sql.SQL(", ").join(parts)
    )
