"""Tables cut into ranges of their pages, and on the target a row for each that says whether its rows are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from segue.databases.postgresql.moving.support import relations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair

#: About so many bytes are copied in one transaction, values out of line included.
PORTION = 256 * 1024 * 1024

_SIZES = """
select c.relkind::text, c.relkind = 'r' and a.amname = 'heap' as paged, pg_catalog.pg_relation_filenode(c.oid)::bigint,
    case when c.relkind = 'r' then pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int else 0 end,
    case when c.relkind = 'r' then pg_catalog.pg_table_size(c.oid) else 0 end
from pg_catalog.pg_class as c left join pg_catalog.pg_am as a on a.oid = c.relam
where c.oid = pg_catalog.to_regclass(%s)
"""
_MAKE = """
create table if not exists {} (number integer primary key, name text not null, part text not null, first bigint,
    until bigint, filenode bigint, bytes bigint not null, rows bigint)
"""


@dataclass(frozen=True, slots=True)
class Range:
    """Pages `first` up to `until` of a table or partition `part`; all of it where `first` is None.

    The last range of a part has no `until`. `filenode`: the file that the pages are of.
    """

    number: int
    name: str
    part: str
    first: int | None
    until: int | None
    filenode: int | None
    bytes: int

    @property
    def whole(self) -> bool:
        """Tell whether it is all of a table."""
        return not self.first and self.until is None

    @property
    def condition(self) -> sql.Composable:
        """Return what selects its rows."""
        if self.first is None:
            return sql.SQL("true")
        words = sql.SQL("ctid >= {}::pg_catalog.tid").format(sql.Literal(f"({self.first},0)"))
        if self.until is None:
            return words
        return words + sql.SQL(" and ctid < {}::pg_catalog.tid").format(sql.Literal(f"({self.until},0)"))


def cut(source: Connection, names: Sequence[str], portion: int = PORTION) -> list[Range]:
    """Cut tables, and each of their partitions, into ranges of about `portion` bytes.

    Under a snapshot taken before, a row has one place as long as its table's file is the same one.
    """
    found: list[Range] = []
    for relation in relations(source, names):
        row = source.execute(_SIZES, [relation.name]).fetchone()
        if row is None or row[0] == "p":
            continue
        _, paged, filenode, pages, size = row
        name = names[relation.root]
        if not paged:
            found.append(Range(len(found), name, relation.name, None, None, filenode, size))
            continue
        step = max(1, pages * portion // max(size, 1))
        starts = range(0, max(pages, 1), step)
        found += [
            Range(
                len(found) + place, name, relation.name, first, first + step if place + 1 < len(starts) else None,
                filenode, size // len(starts),
            )
            for place, first in enumerate(starts)
        ]  # fmt: skip
    return found


def make(pair: Pair, target: Connection) -> None:
    """Make the table of a move's ranges."""
    target.execute(sql.SQL(_MAKE).format(_table(pair)))


def record(pair: Pair, target: Connection, ranges: Sequence[Range]) -> None:
    """Put down what is to be copied, in place of what was before."""
    with target.transaction():
        target.execute(sql.SQL("delete from {}").format(_table(pair)))
        with target.cursor() as cursor:
            cursor.executemany(
                sql.SQL("insert into {} values (%s, %s, %s, %s, %s, %s, %s)").format(_table(pair)),
                [(r.number, r.name, r.part, r.first, r.until, r.filenode, r.bytes) for r in ranges],
            )


def begin(pair: Pair, target: Connection, one: Range) -> bool:
    """Take a range for the present transaction; False when its rows are there.

    Waits for a transaction that is at it, such as one whose connection was lost, and then knows how it ended.
    """
    query = sql.SQL("update {} set rows = 0 where number = %s and rows is null").format(_table(pair))
    return target.execute(query, [one.number]).rowcount == 1


def end(pair: Pair, target: Connection, one: Range, rows: int) -> None:
    """Say in the rows' own transaction how many came."""
    target.execute(sql.SQL("update {} set rows = %s where number = %s").format(_table(pair)), [rows, one.number])


def settle(pair: Pair, target: Connection) -> set[int]:
    """Wait until the log of what was copied is on disk; return the numbers of the ranges that are not there."""
    target.execute(sql.SQL("update {} set rows = rows where number = 0").format(_table(pair)))
    query = sql.SQL("select number from {} where rows is null").format(_table(pair))
    return {int(row[0]) for row in target.execute(query).fetchall()}


def counted(pair: Pair, target: Connection) -> dict[str, int]:
    """Return the rows that this move has copied into each table."""
    query = sql.SQL("select name, coalesce(sum(rows), 0)::bigint from {} group by name").format(_table(pair))
    return dict(target.execute(query).fetchall())


def finished(pair: Pair, target: Connection) -> bool:
    """Tell whether every range that was put down is there; False where none was."""
    row = target.execute("select pg_catalog.to_regclass(%s) is not null", [f"{pair.name}.range"]).fetchone()
    if row is None or not row[0]:
        return False
    row = target.execute(
        sql.SQL("select count(*) > 0 and bool_and(rows is not null) from {}").format(_table(pair))
    ).fetchone()
    return bool(row and row[0])


def progress(pair: Pair, target: Connection) -> tuple[int, int, int] | None:
    """Return the rows that are there, and the bytes of the source that are done and that are to be; None before."""
    if (
        not (row := target.execute("select pg_catalog.to_regclass(%s)", [f"{pair.name}.range"]).fetchone())
        or not row[0]
    ):
        return None
    row = target.execute(
        sql.SQL(
            "select coalesce(sum(rows), 0)::bigint, coalesce(sum(bytes) filter (where rows is not null), 0)::bigint, "
            "coalesce(sum(bytes), 0)::bigint from {}"
        ).format(_table(pair))
    ).fetchone()
    return (row[0], row[1], row[2]) if row else None


def _table(pair: Pair) -> sql.Identifier:
    return sql.Identifier(pair.name, "range")
