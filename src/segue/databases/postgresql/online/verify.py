"""Compares every row of a table with its shadow while the application writes, finds what differs, and repairs it.

A range of keys is digested on both sides in one REPEATABLE READ snapshot. Whatever was touched and not yet brought up
to date stands in the log as that same snapshot sees it, old key and new, and is left out on both sides: so a difference
is one, at whatever rate the application writes, and what was left out is compared by the drain that brings it up to
date. Where the log lags behind (a slot), a difference is looked at again after it has caught up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from psycopg import sql

from segue import clock
from segue.databases.postgresql.lease import check_fence
from segue.databases.postgresql.online import digest
from segue.databases.postgresql.online.wording import Wording, comma, key_names
from segue.engine import journal
from segue.errors import StepFailed
from segue.model.online import Verified
from segue.rows.chunks import ChunkSize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segue.databases.postgresql.online.blueprint import Flow, Place
    from segue.databases.postgresql.online.site import Connection, Site
    from segue.ports import Pace

    Key = tuple[str, ...]

RANGE_SECONDS = 0.3
FIRST_KEYS = 5_000
MOST_KEYS = 100_000
#: How often a difference is repaired before it is given up on.
REPAIRS = 3
#: Differing keys of a range that are repaired at once; a range with more is compared again afterwards.
MOST_DIFFERING = 10_000
_PINS = {
    "jit": "off",
    "enable_seqscan": "off",
    "max_parallel_workers_per_gather": "0",
    "work_mem": "64MB",
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
}


@dataclass(frozen=True, slots=True)
class _Range:
    number: int
    after: Key | None
    until: Key | None  # None: to the end, and beyond


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a range came to. `emptied`: the log says that the source was truncated."""

    range: _Range
    rows_old: int
    rows_new: int
    digest_old: int
    digest_new: int
    skipped: int
    snapshot: str
    seconds: float
    differing: tuple[Key, ...] = ()
    emptied: bool = False


class Verifier:
    """One comparison of one member in one direction. What is done stands in `segue.verified`, range by range."""

    def __init__(
        self,
        site: Site,
        flow: Flow,
        log: Place,
        change_id: str,
        member: int,
        direction: str,
        *,
        settle: Callable[[], None],
    ) -> None:
        """`settle` brings everything up to date that is in the log by then."""
        self._site = site
        self._flow = flow
        self._log = log
        self._whose = {"change": change_id, "member": member, "direction": direction}
        self._settle = settle
        self._wording = Wording(site.look, flow)
        self.methods = digest.methods(site.look, flow)
        self._size = ChunkSize(FIRST_KEYS, RANGE_SECONDS, MOST_KEYS)
        self._sessions: SimpleQueue[Connection] = SimpleQueue()

    def run(
        self,
        *,
        workers: int,
        pace: Callable[[], Pace],
        note: Callable[[Verified], None],
        boundary: Callable[[], None],
    ) -> Verified:
        """Compare everything, repair what differs, and compare that again; a second run goes on where one was killed.

        Raises StepFailed, with the rows, when they differ again after they were repaired.
        """
        opened = [self._site.open(**_PINS) for _ in range(max(1, workers))]
        try:
            for session in opened:
                self._sessions.put(session)
            repaired = self._first(pace, note, boundary, workers=len(opened))
            return self._sum(repaired)
        finally:
            for session in opened:
                session.close()

    # -- walking

    def _first(
        self, pace: Callable[[], Pace], note: Callable[[Verified], None], boundary: Callable[[], None], *, workers: int
    ) -> int:
        done, after, ended = self._begin()
        number = done
        repaired = 0
        told = clock.ticks()
        running: set[Future[_Seen]] = set()
        stop = threading.Event()
        with ThreadPoolExecutor(workers, thread_name_prefix="segue compares") as pool:
            try:
                while not ended or running:
                    boundary()
                    now = pace()
                    most = 0 if now.duty <= 0 else min(workers, now.workers or workers)
                    while not ended and len(running) < most:
                        until = self._end_of(after)
                        number += 1
                        piece = _Range(number, after, until)
                        running.add(pool.submit(self._look, piece, now.duty, stop))
                        after, ended = until, until is None
                    if not running:
                        clock.sleep(0.1)
                        continue
                    finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in finished:
                        seen = future.result()
                        if seen.emptied:
                            return repaired
                        repaired += self._take(seen)
                    if clock.ticks() - told > 1:
                        told = clock.ticks()
                        note(self._sum(repaired))
            finally:
                stop.set()
        return repaired

    def _begin(self) -> tuple[int, Key | None, bool]:
        """Return up to where everything was compared before; what was compared beyond a gap is compared again."""
        with self._site.transaction() as connection:
            rows = connection.execute(
                "select number, until from segue.verified where change = %(change)s and member = %(member)s "
                "and direction = %(direction)s and round = 1 order by number",
                self._whose,
            ).fetchall()
            done = 0
            after: Key | None = None
            ended = False
            for number, until in rows:
                if number != done + 1 or ended:
                    break
                done, after, ended = number, tuple(until) if until is not None else None, until is None
            connection.execute(
                "delete from segue.verified where change = %(change)s and member = %(member)s "
                "and direction = %(direction)s and round = 1 and number > %(done)s",
                {**self._whose, "done": done},
            )
        return done, after, ended

    def _end_of(self, after: Key | None) -> Key | None:
        """Return the key that ends the next range, found by a walk along the index; None when the table ends first."""
        keys = self._wording.key()
        query = sql.SQL("select {} from {} where {} order by {} offset {} limit 1").format(
            comma(
                sql.SQL("{}::text").format(sql.Identifier(self._flow.source.name, column.name))
                for column in self._flow.key
            ),
            self._wording.source,
            self._beyond(keys, after, None),
            comma(keys),
            sql.Literal(self._size.size - 1),
        )
        with self._walking() as look:
            row = look.execute(query).fetchone()
        return tuple(row) if row else None

    @contextmanager
    def _walking(self) -> Iterator[Connection]:
        look = self._site.look
        with look.transaction():
            look.execute("set local enable_seqscan = off")
            yield look

    def _beyond(self, keys: Sequence[sql.Composable], after: Key | None, until: Key | None) -> sql.Composable:
        """Return the condition that a key is in a range; `keys` are the source's, or the destination's cast back."""
        parts = []
        for operator, bound in ((">", after), ("<=", until)):
            if bound is not None:
                values = comma(
                    sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(column.type))
                    for value, column in zip(bound, self._flow.key, strict=True)
                )
                parts.append(sql.SQL("({}) {} ({})").format(comma(keys), sql.SQL(operator), values))
        return sql.SQL(" and ").join(parts) if parts else sql.SQL("true")

    # -- comparing

    def _look(self, piece: _Range, duty: float, stop: threading.Event) -> _Seen:
        session = self._sessions.get()
        try:
            began = clock.ticks()
            with session.transaction():
                seen = self._digest(session, piece, began)
            worked = clock.ticks() - began
            if 0 < duty < 1:
                stop.wait(min(5.0, worked * (1 / duty - 1)))
            return seen
        finally:
            self._sessions.put(session)

    def _digest(self, session: Connection, piece: _Range, began: float) -> _Seen:
        log = session.execute(
            sql.SQL(
                "select pg_catalog.pg_current_snapshot()::text, exists (select from {log}), "
                "exists (select from {log} where segue_k1 is null), exists (select from segue.conflict "
                "where change = %(change)s and member = %(member)s and direction = %(direction)s)"
            ).format(log=self._log.sql),
            self._whose,
        ).fetchone()
        snapshot, some, emptied, refused = log or ("", False, False, False)
        if emptied:
            return _Seen(piece, 0, 0, 0, 0, 0, snapshot, 0.0, emptied=True)
        source, into = self._sides(piece, some=some, refused=refused)
        row = session.execute(
            sql.SQL(
                "select a.n, a.total, b.n, b.total from "
                "(select count(*) as n, coalesce(sum(h), 0) as total from ({}) as s) as a, "
                "(select count(*) as n, coalesce(sum(h), 0) as total from ({}) as i) as b"
            ).format(source, into)
        ).fetchone()
        row = row or (0, 0, -1, 0)
        differing: tuple[Key, ...] = ()
        if (row[0], row[1]) != (row[2], row[3]):
            differing = self._differing(session, source, into)
        seconds = clock.ticks() - began
        self._size.took(int(row[0]), seconds)
        skipped = 0
        if some or refused:
            # How many of the range's keys stood in the log, so that nobody takes them for compared.
            counted = session.execute(sql.SQL("select count(*) from {}").format(self._log.sql)).fetchone()
            skipped = int(counted[0]) if counted else 0
        return _Seen(piece, int(row[0]), int(row[2]), int(row[1]), int(row[3]), skipped, snapshot, seconds, differing)

    def _sides(self, piece: _Range, *, some: bool, refused: bool) -> tuple[sql.Composed, sql.Composed]:
        """Return the queries of both sides: each row's key, as texts, and its number."""
        wording, flow = self._wording, self._flow
        keys = wording.key()
        names = [sql.SQL(f"segue_k{number}") for number, _ in enumerate(flow.key, 1)]
        # The destination's key as the source has it: bounds, order and identity are the source's.
        back = [
            sql.SQL("({}::{}{})").format(
                part, sql.SQL(column.type), sql.SQL(f" collate {column.collation}" if column.collation else "")
            )
            if column.type != column.into_type
            else part + sql.SQL(f" collate {column.collation}" if column.collation else "")
            for part, column in zip(wording.into_key(), flow.key, strict=True)
        ]
        bounds_into = self._beyond_into(piece, back)
        leave_out: sql.Composable = sql.SQL("")
        leave_out_into: sql.Composable = sql.SQL("")
        if some:
            logged = sql.SQL(" and ({}) not in (select {} from {})")
            leave_out += logged.format(comma(keys), key_names(flow.key), self._log.sql)
            leave_out_into += logged.format(comma(back), key_names(flow.key), self._log.sql)
        if refused:
            held = sql.SQL(
                " and not exists (select from segue.conflict as segue_c where change = {} and member = {} "
                "and direction = {} and segue_c.key = array[{}])"
            )
            whose = [sql.Literal(value) for value in self._whose.values()]
            leave_out += held.format(*whose, comma(sql.SQL("{}::text").format(key) for key in keys))
            leave_out_into += held.format(*whose, comma(sql.SQL("{}::text").format(key) for key in back))
        texts = comma(sql.SQL("{}::text as {}").format(key, name) for key, name in zip(keys, names, strict=True))
        texts_into = comma(sql.SQL("{}::text as {}").format(key, name) for key, name in zip(back, names, strict=True))
        return (
            sql.SQL("select {}, {} as h from {} where {}{}").format(
                texts,
                digest.of_source(flow, self.methods),
                wording.source,
                self._beyond(keys, piece.after, piece.until),
                leave_out,
            ),
            sql.SQL("select {}, {} as h from {} as segue_into where {}{}").format(
                texts_into, digest.of_into(flow, self.methods), wording.into, bounds_into, leave_out_into
            ),
        )

    def _beyond_into(self, piece: _Range, back: Sequence[sql.Composable]) -> sql.Composable:
        """Return the condition that a row of the destination is in a range, so that its index serves it if it can."""
        flow = self._flow
        parts = []
        for operator, bound in ((">", piece.after), ("<=", piece.until)):
            if bound is None:
                continue
            values = comma(
                sql.SQL("{}::{}::{}").format(sql.Literal(value), sql.SQL(column.type), sql.SQL(column.into_type))
                for value, column in zip(bound, flow.key, strict=True)
            )
            plain = all(_widens(column.type, column.into_type) for column in flow.key)
            keys = (
                [
                    part + sql.SQL(f" collate {column.collation}" if column.collation else "")
                    for part, column in zip(self._wording.into_key(), flow.key, strict=True)
                ]
                if plain
                else list(back)
            )
            parts.append(sql.SQL("({}) {} ({})").format(comma(keys), sql.SQL(operator), values))
        return sql.SQL(" and ").join(parts) if parts else sql.SQL("true")

    def _differing(self, session: Connection, source: sql.Composed, into: sql.Composed) -> tuple[Key, ...]:
        names = [f"segue_k{number}" for number, _ in enumerate(self._flow.key, 1)]
        query = sql.SQL(
            "select {} from ({}) as a full join ({}) as b on {} where a.h is distinct from b.h limit {}"
        ).format(
            comma(sql.SQL(f"coalesce(a.{name}, b.{name})") for name in names),
            source,
            into,
            sql.SQL(" and ").join(sql.SQL(f"a.{name} = b.{name}") for name in names),
            sql.Literal(MOST_DIFFERING),
        )
        return tuple(tuple(row) for row in session.execute(query))

    # -- repairing, and the record

    def _take(self, seen: _Seen) -> int:
        """Repair what differs in a range, and record the range once nothing does; return how many rows differed."""
        found = len(seen.differing)
        for _ in range(REPAIRS):
            if not seen.differing and (seen.digest_old, seen.rows_old) == (seen.digest_new, seen.rows_new):
                break
            self._touch(seen.differing)
            self._settle()
            session = self._sessions.get()
            try:
                with session.transaction():
                    seen = self._digest(session, seen.range, clock.ticks())
            finally:
                self._sessions.put(session)
        else:
            keys = ["(" + ", ".join(key) + ")" for key in seen.differing[:20]]
            raise StepFailed(
                f"{len(seen.differing)} rows of {self._flow.source} differ from {self._flow.into} and stay so",
                details=[f"key {key}" for key in keys],
                hint="nothing was swapped; is something else writing to the new table? Look at these rows",
            )
        with self._site.transaction() as connection:
            connection.execute(
                "insert into segue.verified (change, member, direction, round, number, after, until, rows_old, "
                "rows_new, digest_old, digest_new, skipped, snapshot, milliseconds) values (%(change)s, %(member)s, "
                "%(direction)s, 1, %(number)s, %(after)s, %(until)s, %(rows_old)s, %(rows_new)s, %(digest_old)s, "
                "%(digest_new)s, %(skipped)s, %(snapshot)s, %(milliseconds)s)",
                {
                    **self._whose,
                    "number": seen.range.number,
                    "after": list(seen.range.after) if seen.range.after else None,
                    "until": list(seen.range.until) if seen.range.until else None,
                    "rows_old": seen.rows_old,
                    "rows_new": seen.rows_new,
                    "digest_old": seen.digest_old,
                    "digest_new": seen.digest_new,
                    "skipped": seen.skipped,
                    "snapshot": seen.snapshot,
                    "milliseconds": round(seen.seconds * 1000),
                },
            )
        journal.point("online-range-verified")
        return found

    def _touch(self, keys: Sequence[Key]) -> None:
        """Put keys into the log, so that they are brought up to date as if the application had touched them."""
        if not keys:
            return
        with self._site.transaction() as connection:
            columns = [f"k{number}" for number, _ in enumerate(self._flow.key, 1)]
            connection.execute(
                sql.SQL("insert into {} ({}) select {} from unnest({}) as k ({})").format(
                    self._log.sql,
                    key_names(self._flow.key),
                    comma(
                        sql.SQL(f"{name}::{column.type}") for name, column in zip(columns, self._flow.key, strict=True)
                    ),
                    comma(sql.SQL("%s::text[]") for _ in columns),
                    comma(sql.SQL(name) for name in columns),
                ),
                [list(values) for values in zip(*keys, strict=True)],
            )
            check_fence(connection, self._site.lease.execution, self._site.lease.fence)

    def _sum(self, repaired: int) -> Verified:
        row = self._site.look.execute(
            "select count(*), coalesce(sum(rows_old), 0), coalesce(sum(rows_new), 0), "
            "coalesce(sum(digest_old), 0)::text, coalesce(sum(digest_new), 0)::text from segue.verified "
            "where change = %(change)s and member = %(member)s and direction = %(direction)s and round = 1",
            self._whose,
        ).fetchone()
        row = row or (0, 0, 0, "0", "0")
        return Verified(
            ranges=row[0],
            rows=int(row[1]),
            rows_new=int(row[2]),
            differing=repaired,
            digest_old=row[3],
            digest_new=row[4],
            methods=self.methods,
        )


def _widens(old: str, new: str) -> bool:
    """Return whether a key's order and equality are the same in both types: bounds may be compared in either."""
    integers = ("smallint", "integer", "bigint")
    return old == new or (old in integers and new in integers and integers.index(old) <= integers.index(new))
