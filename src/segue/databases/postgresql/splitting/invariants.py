"""Looks whether what a foreign key demanded still holds when its two tables are in different databases.

The values are read on one side, once each, and brought to the other side as bytes, where one query finds those without
a row. Both sides are written to meanwhile, so those are looked at again: a row that came later has arrived by then, and
one that was deleted with its children is not wanted any more.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.model.splits import Invariant

if TYPE_CHECKING:
    from segue.model.splits import CrossingKey

    Connection = psycopg.Connection[tuple[Any, ...]]

#: How often values without a row are looked at again, and the seconds in between.
LOOKS = 3
EXAMPLES = 10
#: Values without a row that are looked at again; with more of them something is wrong altogether.
MOST = 100_000

_TYPES = """
select a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod) from pg_catalog.pg_attribute as a
where a.attrelid = pg_catalog.to_regclass(%s) and a.attnum > 0 and not a.attisdropped
"""


def probe(child: str, parent: str, key: CrossingKey, *, settle: float = 1.0) -> Invariant:
    """Compare the values of `key` in the database `child` with the rows in the database `parent`.

    `settle`: seconds between looks. Raises NotFound where a table is missing.
    """
    with ExitStack() as stack:
        a = stack.enter_context(open_session(child, application="segue split", schema="public"))
        b = stack.enter_context(open_session(parent, application="segue split", schema="public"))
        where = place(child)
        try:
            return _Probe(a, b, key).probe(settle)
        except psycopg.Error as error:
            raise explain(error, f"{where} and {place(parent)}") from error


class _Probe:
    """One key, looked at over two sessions."""

    def __init__(self, child: Connection, parent: Connection, key: CrossingKey) -> None:
        self._child = child
        self._parent = parent
        self._key = key
        types: dict[str, str] = dict(parent.execute(_TYPES, [key.to_table]).fetchall())
        self._types = [types.get(name, "text") for name in key.to_columns]
        # In the types of the side that is asked: there they are compared as the foreign key compared them.
        self._values = sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(type_))
            for name, type_ in zip(key.columns, self._types, strict=True)
        )
        self._filled = sql.SQL(" and ").join(sql.SQL("{} is not null").format(sql.Identifier(n)) for n in key.columns)
        self._wanted = [f"v{place}" for place in range(len(key.columns))]

    def probe(self, settle: float) -> Invariant:
        key = self._key
        table = sql.SQL(key.table)
        self._make("wanted")
        count = self._bring(
            "wanted", sql.SQL("select distinct {} from {} where {}").format(self._values, table, self._filled)
        )
        self._parent.execute(b"analyze pg_temp.wanted")
        self._make("missing")
        broken = self._miss("wanted", "missing")
        for _ in range(LOOKS):
            if not broken or broken > MOST:
                break
            clock.sleep(settle)
            broken = self._again()
        return Invariant(key.name, not broken, count, broken, self._examples() if broken else ())

    def _make(self, name: str) -> None:
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(type_))
            for column, type_ in zip(self._wanted, self._types, strict=True)
        )
        self._parent.execute(sql.SQL("create temp table {} ({})").format(sql.Identifier(name), columns))

    def _bring(self, name: str, query: sql.Composable) -> int:
        """Copy rows of the one side into a table of the session on the other side; return how many."""
        into = sql.SQL("copy pg_temp.{} from stdin (format binary)").format(sql.Identifier(name))
        cursor = self._parent.cursor()
        with (
            self._child.cursor().copy(sql.SQL("copy ({}) to stdout (format binary)").format(query)) as out,
            cursor.copy(into) as brought,
        ):
            for data in out:
                brought.write(data)
        return cursor.rowcount

    def _miss(self, source: str, name: str) -> int:
        """Keep those values of one list that no row has; return how many."""
        done = self._parent.execute(
            sql.SQL("insert into pg_temp.{} select * from pg_temp.{} as w where {} limit {}").format(
                sql.Identifier(name), sql.Identifier(source), self._no_row(), sql.Literal(MOST + 1)
            )
        )
        return done.rowcount

    def _no_row(self) -> sql.Composable:
        same = sql.SQL(" and ").join(
            sql.SQL("p.{} = w.{}").format(sql.Identifier(column), sql.Identifier(value))
            for column, value in zip(self._key.to_columns, self._wanted, strict=True)
        )
        return sql.SQL("not exists (select from {} as p where {})").format(sql.SQL(self._key.to_table), same)

    def _again(self) -> int:
        """Look at the missing ones once more, on both sides; return how many still are."""
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in self._wanted)
        rows = self._parent.execute(sql.SQL("select {} from pg_temp.missing").format(texts)).fetchall()
        lists = sql.SQL(", ").join(
            sql.SQL("{}::text[]").format(sql.Literal([row[place] for row in rows])) for place in range(len(self._types))
        )
        held = sql.SQL(" and ").join(
            # The column as it is, so that its index serves.
            sql.SQL("c.{} = l.{}::{}").format(sql.Identifier(column), sql.Identifier(value), sql.SQL(type_))
            for column, value, type_ in zip(self._key.columns, self._wanted, self._types, strict=True)
        )
        values = sql.SQL(", ").join(
            sql.SQL("l.{}::{}").format(sql.Identifier(value), sql.SQL(type_))
            for value, type_ in zip(self._wanted, self._types, strict=True)
        )
        still = sql.SQL("select {} from unnest({}) as l ({}) where exists (select from {} as c where {})").format(
            values,
            lists,
            sql.SQL(", ").join(map(sql.Identifier, self._wanted)),
            sql.SQL(self._key.table),
            held,
        )
        self._parent.execute(b"truncate pg_temp.missing")
        self._make_again("still")
        self._bring("still", still)
        return self._miss("still", "missing")

    def _make_again(self, name: str) -> None:
        self._parent.execute(sql.SQL("drop table if exists pg_temp.{}").format(sql.Identifier(name)))
        self._make(name)

    def _examples(self) -> tuple[str, ...]:
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in self._wanted)
        rows = self._parent.execute(
            sql.SQL("select {} from pg_temp.missing order by {} limit {}").format(
                texts, sql.SQL(", ").join(map(sql.Identifier, self._wanted)), sql.Literal(EXAMPLES)
            )
        ).fetchall()
        return tuple(", ".join(row) for row in rows)
