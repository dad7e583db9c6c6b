"""Builds on the shadows, in sessions beside the one that works: indexes, several at a time, and the vacuum."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.online import writing
from segue.engine import journal
from segue.ports import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from segue.databases.postgresql.online.blueprint import Index, Member
    from segue.databases.postgresql.online.site import Connection, Site

#: How often whoever waits for a build asks whether to go on.
LOOK_SECONDS = 0.1
#: No build gets less memory than this, in KiB, however many there are at a time.
LEAST_MEMORY = 65_536
# What sorting for indexes may take: a quarter of the shared buffers, a gigabyte at most, and never less than is set.
_MEANS = """
select greatest(
        (select setting::bigint from pg_catalog.pg_settings where name = 'maintenance_work_mem'),
        least(1048576, (select setting::bigint * 8 / 4 from pg_catalog.pg_settings where name = 'shared_buffers'))
    ),
    pg_catalog.current_setting('max_parallel_maintenance_workers')::integer
"""
_SIZES = """
select i.relname, pg_catalog.pg_relation_size(i.oid) from pg_catalog.pg_index as x
join pg_catalog.pg_class as i on i.oid = x.indexrelid where x.indrelid = pg_catalog.to_regclass(%s)
"""


@dataclass(frozen=True, slots=True)
class _Job:
    """Statements of one transaction, and what it is called in the record of what is done."""

    name: str
    statements: tuple[str, ...]


class Builder:
    """Builds on shadows, which nobody but the change writes: no application waits for it, but for its processors.

    `pace` says what the application leaves over: all of it, and `at_once` indexes are built at a time, which share the
    memory and the server's parallel workers; less, or a latency that must hold: one at a time, by one process.
    `ticking` gives a transaction in a session, which records that something was done. What is built is cancelled when
    `boundary` raises.
    """

    def __init__(
        self,
        site: Site,
        at_once: int,
        pace: Callable[[], Pace],
        boundary: Callable[[], None],
        ticking: Callable[[Connection, str], AbstractContextManager[None]],
    ) -> None:
        self._site = site
        self._at_once = at_once
        self._boundary = boundary
        self._ticking = ticking
        now = pace()
        #: Whether the application is to notice as little as can be.
        self.gentle = now.duty < 1 or now.watched
        self._lock = threading.Lock()
        self._sessions: set[Connection] = set()
        self._stop = False
        self._error: BaseException | None = None

    @contextmanager
    def session(self, sharing: int = 1) -> Iterator[Connection]:
        """Open a session that builds, with its part of what `sharing` of them may take."""
        ((memory, workers),) = self._site.look.execute(_MEANS).fetchall()
        if self.gentle:
            # A build cannot be slowed down, but it need not take more than one processor from the application.
            workers = 0
        elif workers and sharing > 1:
            workers = max(1, workers // sharing)
        pins = {
            "maintenance_work_mem": f"{max(LEAST_MEMORY, memory // sharing)}kB",
            "max_parallel_maintenance_workers": str(workers),
            "statement_timeout": "0",
        }
        if self.gentle:
            # What is written is sent to the disk in small pieces: a great deal at once would make every commit wait.
            pins |= {"vacuum_cost_delay": "1ms", "backend_flush_after": "512kB"}
        session = self._site.open(**pins)
        with self._lock:
            self._sessions.add(session)
        try:
            yield session
        finally:
            with self._lock:
                self._sessions.discard(session)
            session.close()

    # -- indexes

    def build(self, member: Member, indexes: Sequence[Index], done: Callable[[str], bool]) -> None:
        """Build indexes and constraints of a shadow, each once, however often it is asked for."""
        left = [index for index in indexes if not done(_built(member, index))]
        shadow = member.new[0]
        if len(member.new) == 1 and shadow.kind == "r":
            ahead = [index for index in left if index.sql and not done(_made(member, index))]
            self._side_by_side([self._making(member, index) for index in self._longest_first(member, ahead)])
            left = [index for index in left if index.constraint is not None or index.after]
            finishing = [(index, _without_index(index)) for index in left]
        else:
            # A partition's index becomes a part of that above it where it is there first.
            finishing = [(index, index) for index in left]
        for index, planned in finishing:
            statements = writing.build(planned, planned.table or member.forward.into)
            self._side_by_side([_Job(_built(member, index), tuple(statements))])

    def _making(self, member: Member, index: Index) -> _Job:
        whole = index.constraint is None and not index.after
        return _Job((_built if whole else _made)(member, index), (index.sql,))

    def _longest_first(self, member: Member, indexes: Sequence[Index]) -> list[Index]:
        """Return indexes in the order of what they will take, as those of the old table show."""
        sizes: dict[str, int] = dict(self._site.look.execute(_SIZES.encode(), [str(member.old[0].place)]).fetchall())
        return sorted(indexes, key=lambda index: -sizes.get(index.name, float("inf")))

    def _side_by_side(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        sharing = 1 if self.gentle else min(len(jobs), max(1, self._at_once))
        queue = deque(jobs)
        self._wait([lambda: self._labour(queue, sharing)] * sharing)

    def _labour(self, queue: deque[_Job], sharing: int) -> None:
        with self.session(sharing) as session:
            while not self._stop:
                with self._lock:
                    if not queue:
                        return
                    job = queue.popleft()
                with self._ticking(session, job.name):
                    for text in job.statements:
                        session.execute(text.encode())
                    journal.point("online-index-before-commit")
                journal.point("online-index-built")

    # -- beside other work

    @contextmanager
    def beside(self, *statements: sql.Composed) -> Iterator[None]:
        """Run statements that take a transaction of their own each, while something else goes on."""

        def run() -> None:
            with self.session() as session:
                for text in statements:
                    if not self._stop:
                        session.execute(text)

        threads = self._start([run])
        try:
            yield
        except BaseException:
            self._end(threads)
            raise
        self._join(threads)

    def run(self, *statements: sql.Composed) -> None:
        """Run statements that take a transaction of their own each."""
        with self.beside(*statements):
            pass

    # -- threads

    def _wait(self, acts: Sequence[Callable[[], None]]) -> None:
        self._join(self._start(acts))

    def _start(self, acts: Sequence[Callable[[], None]]) -> list[threading.Thread]:
        self._stop, self._error = False, None
        threads = [
            threading.Thread(target=self._catch, args=(act,), name=f"segue builder {number}", daemon=True)
            for number, act in enumerate(acts, 1)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _catch(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except BaseException as error:  # handed to the caller's thread
            self._error = self._error or error
            self._stop = True

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for the end; what still runs is cancelled when one failed, or somebody wants to stop."""
        try:
            while any(thread.is_alive() for thread in threads) and self._error is None:
                for thread in threads:
                    thread.join(LOOK_SECONDS / len(threads))
                self._boundary()
        finally:
            self._end(threads)
        if self._error is not None:
            raise self._error

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        self._stop = True
        while any(thread.is_alive() for thread in threads):
            with self._lock:
                for session in self._sessions:
                    # One that has just begun its next statement is met the next time round.
                    with suppress(psycopg.Error):
                        session.cancel_safe(timeout=5)
            for thread in threads:
                thread.join(LOOK_SECONDS)


def drop_plain(connection: Connection, member: Member) -> list[str]:
    """Drop the indexes of an emptied shadow that serve no rule, and return what is not done any more.

    Rows that are copied into a table with indexes take several times as long as with indexes built after them. Those of
    a partitioned table stay: a part of one cannot be dropped alone.
    """
    shadow = member.new[0]
    if len(member.new) > 1 or shadow.kind != "r":
        return []
    plain = [index for index in member.indexes if index.sql and not index.unique and index.constraint is None]
    for index in plain:
        connection.execute(
            sql.SQL("drop index if exists {}").format(sql.Identifier(member.forward.into.schema_name, index.name))
        )
    return [name for index in plain for name in (_built(member, index), _made(member, index))]


def _built(member: Member, index: Index) -> str:
    return f"built {member.number} {index.name}"


def _made(member: Member, index: Index) -> str:
    """Name an index that stands, while what it serves does not."""
    return f"made {member.number} {index.name}"


def _without_index(index: Index) -> Index:
    """Return what is left to be done once an index stands."""
    return index.model_copy(update={"sql": ""})
