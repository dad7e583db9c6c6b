"""Makes a move's tables on the target: as they are without rows, and with their indexes and constraints afterwards."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.moving import archive
from segue.databases.postgresql.moving.support import relations, told, where
from segue.engine import journal
from segue.errors import Blocked
from segue.model.quantities import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from segue.databases.postgresql.moving.archive import Entry
    from segue.databases.postgresql.moving.support import Connection, Pair

    Note = Callable[[str], None]
    Job = Callable[[Connection], None]

#: As pg_dump's own statements want it: every name has its schema, and functions may name what is not there yet.
_PINS = {"check_function_bodies": "off", "idle_in_transaction_session_timeout": "0"}
#: What sorting an index may use, if the server keeps that much for its own buffers.
_SORT_BYTES = 1 << 30

#: What may fail where a role is missing, or ours may not give: it is told, and the move goes on.
_FORGIVEN = {"ACL", "DEFAULT ACL", "COMMENT", "SECURITY LABEL"}

# The index of a key, which can be built beside others, and what makes a key of it: pg_dump's statement would build it
# under a lock that excludes them.
_KEYS = """
select k.oid::bigint, pg_catalog.pg_get_indexdef(k.conindid), i.relname::text, pg_catalog.pg_relation_size(k.conindid),
    pg_catalog.format('alter table only %%I.%%I add constraint %%I %%s using index %%I', n.nspname, c.relname,
        k.conname, case k.contype when 'p' then 'primary key' else 'unique' end, i.relname),
    k.contype in ('p', 'u') and c.relkind = 'r' and not k.condeferrable and a.amname = 'btree'
from pg_catalog.pg_constraint as k
join pg_catalog.pg_class as c on c.oid = k.conrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_class as i on i.oid = k.conindid
join pg_catalog.pg_am as a on a.oid = i.relam
where k.oid = any(%s) and k.contype in ('p', 'u', 'x')
"""
_SIZES = """
select i.indexrelid::bigint, pg_catalog.pg_relation_size(i.indexrelid) from pg_catalog.pg_index as i
where i.indexrelid = any(%s)
"""
_ADDRESS = "select type, object_names, object_args from pg_catalog.pg_identify_object_as_address(%s, %s, 0)"
_THERE = "select pg_catalog.pg_get_object_address(%s, %s::text[], %s::text[])"


@dataclass(slots=True)
class _Build:
    """An index to be built: the entry's SQL, or a key's index and, under `key`, what makes a key of it."""

    entry: Entry
    size: int
    statement: str
    key: str = ""


@dataclass(slots=True)
class Schema:
    """What of the source's definition is made on the target."""

    pair: Pair
    entries: list[Entry]
    note: Note
    #: Objects that were on the target beforehand: they stay as they are, with what is said of them.
    there: set[int] = field(default_factory=set)

    def make_tables(self) -> None:
        """Make the tables, and what they need, in one transaction; what is there stays as it is."""
        with _session(self.pair) as target, target.transaction():
            target.execute("select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('segue move', 0))")
            made = 0
            with self.pair.open(self.pair.source) as source:
                for entry in self.entries:
                    if not entry.post and not self._skipped(source, target, entry):
                        self._make(target, entry)
                        made += entry.kind == "TABLE"
        self.note(f"made {made} tables on the target")
        journal.point("move-tables")

    def make_rest(self, workers: int) -> None:
        """Make indexes, constraints, triggers and what else comes after the rows; what is there stays as it is."""
        began = clock.ticks()
        with self.pair.open(self.pair.source) as source, _session(self.pair) as target:
            builds = self._builds(source, target)
            built = {build.entry.number for build in builds}
            later = [
                entry
                for entry in self.entries
                if entry.post and entry.number not in built and not self._skipped(source, target, entry)
            ]
        self._each(workers, [self._builder(build, workers) for build in builds])
        journal.point("move-indexed")
        with _session(self.pair) as target:
            for build in filter(lambda build: build.key, builds):
                with self._told(build.entry), target.transaction():
                    target.execute(build.key.encode())
            for entry in later:
                if entry.kind != "FK CONSTRAINT":
                    with target.transaction():
                        self._make(target, entry)
        journal.point("move-constrained")
        self._each(workers, [self._checker(entry) for entry in later if entry.kind == "FK CONSTRAINT"])
        journal.point("move-checked")
        if builds or later:
            self.note(f"built {len(builds)} indexes and all constraints in {duration(clock.ticks() - began)}")

    # -- what is there

    def _skipped(self, source: Connection, target: Connection, entry: Entry) -> bool:
        """Tell whether an object is there, or is a part of one that was: a default, a grant, a comment."""
        if entry.catalog and _exists(source, target, entry):
            if not entry.post:
                self.there.add(entry.number)
            return True
        if entry.post:
            return False
        old = self.there.intersection(entry.needs)
        if entry.kind == "TABLE ATTACH":
            return old.issuperset(entry.needs)
        if entry.kind == "DEFAULT" or (entry.kind == "SEQUENCE" and not entry.sql.startswith("CREATE")):
            # A sequence may be there without the table that draws from it.
            return any(other.number in old for other in self.entries if other.kind == "TABLE")
        return bool(old) and not entry.catalog

    # -- making

    def _make(self, target: Connection, entry: Entry) -> None:
        """Make an entry within a transaction; grants to roles that are not there are told, and left out."""
        if entry.kind in _FORGIVEN:
            for statement in [entry.sql] if entry.kind == "COMMENT" else entry.sql.split(";\n"):
                self._try(target, statement, entry)
            return
        with self._told(entry):
            target.execute(entry.sql.encode())
        if entry.owner:
            self._try(target, entry.owner, entry)

    def _try(self, target: Connection, statement: str, entry: Entry) -> None:
        with self._told(entry):
            try:
                with target.transaction():
                    target.execute(statement.encode())
            except (psycopg.errors.UndefinedObject, psycopg.errors.InsufficientPrivilege) as error:
                self.note(f"left out: {' '.join(statement.split())} ({error.diag.message_primary})")

    def _told(self, entry: Entry) -> AbstractContextManager[None]:
        return told(f"{entry.words}, on {where(self.pair, self.pair.target)}")

    def _builds(self, source: Connection, target: Connection) -> list[_Build]:
        late = {entry.number for entry in self.entries if entry.post and "VIEW" in entry.kind}
        wanted = [
            entry
            for entry in self.entries
            if entry.post and entry.kind in ("INDEX", "CONSTRAINT") and not late.intersection(entry.needs)
        ]
        oids = [entry.oid for entry in wanted]
        with source.transaction():
            source.execute("select pg_catalog.set_config('search_path', '', true)")
            keys = {row[0]: row[1:] for row in source.execute(_KEYS, [oids]).fetchall()}
            sizes: dict[int, int] = dict(source.execute(_SIZES, [oids]).fetchall())
        found = []
        for entry in wanted:
            if _exists(source, target, entry):
                continue
            if entry.oid in keys:
                index, name, size, key, apart = keys[entry.oid]
                _, _, rest = entry.sql.partition(";\n")
                if apart:
                    # The index may be there from an earlier start, without its key.
                    schema = sql.Identifier(entry.schema, name).as_string(target)
                    row = target.execute("select pg_catalog.to_regclass(%s) is not null", [schema]).fetchone()
                    found.append(_Build(entry, size, "" if row and row[0] else index, f"{key};\n{rest}"))
                    continue
            else:
                size = sizes.get(entry.oid, 0)
            found.append(_Build(entry, size, entry.sql))
        return sorted(found, key=lambda build: -build.size)

    def _builder(self, build: _Build, workers: int) -> Job:
        def run(target: Connection) -> None:
            if build.statement:
                _allow_memory(target, workers)
                with self._told(build.entry):
                    _insist(target, build.statement)

        return run

    def _checker(self, entry: Entry) -> Job:
        def run(target: Connection) -> None:
            with self._told(entry):
                _insist(target, entry.sql)

        return run

    def _each(self, workers: int, jobs: Sequence[Job]) -> None:
        """Do jobs in so many sessions; the first that fails ends all."""
        waiting = deque(jobs)
        sessions: list[Connection] = []
        lock = threading.Lock()

        def work() -> None:
            with _session(self.pair) as target:
                with lock:
                    sessions.append(target)
                while waiting:
                    try:
                        job = waiting.popleft()
                    except IndexError:
                        return
                    job(target)

        with ThreadPoolExecutor(workers, thread_name_prefix="segue move") as pool:
            running = [pool.submit(work) for _ in range(min(workers, len(jobs)))]
            try:
                for one in as_completed(running):
                    one.result()
            except BaseException:
                waiting.clear()
                with lock:
                    for session in sessions:
                        with suppress(psycopg.Error):
                            session.cancel()
                raise


def take(pair: Pair, source: Connection, names: Sequence[str] | None, seconds: float, note: Note) -> Schema:
    """Read what is to be made of the source's definition: of some tables, or of everything for None.

    Raises Blocked where a table needs something that stays.
    """
    entries = archive.read(pair, source, seconds)
    if names is None:
        found, left = archive.chosen(entries, None)
    else:
        oids = [
            row[0]
            for row in source.execute(
                "select pg_catalog.to_regclass(n)::oid::bigint from unnest(%s::text[]) as n",
                [[relation.name for relation in relations(source, names)]],
            ).fetchall()
        ]
        found, left = archive.chosen(entries, oids)
        keys = [entry.oid for entry in left if entry.kind == "FK CONSTRAINT"]
        foreign = {
            row[0]
            for row in source.execute(
                "select oid::bigint from pg_catalog.pg_constraint where oid = any(%s) and conrelid <> all(%s)",
                [keys, oids],
            ).fetchall()
        }
        tables = [entry.words for entry in left if entry.kind == "TABLE"]
        if tables:
            raise Blocked(
                "a table that moves needs another one that stays",
                details=tables,
                hint="partitions and heirs go with their parents, and those with what their columns' types are made of",
            )
        for entry in left:
            if entry.oid not in foreign:
                note(f"left out, since it needs something that stays: {entry.words}")
    return Schema(pair, found, note)


def _exists(source: Connection, target: Connection, entry: Entry) -> bool:
    row = source.execute(_ADDRESS, [entry.catalog, entry.oid]).fetchone()
    if row is None or row[0] is None:
        return False
    try:
        with target.transaction():
            target.execute(_THERE, row)
    except psycopg.Error as error:
        # Whatever it says: a schema, a table, a type is missing.
        if error.sqlstate is None or error.sqlstate[:2] not in ("42", "3F", "22"):
            raise
        return False
    return True


def _session(pair: Pair) -> Connection:
    connection = open_session(
        pair.target.url,
        application=f"segue move {pair.id}",
        pins=_PINS,
    )
    connection.execute("select pg_catalog.set_config('search_path', '', false)")
    return connection


def _allow_memory(target: Connection, workers: int) -> None:
    """Let this session sort in as much memory as its share of what the server has for its buffers."""
    target.execute(
        "select pg_catalog.set_config('maintenance_work_mem', greatest(least(%s, pg_catalog.pg_size_bytes("
        "pg_catalog.current_setting('shared_buffers')) / %s), pg_catalog.pg_size_bytes("
        "pg_catalog.current_setting('maintenance_work_mem'))) / 1024 || 'kB', false)",
        [_SORT_BYTES, workers],
    )


def _insist(target: Connection, statement: str) -> None:
    """Run a statement, again where another one of ours wanted the same tables in the opposite order."""
    while True:
        try:
            target.execute(statement.encode())
        except psycopg.errors.DeadlockDetected:
            clock.sleep(0.1)
        else:
            return
