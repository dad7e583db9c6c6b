"""How many statements a second touch some tables at present, from whichever counters the role may read."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.costing import SAMPLING
from segue.databases.postgresql.relations import mentioned
from segue.model.impact import Lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from segue.databases.postgresql.catalogue import Relation

#: Statements whose text is read: of those that were called meanwhile, the most frequent.
READ_TEXTS = 100
_WHERE = (
    "select n.nspname from pg_catalog.pg_extension as e "
    "join pg_catalog.pg_namespace as n on e.extnamespace = n.oid where e.extname = 'pg_stat_statements'"
)
_CALLS = """
select s.queryid, sum(s.calls)::float8
from {}.pg_stat_statements(false) as s
where s.dbid = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
    and s.queryid is not null
group by s.queryid
"""
_TEXTS = """
select s.queryid, min(s.query)
from {}.pg_stat_statements as s
where s.queryid = any({}::bigint[])
group by s.queryid
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """Statements a second that read and that write a table."""

    reads: float
    writes: float


class Rates:
    """Two looks at the counters, some time apart; between them the assessment does its other work."""

    def __init__(self, connection: psycopg.Connection[Any], tables: Iterable[Relation]) -> None:
        self._connection = connection
        self._tables = {each.oid: each for each in tables}
        self._schema = self._find_extension()
        self.source = "pg_stat_statements" if self._schema is not None else "the tables' counters"
        self.began = clock.ticks()
        self._before = self._counters()
        self._calls = self._called() if self._schema is not None else None

    def _find_extension(self) -> sql.Identifier | None:
        row = self._connection.execute(_WHERE).fetchone()
        return sql.Identifier(row[0]) if row else None

    def _counters(self) -> dict[int, tuple[float, float]]:
        query = files("segue.databases.postgresql").joinpath("sql/assess_activity.sql").read_bytes()
        rows = self._connection.execute(query, {"tables": list(self._tables)}).fetchall() if self._tables else []
        return {oid: (reads, writes) for oid, reads, writes in rows}

    def _called(self) -> dict[int, float] | None:
        query = sql.SQL(_CALLS).format(self._schema)
        try:
            return {int(each[0]): float(each[1]) for each in self._connection.execute(query)}
        except psycopg.Error:
            if self._connection.closed:
                raise
            # Installed, but not loaded by the server, or not to be read.
            self.source = "the tables' counters"
            return None

    def read(self) -> Mapping[int, Rate]:
        """Return the rates by table since the object was made."""
        seconds = max(clock.ticks() - self.began, 0.001)
        if self._calls is not None:
            found = self._from_statements(seconds)
            if found is not None:
                return found
        self.source = "the tables' counters"
        return {
            oid: Rate(max(0.0, reads - before[0]) / seconds, max(0.0, writes - before[1]) / seconds)
            for oid, (reads, writes) in self._counters().items()
            if (before := self._before.get(oid)) is not None
        }

    def _from_statements(self, seconds: float) -> dict[int, Rate] | None:
        after = self._called()
        if after is None or self._calls is None:
            return None
        grown = {identity: calls - self._calls.get(identity, 0.0) for identity, calls in after.items()}
        busy = sorted((identity for identity, calls in grown.items() if calls > 0), key=lambda each: -grown[each])
        busy = busy[:READ_TEXTS]
        texts = self._connection.execute(sql.SQL(_TEXTS).format(self._schema, sql.Placeholder()), [busy]).fetchall()
        if busy and not any(text and not text.startswith("<insufficient") for _, text in texts):
            return None  # the statements are other roles', whose texts this one may not see
        found = {oid: [0.0, 0.0] for oid in self._tables}
        for identity, text in texts:
            if text.startswith(SAMPLING):
                continue  # the assessment's own
            for oid, written in self._mentions(text).items():
                found[oid][1 if written else 0] += grown[identity] / seconds
        return {oid: Rate(reads, writes) for oid, (reads, writes) in found.items()}

    def _mentions(self, text: str) -> dict[int, bool]:
        """Return which of the tables a statement names, and whether it writes them."""
        from postgast import PgQueryError, parse

        try:
            tree = parse(text)
        except (PgQueryError, ValueError):
            return {}
        names = {name: lock for raw in tree.stmts for name, lock in mentioned(raw.stmt).items()}
        found = {}
        for oid, table in self._tables.items():
            # An unqualified name may mean another schema's table; a rate that is too high only warns too early.
            locks = [lock for name, lock in names.items() if name in (table.full, table.name, table.bare)]
            if locks:
                found[oid] = any(lock is Lock.ROW_EXCLUSIVE for lock in locks)
        return found
