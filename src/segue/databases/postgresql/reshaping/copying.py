"""Copies what the rows of a move's tables become, at one moment, range by range, by several workers."""

from __future__ import annotations

import select
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.moving import ranges
from segue.databases.postgresql.moving.support import told, where
from segue.databases.postgresql.passing import pass_through
from segue.databases.postgresql.reshaping import wording
from segue.databases.postgresql.reshaping.applying import skip_triggers
from segue.databases.postgresql.reshaping.searching import culprit_in
from segue.engine import journal
from segue.errors import DriftFound, SegueError, StepFailed, TargetUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.databases.postgresql.moving.ranges import Range
    from segue.databases.postgresql.moving.support import Connection, Pair
    from segue.databases.postgresql.reshaping.ways import Landing

    Note = Callable[[str], None]

#: A range is tried again for so long after its connections were lost.
LOST_SECONDS = 120.0
_PINS = {"idle_in_transaction_session_timeout": "0"}


class Moment:
    """A snapshot of the source, which lasts as long as this is open; `look` is a session beside it."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._stack = ExitStack()

    def __enter__(self) -> Moment:
        pair = self._pair
        try:
            self.look = self._stack.enter_context(pair.open(pair.source))
            self._keeper = self._stack.enter_context(
                open_session(pair.source.url, application=f"segue move {pair.id}", pins=_PINS)
            )
            with told(where(pair, pair.source)):
                self._keeper.execute("begin isolation level repeatable read read only")
                row = self._keeper.execute("select pg_catalog.pg_export_snapshot()").fetchone()
            self.snapshot = str(row[0]) if row else ""
        except BaseException:
            self._stack.close()
            raise
        journal.point("reshape-moment")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def alive(self) -> bool:
        """Tell whether the snapshot can still be set."""
        with suppress(OSError, ValueError):
            # A connection that does nothing has something to read only when the other end has closed it.
            return not self._keeper.closed and not select.select([self._keeper.fileno()], [], [], 0)[0]
        return False

    @contextmanager
    def reading(self, session: Connection) -> Iterator[None]:
        """Have a session read at this moment, by the places of its rows."""
        with session.transaction():
            session.execute("set transaction isolation level repeatable read, read only")
            session.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(self.snapshot)))
            # A range of pages is never to be read as a whole table.
            session.execute("set local enable_seqscan = off")
            yield


def copy(pair: Pair, landings: Sequence[Landing], workers: int, note: Note) -> Counter[str]:
    """Copy into tables that are empty; return the rows of each. No trigger fires, and no foreign key is checked.

    Raises StepFailed with the row at which an expression fails, DriftFound where a table is rewritten meanwhile.
    """
    with Moment(pair) as moment:
        of: list[tuple[Range, Landing]] = []
        with told(where(pair, pair.source)):
            for landing in landings:
                for one in ranges.cut(moment.look, [landing.origin]):
                    number = len(of)
                    found = ranges.Range(number, landing.into, one.part, one.first, one.until, one.filenode, one.bytes)
                    of.append((found, landing))
        with pair.open(pair.target) as target, told(where(pair, pair.target)):
            ranges.record(pair, target, [one for one, _ in of])
        run = _Run(pair, moment, of, note)
        with ThreadPoolExecutor(workers, thread_name_prefix="segue copy") as pool:
            for done in [pool.submit(run.work) for _ in range(min(workers, max(len(of), 1)))]:
                done.result()
    return run.rows


class _Run:
    def __init__(self, pair: Pair, moment: Moment, planned: Sequence[tuple[Range, Landing]], note: Note) -> None:
        self.rows: Counter[str] = Counter()
        self._pair, self._moment, self._note = pair, moment, note
        self._waiting = deque(planned)
        self._left = Counter(one.name for one, _ in planned)
        self._lock = threading.Lock()
        self._failed = False

    def work(self) -> None:
        """Copy ranges until none is left, or another worker has failed."""
        while not self._failed:
            try:
                one, landing = self._waiting.popleft()
            except IndexError:
                return
            try:
                rows = self._insist(one, landing)
            except BaseException:
                self._failed = True
                raise
            with self._lock:
                self.rows[one.name] += rows
                self._left[one.name] -= 1
                if not self._left[one.name]:
                    self._note(f"copied {self.rows[one.name]} rows of {one.name}")

    def _insist(self, one: Range, landing: Landing) -> int:
        until = clock.ticks() + LOST_SECONDS
        while True:
            try:
                return self._copy(one, landing)
            except TargetUnreachable as error:
                if not self._moment.alive:
                    raise StepFailed(
                        "the session that kept the moment of the copy has ended, so nothing more can be read of it",
                        hint="start again: the copy begins anew",
                    ) from error
                if clock.ticks() > until or self._failed:
                    raise
                self._note(f"lost a connection while copying {one.part}; copying this range again")
                clock.sleep(1.0)
            except DriftFound:
                raise
            except SegueError as error:
                raise self._explained(error, one, landing) from error

    def _copy(self, one: Range, landing: Landing) -> int:
        pair = self._pair
        application = f"segue move {pair.id}"
        with (
            open_session(pair.source.url, application=application, pins=_PINS) as source,
            open_session(pair.target.url, application=application, pins=_PINS) as target,
            told(where(pair, pair.source)),
            self._moment.reading(source),
            told(where(pair, pair.target)),
            target.transaction(),
        ):
            skip_triggers(target)
            if not ranges.begin(pair, target, one):
                # The acknowledgement of its commit was lost.
                row = target.execute(
                    sql.SQL("select rows from {} where number = %s").format(sql.Identifier(pair.name, "range")),
                    [one.number],
                ).fetchone()
                return int(row[0]) if row else 0
            with told(where(pair, pair.source)):
                _unmoved(source, one)
            query = wording.read_part(landing, one.part, one.condition)
            rows = pass_through(
                source,
                wording.copy_out(query, landing),
                target,
                wording.copy_into(landing),
                reading=lambda: told(where(pair, pair.source)),
                writing=lambda: told(where(pair, pair.target)),
            )
            ranges.end(pair, target, one, rows)
        return rows

    def _explained(self, error: SegueError, one: Range, landing: Landing) -> SegueError:
        """Say at which row an expression fails; the error itself where none does."""
        pair = self._pair
        with pair.open(pair.source) as session, told(where(pair, pair.source)), self._moment.reading(session):
            row = culprit_in(session, landing, one)
        if row is None:
            return error
        return StepFailed(
            f"{error.message}, at the row {row} of {one.part}",
            hint="correct the row or the expression, and start again: the copy begins anew",
            details=error.details,
        )


def _unmoved(source: Connection, one: Range) -> None:
    source.execute(sql.SQL("lock table only {} in access share mode").format(sql.SQL(one.part)))
    row = source.execute(
        "select pg_catalog.pg_relation_filenode(pg_catalog.to_regclass(%s))::bigint", [one.part]
    ).fetchone()
    if row is None or row[0] != one.filenode:
        raise DriftFound(
            f"{one.part} was rewritten or emptied while it was copied, so its rows have moved",
            hint="start again when VACUUM FULL, CLUSTER, TRUNCATE and ALTER TABLE are over",
        )
