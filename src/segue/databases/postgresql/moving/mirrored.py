"""What a read-only copy's tables are made of: brought level with their home, and who still reads a side that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from segue.databases.postgresql.moving.support import members, referring, relations, where
from segue.databases.postgresql.passing import pass_through
from segue.errors import Blocked, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.databases.postgresql.moving.snapshot import Column
    from segue.databases.postgresql.moving.support import Connection, Pair, Side

_KEY = """
select a.attname::text from pg_catalog.pg_index as x
join pg_catalog.pg_attribute as a on a.attrelid = x.indrelid and a.attnum = any(x.indkey)
where x.indrelid = pg_catalog.to_regclass(%s) and x.indisprimary order by a.attnum
"""
_READERS = """
select p.pubname::text
from pg_catalog.pg_publication as p
where p.pubname <> %s and pg_catalog.to_regclass(pg_catalog.quote_ident(p.pubname) || '.reader') is not null
    and exists (
        select from pg_catalog.pg_publication_rel as r
        where r.prpubid = p.oid and r.prrelid = any(%s::text[]::regclass[])
    )
order by 1
"""


def key_of(connection: Connection, name: str) -> list[str]:
    """Return the columns of a table's primary key."""
    return [str(row[0]) for row in connection.execute(_KEY, [name]).fetchall()]


def refuse_filled(target: Connection, names: Sequence[str]) -> None:
    """Raise InvalidInput where a table has rows, which nobody has copied."""
    for name in names:
        if target.execute(sql.SQL("select from {} limit 1").format(sql.SQL(name))).fetchone() is not None:
            raise InvalidInput(
                f"{name} on the target has rows that this copy has not brought", hint="empty it, if nobody needs them"
            )


def refuse_referring(pair: Pair, target: Connection, names: Sequence[str]) -> None:
    """Raise Blocked where a foreign key of another table refers to a copy.

    The copy is a moment behind: such a key would refuse a row that refers to a new one. And it would not keep a row of
    the copy from being deleted: what is followed is not checked.
    """
    all_names = [relation.name for relation in relations(target, names)]
    found = referring(target, all_names)
    if found:
        raise Blocked(
            f"{len(found)} foreign keys on {where(pair, pair.target)} refer to tables that are to be read-only copies",
            details=[f"alter table {table} drop constraint {name};" for table, name in found],
            hint="a copy is a moment behind, so such a key would refuse rows that are right: drop it; "
            "`segue move probe` looks whether it holds",
        )


def level(source: Connection, target: Connection, name: str, columns: Sequence[Column], key: Sequence[str]) -> int:
    """Make a table what it is in the source's transaction, within the target's; return how many rows were written.

    What differs is replaced, so that readers see the old rows or the new ones and nothing is written that is right.
    """
    table = sql.SQL(name)
    own = [column for column in columns if not column.generated]
    listed = sql.SQL(", ").join(sql.Identifier(column.name) for column in own)
    brought = sql.Identifier("pg_temp", "segue_brought")
    form = sql.SQL("binary" if all(column.plain for column in own) else "text")
    target.execute(b"drop table if exists pg_temp.segue_brought")
    target.execute(sql.SQL("create temp table segue_brought as select {} from {} limit 0").format(listed, table))
    pass_through(
        source,
        sql.SQL("copy (select {} from {}) to stdout (format {})").format(listed, table, form),
        target,
        sql.SQL("copy {} ({}) from stdin (format {})").format(brought, listed, form),
    )
    target.execute(b"analyze pg_temp.segue_brought")

    def row(alias: str) -> sql.Composed:
        # As text, since not every type can be compared.
        fields = [sql.Identifier(alias, column.name) for column in own]
        return sql.SQL("row({})::text").format(sql.SQL(", ").join(fields))

    same = sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier("t", column), sql.Identifier("n", column)) for column in key
    )
    target.execute(
        sql.SQL("delete from {} as t where not exists (select from {} as n where {} and {} = {})").format(
            table, brought, same, row("t"), row("n")
        )
    )
    written = target.execute(
        sql.SQL(
            "insert into {} ({}) overriding system value select {} from {} as n "
            "where not exists (select from {} as t where {})"
        ).format(table, listed, listed, brought, table, same)
    ).rowcount
    target.execute(b"drop table pg_temp.segue_brought")
    return written


def check_unread(pair: Pair, side: Side, connection: Connection) -> None:
    """Raise Blocked where read-only copies follow this side's tables, which nobody will write to any more."""
    found = [str(row[0]) for row in connection.execute(_READERS, [pair.name, members(pair, connection)]).fetchall()]
    names = [name.removeprefix("segue_move_") for name in found]
    if names:
        raise Blocked(
            f"{len(names)} read-only copies follow the tables of {where(pair, side)}, which would not change any more",
            details=[f"segue move rehome {name}" for name in names],
            hint="have each follow the tables' new home first, as above",
        )
