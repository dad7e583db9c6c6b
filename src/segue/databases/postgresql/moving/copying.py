"""Copies tables at one snapshot, range by range, by several workers; a lost connection costs its range alone."""

from __future__ import annotations

import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.moving import ranges
from segue.databases.postgresql.moving.piping import Pipe
from segue.databases.postgresql.moving.snapshot import columns_of
from segue.databases.postgresql.moving.support import told, where
from segue.databases.postgresql.passing import pass_through
from segue.errors import ConfigurationError, DriftFound, PrivilegeMissing, SegueError, StepFailed, TargetUnreachable
from segue.model.quantities import duration, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.moving.ranges import Range
    from segue.databases.postgresql.moving.snapshot import Column
    from segue.databases.postgresql.moving.support import Connection, Pair

    Note = Callable[[str], None]

#: A range is tried again for so long after its connections were lost, and progress told so often.
LOST_SECONDS = 120.0
NOTE_SECONDS = 15.0
#: From so many bytes on it pays to write a table's rows as frozen, for which it is emptied within the same transaction.
FREEZE = 1024 * 1024
#: From so many bytes on it pays to start a process that reads a range.
PIPED = 16 * 1024 * 1024


def copy(
    pair: Pair,
    snapshot: str,
    names: Sequence[str],
    workers: int,
    note: Note,
    *,
    alive: Callable[[], bool] = lambda: True,
    portion: int = ranges.PORTION,
) -> dict[str, int]:
    """Copy tables, which are empty on the target, at an exported snapshot; return the rows of each.

    No trigger fires and no foreign key is checked on the way: at one snapshot they hold as they do in the source.
    `alive` says whether the snapshot is still kept. Raises DriftFound where a table is rewritten meanwhile.
    """
    with pair.open(pair.source) as source, pair.open(pair.target) as target:
        with told(where(pair, pair.source)):
            planned = ranges.cut(source, names, portion)
            columns = {name: columns_of(source, name) for name in names}
            parts = _parts(source, planned)
            pipe = _pipe(pair, source, snapshot)
        with told(where(pair, pair.target)):
            ranges.record(pair, target, planned)
            alike = {part for part, bound in _parts(target, planned).items() if parts.get(part, "") == bound}
        missing = planned
        while missing:
            run = _Run(pair, snapshot, missing, columns, alike, pipe, note, alive)
            with ThreadPoolExecutor(workers, thread_name_prefix="segue copy") as pool:
                for done in [pool.submit(run.work) for _ in range(min(workers, len(missing)))]:
                    done.result()
            with told(where(pair, pair.target)):
                # Their commits did not wait for the log: a server that has crashed since may have lost the last ones.
                lost = ranges.settle(pair, target)
            missing = [one for one in planned if one.number in lost]
        counts = ranges.counted(pair, target)
    return {name: counts.get(name, 0) for name in names}


def _pipe(pair: Pair, source: Connection, snapshot: str) -> Pipe | None:
    """Return how to read quickly; None where there is no program for it."""
    try:
        return Pipe(pair, source, snapshot)
    except ConfigurationError:
        return None


def _parts(connection: Connection, planned: Sequence[Range]) -> dict[str, str]:
    """Return those ranges' tables that a database has, with the bounds of the partitions among them."""
    query = """
        select p.name, coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid), '')
        from unnest(%s::text[]) as p (name) join pg_catalog.pg_class as c on c.oid = pg_catalog.to_regclass(p.name)
        where c.relkind = 'r'
    """
    return dict(connection.execute(query, [list({one.part for one in planned})]).fetchall())


class _Run:
    def __init__(
        self,
        pair: Pair,
        snapshot: str,
        planned: Sequence[Range],
        columns: dict[str, dict[str, Column]],
        alike: set[str],
        pipe: Pipe | None,
        note: Note,
        alive: Callable[[], bool],
    ) -> None:
        self.rows: Counter[str] = Counter()
        self._pair, self._snapshot, self._columns = pair, snapshot, columns
        self._alike, self._pipe, self._note, self._alive = alike, pipe, note, alive
        self._waiting = deque(planned)
        self._left = Counter(one.name for one in planned)
        self._bytes, self._total = 0, sum(one.bytes for one in planned)
        self._lock = threading.Lock()
        self._failed = False
        self._began = self._told = clock.ticks()

    def work(self) -> None:
        """Copy ranges until none is left, or another worker has failed."""
        with _Sessions(self._pair) as sessions:
            while not self._failed:
                try:
                    one = self._waiting.popleft()
                except IndexError:
                    return
                try:
                    rows = self._insist(sessions, one)
                except BaseException:
                    self._failed = True
                    raise
                self._tell(one, rows)

    def _insist(self, sessions: _Sessions, one: Range) -> int:
        until, pause = clock.ticks() + LOST_SECONDS, 0.1
        while True:
            try:
                return self._copy(sessions, one)
            except SegueError as error:
                if not sessions.lost(error):
                    raise
                if not self._alive():
                    raise StepFailed(
                        "the session that kept the moment of the copy has ended, so nothing more can be read of it",
                        hint="start again: the copy begins anew",
                    ) from error
                if clock.ticks() > until or self._failed:
                    raise
                self._note(f"lost a connection while copying {one.part}; copying this range again")
                clock.sleep(pause)
                pause = min(pause * 2, 5.0)

    def _copy(self, sessions: _Sessions, one: Range) -> int:
        pair = self._pair
        with told(where(pair, pair.source)):
            source, target = sessions.both()
            with source.transaction(), told(where(pair, pair.target)), target.transaction():
                try:
                    target.execute("set local session_replication_role = replica")
                except psycopg.errors.InsufficientPrivilege as error:
                    raise PrivilegeMissing(
                        f"the role may not copy into {one.name} without firing its triggers",
                        hint="on the target: GRANT SET ON PARAMETER session_replication_role, or use a role that may",
                    ) from error
                if not ranges.begin(pair, target, one):
                    # The acknowledgement of its commit was lost.
                    return self._counted(target, one)
                frozen = one.whole and one.bytes >= FREEZE and one.part in self._alike and _emptied(target, one)
                with told(where(pair, pair.source)):
                    self._enter(source, one)
                rows = self._pass(source, target, one, frozen=frozen)
                ranges.end(pair, target, one, rows)
        return rows

    def _counted(self, target: Connection, one: Range) -> int:
        query = sql.SQL("select rows from {} where number = %s").format(sql.Identifier(self._pair.name, "range"))
        row = target.execute(query, [one.number]).fetchone()
        return int(row[0]) if row else 0

    def _enter(self, source: Connection, one: Range) -> None:
        source.execute("set transaction isolation level repeatable read, read only")
        source.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(self._snapshot)))
        # A range of pages is never to be read as a whole table.
        source.execute("set local enable_seqscan = off")
        source.execute(sql.SQL("lock table only {} in access share mode").format(sql.SQL(one.part)))
        row = source.execute(
            "select pg_catalog.pg_relation_filenode(pg_catalog.to_regclass(%s))::bigint", [one.part]
        ).fetchone()
        if row is None or row[0] != one.filenode:
            raise DriftFound(
                f"{one.part} was rewritten or emptied while it was copied, so its rows have moved",
                hint="start again when VACUUM FULL, CLUSTER, TRUNCATE and ALTER TABLE are over",
            )

    def _pass(self, source: Connection, target: Connection, one: Range, *, frozen: bool) -> int:
        pair = self._pair
        columns = [column for column in self._columns[one.name].values() if not column.generated]
        listed = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
        binary = all(column.plain for column in columns)
        form = sql.SQL("binary" if binary else "text")
        # A partition by itself takes its rows more quickly, and only by itself may it be written frozen.
        into = sql.SQL(one.part if one.part in self._alike else one.name)
        how = sql.SQL(", freeze" if frozen else "")
        copy_out = sql.SQL("copy (select {} from only {} where {}) to stdout (format {})").format(
            listed, sql.SQL(one.part), one.condition, form
        )
        copy_in = sql.SQL("copy {} ({}) from stdin (format {}{})").format(into, listed, form, how)
        if binary and self._pipe is not None and one.bytes >= PIPED:
            # Our own session keeps the table as it is meanwhile.
            return self._pipe.pass_on(copy_out.as_string(source), target, copy_in)
        return pass_through(
            source,
            copy_out,
            target,
            copy_in,
            reading=lambda: told(where(pair, pair.source)),
            writing=lambda: told(where(pair, pair.target)),
        )

    def _tell(self, one: Range, rows: int) -> None:
        with self._lock:
            self.rows[one.name] += rows
            self._left[one.name] -= 1
            self._bytes += one.bytes
            if not self._left[one.name]:
                self._note(f"copied {self.rows[one.name]} rows of {one.name}")
            now = clock.ticks()
            if now - self._told > NOTE_SECONDS and self._bytes < self._total:
                self._told = now
                rate = self._bytes / (now - self._began)
                self._note(
                    f"copied {size(self._bytes)} of {size(self._total)}, {size(int(rate))}/s, "
                    f"{duration((self._total - self._bytes) / rate)} to go"
                )


def _emptied(target: Connection, one: Range) -> bool:
    """Empty a table that is empty, so that its rows may be written as old ones that nobody need visit again.

    False where that cannot be, such as for a table that others refer to.
    """
    part = sql.SQL(one.part)
    try:
        with target.transaction():
            target.execute(sql.SQL("lock table only {} in access exclusive mode").format(part))
            if target.execute(sql.SQL("select from only {} limit 1").format(part)).fetchone() is not None:
                return False
            target.execute(sql.SQL("truncate only {}").format(part))
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.InsufficientPrivilege):
        return False
    return True


class _Sessions:
    """A worker's two sessions, opened anew once one is lost."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._application = f"segue move {pair.id}"
        self._open: tuple[Connection, Connection] | None = None
        #: The target's back-end that may still hold a range.
        self._stale: int | None = None

    def __enter__(self) -> _Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def both(self) -> tuple[Connection, Connection]:
        """Return the sessions of source and target."""
        if self._open is None:
            with ExitStack() as stack:
                source = stack.enter_context(
                    open_session(
                        self._pair.source.url,
                        application=self._application,
                        pins={"idle_in_transaction_session_timeout": "0"},
                    )
                )
                target = stack.enter_context(
                    open_session(
                        self._pair.target.url, application=self._application, pins={"synchronous_commit": "off"}
                    )
                )
                if self._stale is not None:
                    target.execute(
                        "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity "
                        "where pid = %s and application_name = %s and pid <> pg_catalog.pg_backend_pid()",
                        [self._stale, self._application],
                    )
                    self._stale = None
                stack.pop_all()
            self._open = source, target
        return self._open

    def lost(self, error: SegueError) -> bool:
        """Tell whether an error came from a connection that is gone; forgets the sessions then."""
        gone = isinstance(error, TargetUnreachable) or (
            self._open is not None and any(connection.closed for connection in self._open)
        )
        if gone:
            self._drop()
        return gone

    def _drop(self) -> None:
        if self._open is not None:
            self._stale = self._open[1].info.backend_pid if not self._open[1].closed else self._stale
            for connection in self._open:
                with suppress(psycopg.Error):
                    connection.close()
        self._open = None
