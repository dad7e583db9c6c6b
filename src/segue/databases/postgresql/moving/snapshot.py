"""What a copy is made of: columns that both sides have, into tables that nobody else has filled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from segue.databases.postgresql.moving import ranges
from segue.databases.postgresql.passing import NUMBERED, PLAIN
from segue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair

_COLUMNS = """
select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
    PLAIN as plain,
    a.attgenerated <> '' as generated,
    a.attnotnull and not a.atthasdef and a.attidentity = '' as needed
from pg_catalog.pg_attribute as a
join pg_catalog.pg_type as t on t.oid = a.atttypid
join pg_catalog.pg_type as e on e.oid = case when t.typcategory = 'A' and t.typelem <> 0 then t.typelem else t.oid end
where a.attrelid = pg_catalog.to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
order by a.attnum
""".replace("PLAIN", f"({PLAIN.strip()})")


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `plain`: its values mean the same in another database as bytes, `needed`: it must be given."""

    name: str
    type: str
    plain: bool
    generated: bool
    needed: bool


def columns_of(connection: Connection, name: str) -> dict[str, Column]:
    """Return a table's columns by name, in their order."""
    found = connection.execute(_COLUMNS, {"table": name, "numbered": list(NUMBERED)}).fetchall()
    return {row[0]: Column(*row) for row in found}


def refuse_unlike(source: Connection, target: Connection, names: Sequence[str]) -> None:
    """Raise InvalidInput unless every table is there on the target, with the same columns of the same types.

    Neither binary COPY nor the servers' replication would always fail on other types: some would store other values.
    """
    wrong, missing = [], []
    for name in names:
        mine, theirs = columns_of(source, name), columns_of(target, name)
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
            hint="`segue move create … --schema` makes the move's tables there; or make them yourself, with their keys",
        )


def claim(pair: Pair, target: Connection, names: Sequence[str]) -> bool:
    """Note on the target that this move fills the tables, which are empty then; return whether it had begun to.

    Only what this move has copied itself is ever emptied. Raises InvalidInput where a table has other rows.
    """
    filling = sql.Identifier(pair.name, "filling")
    with target.transaction():
        target.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(pair.name)))
        target.execute(sql.SQL("create table if not exists {} (name text primary key)").format(filling))
        ranges.make(pair, target)
        begun = target.execute(sql.SQL("select from {}").format(filling)).rowcount > 0
        known = ranges.counted(pair, target)
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
        ranges.record(pair, target, [])
        target.execute(sql.SQL("insert into {} (name) select * from unnest(%s::text[])").format(filling), [list(names)])
    return begun
