"""Finds the row at which an expression fails: the server says what is wrong, and not where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue.databases.postgresql.reshaping import wording

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.databases.postgresql.moving.ranges import Range
    from segue.databases.postgresql.moving.support import Connection
    from segue.databases.postgresql.reshaping.ways import Group, Landing

_PAGES = "select pg_catalog.pg_relation_size(pg_catalog.to_regclass(%s)) / current_setting('block_size')::int"


def culprit(connection: Connection, group: Group, landing: Landing) -> str | None:
    """Return the key of a listed row that cannot be read, as the server writes it; None where all can."""
    keys = connection.execute(sql.SQL("select k.ctid::text, k::text from {} as k").format(wording.keys_table(group)))
    listed = keys.fetchall()

    def fails(first: int, until: int) -> bool:
        places = sql.SQL("k.ctid = any({}::pg_catalog.tid[])").format(sql.Literal([p for p, _ in listed[first:until]]))
        return _fails(connection, wording.read_listed(group, landing, places))

    found = _bisect(0, len(listed), fails)
    return None if found is None else str(listed[found][1])


def culprit_in(connection: Connection, landing: Landing, one: Range) -> str | None:
    """Return the key of a row within a range of pages that cannot be read; None where all can.

    Within a transaction at the snapshot at which it failed. Reads about twice what the range has.
    """
    row = connection.execute(_PAGES, [one.part]).fetchone()
    until = one.until if one.until is not None else int(row[0]) if row else 0

    def pages(first: int, end: int) -> sql.Composed:
        return sql.SQL("ctid >= {}::pg_catalog.tid and ctid < {}::pg_catalog.tid").format(
            sql.Literal(f"({first},0)"), sql.Literal(f"({end},0)")
        )

    page = _bisect(
        one.first or 0, until, lambda a, b: _fails(connection, wording.read_part(landing, one.part, pages(a, b)))
    )
    if page is None:
        return None
    keys = sql.SQL(", ").join(map(sql.SQL, landing.own_keys))
    rows = connection.execute(
        sql.SQL(
            "select segue_place::text, row({})::text from (select ctid as segue_place, * from only {} where {}) as {}"
        ).format(keys, sql.SQL(one.part), pages(page, page + 1), sql.Identifier(landing.alias))
    ).fetchall()
    for place, key in rows:
        here = sql.SQL("ctid = {}::pg_catalog.tid").format(sql.Literal(place))
        if _fails(connection, wording.read_part(landing, one.part, here)):
            return str(key)
    return None


def _bisect(first: int, until: int, fails: Callable[[int, int], bool]) -> int | None:
    """Return a number at which it fails, where it fails for a span of numbers that has it."""
    if first >= until or not fails(first, until):
        return None
    while until - first > 1:
        middle = (first + until) // 2
        if fails(first, middle):
            until = middle
        else:
            first = middle
    return first


def _fails(connection: Connection, query: sql.Composed) -> bool:
    # Every column is to be computed, and none to be sent.
    try:
        with connection.transaction():
            connection.execute(sql.SQL("select count(q::text) from ({}) as q").format(query))
    except (psycopg.errors.QueryCanceled, psycopg.OperationalError):
        raise
    except psycopg.Error:
        return True
    return False
