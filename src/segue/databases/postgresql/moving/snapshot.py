"""Copies whole tables at a slot's snapshot, several at a time, as the bytes the server sends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.moving.support import told, where
from segue.errors import InvalidInput, PrivilegeMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair

#: The server sends a row at a time; joined to this many bytes they cost less to pass on.
BLOCK = 128 * 1024

_COLUMNS = """
select a.attname::text, pg_catalog.format_type(a.atttypid, null)
from pg_catalog.pg_attribute as a
where a.attrelid = pg_catalog.to_regclass(%s) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attnum
"""
#: Their binary form is a number that means something else in another database.
_NUMBERED = frozenset(
    {"regclass", "regproc", "regprocedure", "regoper", "regoperator", "regtype", "regrole", "regnamespace"}
    | {"regconfig", "regdictionary", "regcollation", "oid"}
)


def refuse_filled(target: Connection, names: Sequence[str]) -> None:
    """Raise InvalidInput unless all tables are there on the target, and empty."""
    for name in names:
        row = target.execute("select pg_catalog.to_regclass(%s) is not null", [name]).fetchone()
        if row is None or not row[0]:
            raise InvalidInput(
                f"{name} is not there on the target",
                hint="make the tables there first, with their keys: `pg_dump --schema-only --table=… | psql`",
            )
        if target.execute(sql.SQL("select 1 from {} limit 1").format(sql.SQL(name))).fetchone():
            raise InvalidInput(f"{name} on the target has rows", hint="empty it, if nobody needs them")


def empty(target: Connection, names: Sequence[str]) -> None:
    """Empty the target's tables of a copy that was not finished."""
    listed = sql.SQL(", ").join(map(sql.SQL, names))
    target.execute(sql.SQL("truncate {}").format(listed))


def copy(pair: Pair, snapshot: str, names: Sequence[str], workers: int, note: Callable[[str], None]) -> dict[str, int]:
    """Copy tables at a snapshot, so many at a time; return the rows of each.

    No trigger fires and no foreign key is checked on the way: at one snapshot they hold as they do in the source.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="segue copy") as pool:
        counts = list(pool.map(lambda name: _copy(pair, snapshot, name, note), names))
    return dict(zip(names, counts, strict=True))


def _copy(pair: Pair, snapshot: str, name: str, note: Callable[[str], None]) -> int:
    application = f"segue move {pair.id}"
    with (
        told(where(pair, pair.source)),
        open_session(
            pair.source.url, application=application, pins={"idle_in_transaction_session_timeout": "0"}
        ) as source,
        open_session(pair.target.url, application=application) as target,
        source.transaction(),
        target.transaction(),
    ):
        source.execute("set transaction isolation level repeatable read, read only")
        source.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        try:
            target.execute("set local session_replication_role = replica")
        except psycopg.errors.InsufficientPrivilege as error:
            raise PrivilegeMissing(
                f"the role may not copy into {name} without firing its triggers",
                hint="on the target: GRANT SET ON PARAMETER session_replication_role, or use a role that may",
            ) from error
        columns = source.execute(_COLUMNS, [name]).fetchall()
        listed = sql.SQL(", ").join(sql.Identifier(column) for column, _ in columns)
        binary = not any(kind.removesuffix("[]") in _NUMBERED for _, kind in columns)
        form = sql.SQL("(format {})").format(sql.SQL("binary" if binary else "text"))
        out = sql.SQL("copy (select {} from {}) to stdout {}").format(listed, sql.SQL(name), form)
        into = sql.SQL("copy {} ({}) from stdin {}").format(sql.SQL(name), listed, form)
        cursor = target.cursor()
        with source.cursor().copy(out) as reading, cursor.copy(into) as writing:
            held: list[bytes] = []
            size = 0
            for piece in reading:
                held.append(bytes(piece))
                size += len(piece)
                if size >= BLOCK:
                    writing.write(b"".join(held))
                    held, size = [], 0
            writing.write(b"".join(held))
        rows = cursor.rowcount
    note(f"copied {rows} rows of {name}")
    return rows
