"""Finds what a split cuts: foreign keys, and statements, views, functions and triggers that use several domains."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.errors import SegueError
from segue.model.splits import CrossingKey, ReadCopy, Spanning, Survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from segue.model.splits import Split

    Connection = psycopg.Connection[tuple[Any, ...]]

#: The statements that are called most often; what is rarer than all these is left out.
MOST_STATEMENTS = 5000

#: What stands for the home of shared tables that are in no domain: the source.
SHARED = "shared"

_STATISTICS = """
select pg_catalog.quote_ident(n.nspname) from pg_catalog.pg_extension as e
join pg_catalog.pg_namespace as n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'
"""
_STATEMENTS = """
select s.query, sum(s.calls)::bigint from {}.pg_stat_statements as s
where s.dbid = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
    and s.query !~* '^\\s*(begin|commit|rollback|set|show|create|alter|drop|grant|revoke|copy|vacuum|analyze)\\y'
group by s.query order by 2 desc limit %s
"""

_STAYS = "keep a copy of what it reads there (`shared`), or ask each service and join in the application"
_TOLD = "writes of one side reach the other one as events: publish them in the same transaction (`segue outbox`)"
_ADVICE = {
    "view": "it cannot be made after the split: " + _STAYS,
    "function": "move it into the application, or cut it in two: " + _TOLD,
    "trigger": "it would write into another database: " + _TOLD,
    "statement": _STAYS,
}


def survey(url: str, split: Split) -> Survey:
    """Look at the source of a split; nothing is changed. Raises the errors of opening it."""
    with open_session(url, application="segue split", schema="public") as connection:
        try:
            return _Surveyor(connection, split).survey()
        except psycopg.Error as error:
            raise explain(error, place(url)) from error


class _Surveyor:
    """One look at one database."""

    def __init__(self, connection: Connection, split: Split) -> None:
        self._connection = connection
        self._split = split
        self._said: dict[int, str] = {}
        self._plain: dict[str, list[int]] = {}
        self._home: dict[int, str] = {}
        self._shared: set[int] = set()
        #: Shared tables that each domain has a read-only copy of.
        self._reads: dict[str, set[int]] = {}
        self._place = {domain.name: domain.to for domain in split.domains} | {SHARED: split.source}
        self._unseen: list[str] = []

    def survey(self) -> Survey:
        for oid, said, plain in self._rows("split_tables"):
            self._said[oid] = said
            self._plain.setdefault(plain, []).append(oid)
        problems = self._settle()
        homeless = [said for oid, said in self._said.items() if oid not in self._home]
        crossing = self._crossing()
        spanning = [*self._users(), *self._statements()]
        homes = {self._said[oid]: domain for oid, domain in self._home.items()}
        return Survey(
            homes,
            tuple(homeless),
            tuple(problems),
            tuple(crossing),
            tuple(spanning),
            tuple(self._unseen),
            tuple(self._copies()),
        )

    def _settle(self) -> list[str]:
        """Find each table of the file; return what is wrong with it."""
        problems = []
        for domain, table in [(one.name, table) for one in self._split.domains for table in one.tables]:
            oid = self._table(table)
            if oid is None:
                problems.append(f"{table} is not there, or is no table; partitions go where their table goes")
            elif oid in self._home:
                problems.append(f"{table} has a home already, as {self._said[oid]}")
            else:
                self._home[oid] = domain
        for table in self._split.shared:
            oid = self._table(table)
            if oid is None:
                problems.append(f"{table} is not there, or is no table; partitions go where their table goes")
            else:
                self._shared.add(oid)
                self._home.setdefault(oid, SHARED)
        for reader in self._split.domains:
            self._reads[reader.name] = {oid for table in reader.reads if (oid := self._table(table)) is not None}
        return problems

    def _copies(self) -> Iterable[ReadCopy]:
        """Return the read-only copies that are wanted: one for each domain and home, since homes move apart."""
        used = {domain.name for domain in self._split.domains}
        for reader in self._split.domains:
            homes = [home for home in (SHARED, *self._place) if home != reader.name]
            for home in dict.fromkeys(homes):
                tables = tuple(
                    self._said[o] for o in self._said if o in self._reads[reader.name] and self._home[o] == home
                )
                if not tables:
                    continue
                base = name = f"{reader.name[:10]}reads"
                number = 1
                while name in used:
                    number += 1
                    name = f"{base}{number}"
                used.add(name)
                yield ReadCopy(name, reader.name, reader.to, home, tables)

    def _table(self, said: str) -> int | None:
        try:
            row = self._connection.execute("select pg_catalog.to_regclass(%s)::oid::bigint", [said]).fetchone()
        except psycopg.errors.InvalidName:
            return None
        return row[0] if row and row[0] in self._said else None

    def _crossing(self) -> list[CrossingKey]:
        """Return the foreign keys whose tables get apart."""
        found = []
        for name, child, columns, parent, to_columns, actions, writes, definition in self._rows("split_keys"):
            if child not in self._home or parent not in self._home:
                continue
            domain, other = self._home[child], self._home[parent]
            if self._place[domain] == self._place[other]:
                continue
            found.append(
                CrossingKey(
                    name,
                    self._said[child],
                    tuple(columns),
                    domain,
                    self._said[parent],
                    tuple(to_columns),
                    other,
                    tuple(actions),
                    writes,
                    parent in self._reads.get(domain, ()),
                    definition,
                )
            )
        return found

    def _users(self) -> Iterable[Spanning]:
        """Return views, functions and triggers of several domains."""
        for kind, what, tables, certain in self._rows("split_users"):
            apart = self._apart(tables or ())
            if apart:
                yield Spanning(kind, what, apart, _ADVICE[kind], certain=certain)

    def _statements(self) -> Iterable[Spanning]:
        """Return statements of several domains that the server has counted."""
        row = self._connection.execute(_STATISTICS.encode()).fetchone()
        if row is None:
            self._unseen.append(
                "statements: the extension pg_stat_statements is not there, so what joins domains cannot be told"
            )
            return
        try:
            counted = self._connection.execute(
                sql.SQL(_STATEMENTS).format(sql.SQL(row[0])).as_string(self._connection).encode(), [MOST_STATEMENTS]
            ).fetchall()
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self._unseen.append(f"statements: {error.diag.message_primary}")
            return
        hidden = sum(query == "<insufficient privilege>" for query, _ in counted)
        if hidden:
            self._unseen.append(f"statements: {hidden} of other roles are hidden: grant pg_read_all_stats")
        unread = 0
        for query, calls in counted:
            tables = self._named_in(query)
            if tables is None:
                unread += 1
                continue
            apart = self._apart(tables)
            if apart:
                yield Spanning("statement", " ".join(query.split()), apart, _ADVICE["statement"], calls)
        if unread:
            self._unseen.append(f"statements: {unread} could not be read, as the server has cut them short")
        self._unseen.append(
            "transactions of several statements: the server counts only statements; the writes behind each foreign key "
            "that crosses tell where to look"
        )

    def _named_in(self, query: str) -> set[int] | None:
        """Return the tables that a statement names; None when it cannot be read."""
        from segue.databases.postgresql.parse import tree
        from segue.databases.postgresql.touching import names_in

        try:
            statements = tree(query).stmts
        except SegueError:
            return None
        found: set[int] = set()
        for name in names_in((statement.stmt for statement in statements), "public")[0]:
            oid = self._table(name)
            if oid is not None:
                found.add(oid)
            else:
                # The application's search_path is not ours: a name that only one table has is that table's.
                alone = self._plain.get(name.strip('"'), [])
                found |= set(alone) if len(alone) == 1 else set()
        return found

    def _apart(self, tables: Iterable[int]) -> Mapping[str, tuple[str, ...]] | None:
        """Return tables by domain when they are of several databases, and none has copies of what it lacks."""
        used = sorted(oid for oid in set(tables) if oid in self._home)
        for domain, to in self._place.items():
            read = self._reads.get(domain, set())
            if all(oid in read or self._place[self._home[oid]] == to for oid in used):
                return None
        found: dict[str, list[str]] = {}
        for oid in used:
            found.setdefault(self._home[oid], []).append(self._said[oid])
        return {domain: tuple(names) for domain, names in found.items()} if len(found) > 1 else None

    def _rows(self, name: str) -> list[tuple[Any, ...]]:
        query = files("segue.databases.postgresql").joinpath(f"sql/{name}.sql").read_bytes()
        return self._connection.execute(query).fetchall()
