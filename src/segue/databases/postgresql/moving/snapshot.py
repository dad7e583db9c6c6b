"""Copies whole tables at a slot's snapshot, several at a time, as the bytes the server sends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.moving.support import told, where
from segue.errors import InvalidInput, PrivilegeMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair

#: The server sends a row at a time; joined to this many bytes they cost less to pass on.
BLOCK = 128 * 1024

# `plain`: its binary form says the same in every database. Values of domains, composites and extensions go as text:
# what is within them may be numbers of this database.
_COLUMNS = """
select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
    e.typtype = 'e' or e.typnamespace = 'pg_catalog'::regnamespace and e.typtype in ('b', 'r', 'm')
        and e.typname <> all (%(numbered)s) as plain,
    a.attgenerated <> '' as generated,
    a.attnotnull and not a.atthasdef and a.attidentity = '' as needed
from pg_catalog.pg_attribute as a
join pg_catalog.pg_type as t on t.oid = a.atttypid
join pg_catalog.pg_type as e on e.oid = case when t.typcategory = 'A' and t.typelem <> 0 then t.typelem else t.oid end
where a.attrelid = pg_catalog.to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
#: Their binary form is a number that means something else in another database.
_NUMBERED = (
    *("regclass", "regproc", "regprocedure", "regoper", "regoperator", "regtype", "regrole", "regnamespace"),
    *("regconfig", "regdictionary", "regcollation", "oid", "oidvector"),
)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    plain: bool
    generated: bool
    needed: bool


def _columns(connection: Connection, name: str) -> dict[str, _Column]:
    found = connection.execute(_COLUMNS, {"table": name, "numbered": list(_NUMBERED)}).fetchall()
    return {row[0]: _Column(*row) for row in found}


def refuse_unlike(source: Connection, target: Connection, names: Sequence[str]) -> None:
    """Raise InvalidInput unless every table is there on the target, with the same columns of the same types.

    Neither binary COPY nor the servers' replication would always fail on other types: some would store other values.
    """
    wrong, missing = [], []
    for name in names:
        mine, theirs = _columns(source, name), _columns(target, name)
        if not theirs:
            missing.append(f"{name} is not there on the target")
            continue
        for column in mine.values():
            there = theirs.get(column.name)
            if there is None:
                wrong.append(f'{name} has no column "{column.name}" on the target')
            elif (there.type, there.generated) != (column.type, column.generated):
                how = " generated" if there.generated else ""
                wrong.append(f'"{column.name}" of {name} is {column.type}, and{how} {there.type} on the target')
        wrong += [
            f'{name} needs a value of "{column.name}" on the target, which the source does not have'
            for column in theirs.values()
            if column.name not in mine and column.needed and not column.generated
        ]
    if missing or wrong:
        raise InvalidInput(
            "the tables of the target are not those of the source",
            details=[*missing, *wrong],
            hint="make them there first, with their keys: `pg_dump --schema-only --table=… | psql`",
        )


def claim(pair: Pair, target: Connection, names: Sequence[str]) -> bool:
    """Note on the target that this move fills the tables, which are empty then; return whether it had begun to.

    Only what this move has copied itself is ever emptied. Raises InvalidInput where a table has other rows.
    """
    filling = sql.Identifier(pair.name, "filling")
    with target.transaction():
        target.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(pair.name)))
        target.execute(sql.SQL("create table if not exists {} (name text primary key, rows bigint)").format(filling))
        known: dict[str, int | None] = dict(
            target.execute(sql.SQL("select name, rows from {}").format(filling)).fetchall()
        )
        filled = []
        for name in names:
            table = sql.SQL(name)
            target.execute(sql.SQL("lock table {} in exclusive mode").format(table))
            if known.get(name):
                row = target.execute(sql.SQL("select count(*) from {}").format(table)).fetchone()
                filled.append(name)
            else:
                row = target.execute(
                    sql.SQL("select count(*) from (select from {} limit 1) as t").format(table)
                ).fetchone()
            if row is not None and row[0] != (known.get(name) or 0):
                raise InvalidInput(
                    f"{name} on the target has rows that this move has not copied",
                    hint="empty it, if nobody needs them",
                )
        if filled:
            # All of them, since they may refer to one another; the others are empty.
            target.execute(sql.SQL("truncate {}").format(sql.SQL(", ").join(map(sql.SQL, names))))
        target.execute(sql.SQL("delete from {}").format(filling))
        target.execute(sql.SQL("insert into {} (name) select * from unnest(%s::text[])").format(filling), [list(names)])
    return bool(known)


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
        with told(where(pair, pair.target)):
            try:
                target.execute("set local session_replication_role = replica")
            except psycopg.errors.InsufficientPrivilege as error:
                raise PrivilegeMissing(
                    f"the role may not copy into {name} without firing its triggers",
                    hint="on the target: GRANT SET ON PARAMETER session_replication_role, or use a role that may",
                ) from error
        columns = [column for column in _columns(source, name).values() if not column.generated]
        listed = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
        binary = all(column.plain for column in columns)
        form = sql.SQL("(format {})").format(sql.SQL("binary" if binary else "text"))
        out = sql.SQL("copy (select {} from {}) to stdout {}").format(listed, sql.SQL(name), form)
        into = sql.SQL("copy {} ({}) from stdin {}").format(sql.SQL(name), listed, form)
        cursor = target.cursor()
        # What the target refuses is its error; what goes wrong with reading is told of the source within it.
        with source.cursor().copy(out) as reading, told(where(pair, pair.target)), cursor.copy(into) as writing:
            held: list[bytes] = []
            size = 0
            for piece in _pieces(pair, reading):
                held.append(piece)
                size += len(piece)
                if size >= BLOCK:
                    writing.write(b"".join(held))
                    held, size = [], 0
            writing.write(b"".join(held))
        rows = cursor.rowcount
        with told(where(pair, pair.target)):
            # In the transaction of the rows: what is emptied later is known to be ours.
            target.execute(
                sql.SQL("update {} set rows = %s where name = %s").format(sql.Identifier(pair.name, "filling")),
                [rows, name],
            )
    note(f"copied {rows} rows of {name}")
    return rows


def _pieces(pair: Pair, reading: psycopg.Copy) -> Iterator[bytes]:
    with told(where(pair, pair.source)):
        yield from (bytes(piece) for piece in reading)
