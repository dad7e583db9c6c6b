"""Captures touched keys without triggers: a publication of key columns, and a slot whose stream becomes the key log.

How it is put together, in this order; everything may be called again after a death:

- `problems(site, members) -> list[str]` before anything is made: each line is a reason why not, with what to do.
  `hints(site) -> list[str]`: what people should know beforehand.
- `begin(site, blueprint, patience, note)`: publication, slot, and the wait for whoever wrote while the slot was made.
  When it returns, every key that is touched from now on, or was by a transaction that no copy sees, comes to the logs.
- `Reader(site, blueprint)`: `start()`, `stop()`, `check()` raises what ended it, `barrier(seconds)` returns when
  everything that was committed before the call is in the logs (raises ReaderBehind), `lag()`. A thread of the process
  that drives; without one the server keeps its log back for the slot.
- `drain(site, reader, drainer, most, compare=...)`: as `drain.drain`, for logs that lag behind.
- In the swap: lock, `reader.barrier(budget)`, then the drainer in READ COMMITTED, as with triggers.
- `end(site, blueprint)`: slot and publication are gone, whatever there was of them.

`SlotLost` comes from `Reader.start`, `check` and `barrier`: what was written meanwhile is not known. `begin` once more,
then the copy from its beginning. The way back is captured by triggers (docs/decisions/0016-ghost-way-back.md).
"""

from __future__ import annotations

import secrets
import select
import struct
import threading
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq, sql

from segue import clock
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.lease import check_fence
from segue.databases.postgresql.online.drain import LOCK_WAIT, telling
from segue.databases.postgresql.online.pgoutput import (
    Captured,
    Decoder,
    IdentityChanged,
    Key,
    Unreadable,
    copy_line,
    widen,
)
from segue.databases.postgresql.online.slots import (
    SeenSlot,
    begin,
    drop_slot,
    end,
    end_reader,
    hints,
    look_at,
    problems,
    relations_of,
    slot_name,
    walsender,
)
from segue.engine import journal
from segue.errors import InternalError, LockNotGranted, SegueError, SlotLost, StepFailed, TargetUnreachable
from segue.model.online import WAL_LIMIT, Drained, Retained
from segue.model.quantities import size
from segue.ports import FORWARD, Blocker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from segue.databases.postgresql.online.blueprint import Blueprint, Place
    from segue.databases.postgresql.online.drain import Drainer
    from segue.databases.postgresql.online.site import Connection, Site

__all__ = ["Lag", "Reader", "ReaderBehind", "begin", "drain", "end", "hints", "problems", "slot_name"]

#: Entries that are written to the logs in one transaction, about.
BATCH = 20_000
#: Longest time that an entry waits to be written together with others; a barrier never waits for it.
GATHER_SECONDS = 0.1
FEEDBACK_SECONDS = 0.5
#: A server that hears nothing for `wal_sender_timeout`, a minute by default, ends the stream.
SILENCE_SECONDS = 5.0
LOOK_SECONDS = 2.0
#: How long a reader tries to reach the server again.
PATIENCE_SECONDS = 120.0
#: How long a drain waits for the log while its transaction is open, and without one.
DRAIN_SECONDS = 3.0
CATCH_UP_SECONDS = 600.0
DRAIN_TRIES = 5
#: Of `max_slot_wal_keep_size`, what must be left; a checkpoint takes the last segments at once.
SAFE_SHARE = 0.1

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_OLDEST = """
select
    a.pid, coalesce(nullif(a.application_name, ''), a.usename, '?'), coalesce(a.state, '?'),
    left(regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 120),
    extract(epoch from clock_timestamp() - a.xact_start)::float8, 'a transaction', '', false
from pg_catalog.pg_stat_activity as a
where a.backend_xid is not null and a.pid <> pg_catalog.pg_backend_pid() and a.application_name not like 'segue:%'
order by a.xact_start limit 1
"""


class ReaderBehind(LockNotGranted):
    """The log is not complete in time: it is behind, by a large transaction or by much traffic."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a reader is behind. `behind`: bytes of log not dealt with; `retained`: bytes kept back for the slot.

    `safe`: bytes that may still be written before the server drops the slot, None without a limit; `entries`: keys
    that were written to the logs so far.
    """

    behind: int
    retained: int
    safe: int | None
    entries: int


# -- the reader


class Reader:
    """Follows the slot in a thread, and writes the touched keys to the logs before it says that they were taken.

    It survives lost connections: what had not been confirmed comes once more, and an entry that stands twice in a log
    is harmless. It ends by `stop`, or with an error that `check` and `barrier` raise from then on.
    """

    def __init__(self, site: Site, blueprint: Blueprint, *, retained: int = WAL_LIMIT) -> None:
        self._site = site
        self._blueprint = blueprint
        self._name = slot_name(blueprint)
        self._limit = retained
        self._logs = [blueprint.log(member, FORWARD) for member in blueprint.members]
        self._widths = [len(member.forward.key) for member in blueprint.members]
        self._keys = [tuple(column.name for column in member.forward.key) for member in blueprint.members]
        self._roots = {member.oid: number for number, member in enumerate(blueprint.members)}
        self._relations: dict[int, Captured] = {}
        self._db: Connection | None = None
        self._wal: Connection | None = None
        self._marker: Connection | None = None
        self._marking = threading.Lock()
        self._heard = threading.Condition()
        self._tokens: set[str] = set()
        self._awaited: set[str] = set()
        self._stopping = threading.Event()
        self._error: SegueError | None = None
        self._thread: threading.Thread | None = None
        self._lag = Lag(0, 0, None, 0)
        self._reset()

    def _reset(self) -> None:
        self._decoder = Decoder(self._find, prefix=self._name)
        self._confirmed = self._safe = self._known = 0
        self._told = self._gathering = self._looked = clock.ticks()

    # -- for those who work beside it

    def start(self) -> None:
        """Begin to read; raises SlotLost, FenceLost, TargetUnreachable."""
        try:
            self._open()
        except psycopg.Error as error:
            self._close()
            self._error = explain(error, place(self._site.url))
            raise self._error from error
        except SegueError as error:
            self._close()
            self._error = error
            raise
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name="segue reader", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; what was not written yet comes once more to the next one."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10)
            if self._thread.is_alive() and self._db is not None:
                with suppress(psycopg.Error):
                    self._db.cancel()
                self._thread.join(10)
        self._close()
        with self._marking:
            if self._marker is not None:
                self._marker.close()
                self._marker = None

    def check(self) -> None:
        """Raise what ended it, if anything did."""
        if self._error is not None:
            raise self._error

    def retained(self) -> Retained:
        """Return what is kept back for it, as it saw last."""
        return Retained(self._lag.retained, self._lag.behind, self._limit, self._lag.safe)

    def lag(self) -> Lag:
        """Return how far it is behind, as it saw last."""
        return self._lag

    def barrier(self, timeout: float) -> None:
        """Return when everything whose commit precedes this call is in the logs, asynchronous commits too.

        Raises ReaderBehind after `timeout` seconds, SlotLost or whatever else ended the reader.
        """
        until = clock.ticks() + timeout
        token = secrets.token_hex(8)
        with self._heard:
            self._awaited.add(token)
        try:
            self._mark(token)
            with self._heard:
                while token not in self._tokens:
                    self.check()
                    if self._stopping.is_set():
                        raise StepFailed("the reader of the replication slot was stopped")
                    left = until - clock.ticks()
                    if left <= 0:
                        raise ReaderBehind(
                            f"the log of touched keys was not complete within {timeout:g} s: "
                            f"{size(self._lag.behind)} of the server's log were not read when last seen",
                            hint="a large transaction was just committed, or the server is busy; later it may work",
                        )
                    self._heard.wait(min(left, 1.0))
        finally:
            with self._heard:
                self._awaited.discard(token)
                self._tokens.discard(token)

    def late(
        self, log: Place, connection: Connection, table: sql.Identifier, names: sql.Composed, snapshot: str
    ) -> int | None:
        """List in `table` the keys whose changes a snapshot sees, whenever the log heard of them; return how many.

        `connection` is in the transaction of that snapshot. None where the table was emptied; raises ReaderBehind.
        """
        self.barrier(DRAIN_SECONDS)
        with self.beside() as side:
            seen = _seen(snapshot)
            if _emptied(side, log, seen):
                return None
            return _relay(side, log, seen, connection, table, names, distinct=False)

    @contextmanager
    def beside(self) -> Iterator[Connection]:
        """Give a session that looks at the logs and writes marks, whatever the others' transactions see."""
        with self._marking:
            if self._marker is None or self._marker.closed:
                self._marker = self._site.open(synchronous_commit="local")
            yield self._marker

    def _mark(self, token: str) -> None:
        """Put a mark into the server's log, and see that the log is flushed up to it."""
        with self.beside() as session:
            try:
                if self._site.major >= 17:
                    session.execute(
                        "select pg_catalog.pg_logical_emit_message(false, %s, %s, true)", [self._name, token]
                    )
                else:
                    # Only a commit flushes here, and only one that waits for it.
                    session.execute("select pg_catalog.pg_logical_emit_message(true, %s, %s)", [self._name, token])
            except psycopg.Error as error:
                session.close()
                raise explain(error, place(self._site.url)) from error

    # -- the thread

    def _run(self) -> None:
        try:
            self._survive()
        except SegueError as error:
            self._fail(error)
        except psycopg.Error as error:
            self._fail(explain(error, place(self._site.url)))
        except Exception as error:  # whoever waits for it must hear of it, whatever it is
            self._fail(InternalError(f"the reader of the replication slot failed: {error!r}"))
        finally:
            self._close()

    def _fail(self, error: SegueError) -> None:
        with self._heard:
            self._error = error
            self._heard.notify_all()

    def _survive(self) -> None:
        """Follow the slot over lost connections, until told to stop."""
        since: float | None = None
        pause = 0.1
        while not self._stopping.is_set():
            began: tuple[int, int] | None = None
            try:
                if self._wal is None:
                    self._open()
                began = self._lag.entries, self._decoder.safe
                self._follow()
            except IdentityChanged as error:
                self._give_up(f"{error}")
            except Unreadable as error:
                raise StepFailed(
                    f"the replication stream cannot be read: {error}",
                    hint="take the change back, and use the strategy shadow-table",
                ) from error
            except (psycopg.OperationalError, psycopg.InterfaceError, TargetUnreachable) as error:
                now = clock.ticks()
                if began is not None and began != (self._lag.entries, self._decoder.safe):
                    since, pause = None, 0.1
                since = now if since is None else since
                self._close()
                if now - since > PATIENCE_SECONDS:
                    if isinstance(error, SegueError):
                        raise
                    raise explain(error, place(self._site.url)) from error
                self._stopping.wait(pause)
                pause = min(pause * 2, 2.0)

    def _open(self) -> None:
        """Open the session that writes and the one that reads, where the slot stands."""
        self._close()
        self._reset()
        site = self._site
        # Never waits for a standby, which may be what a writer waits for whom we have read already; always flushed.
        self._db = site.open(synchronous_commit="local")
        check_fence(self._db, site.lease.execution, site.lease.fence)
        seen = self._look()
        self._known = seen.xid
        self._relations = {
            relation.oid: Captured(self._roots[relation.root], self._keys[self._roots[relation.root]])
            for relation in relations_of(self._db, list(self._roots))
        }
        if seen.pid is not None:
            end_reader(self._db, seen.pid)
        self._wal = walsender(site)
        self._check_server(self._wal)
        command = sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}, messages 'true')"
        ).format(sql.Identifier(self._name), sql.Literal(f'"{self._name}"'))
        result = self._wal.pgconn.exec_(command.as_bytes(self._wal))
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise psycopg.OperationalError(result.get_error_message())

    def _check_server(self, connection: Connection) -> None:
        """See that it is still the server on which the change began, and no copy of it that was promoted."""
        result = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.OperationalError(result.get_error_message())
        identifier, timeline = (bytes(result.get_value(0, at) or b"").decode() for at in (0, 1))
        drawn = self._blueprint
        if drawn.system_identifier and (identifier, int(timeline)) != (drawn.system_identifier, drawn.timeline):
            raise SlotLost(
                f"this is not the server on which the change began (system {identifier}, timeline {timeline})",
                hint="take the change back with `segue rollback`, and begin anew",
            )

    def _close(self) -> None:
        for connection in (self._wal, self._db):
            if connection is not None:
                connection.close()
        self._wal = self._db = None

    def _follow(self) -> None:
        """Read until told to stop; raises psycopg.OperationalError when the stream ends."""
        assert self._wal is not None  # noqa: S101  opened just before
        pg = self._wal.pgconn
        number = 0
        while not self._stopping.is_set():
            length, data = pg.get_copy_data(1)
            if length < 0:
                raise psycopg.OperationalError(f"the replication stream ended: {pg.get_error_message()}")
            if length > 0:
                self._message(bytes(data))
                number += 1
                if self._decoder.marks or number % 1000 == 0:
                    self._turn()
                continue
            self._turn()
            select.select([pg.socket], [], [], self._wait())
            pg.consume_input()

    def _wait(self) -> float:
        """Return how long to wait for more before what was gathered has to be written."""
        if not self._decoder.entries:
            return 0.2
        return max(0.0, min(0.2, self._gathering + GATHER_SECONDS - clock.ticks()))

    def _message(self, data: bytes) -> None:
        decoder = self._decoder
        if data[:1] == b"w":
            if not decoder.entries:
                self._gathering = clock.ticks()
            decoder.feed(data[25:])
            if len(decoder.entries) >= BATCH:
                self._write()
        elif data[:1] == b"k":
            (position,) = struct.unpack_from(">Q", data, 1)
            # Only when nothing pends: what stands in memory alone would be lost with it.
            if not decoder.open and not decoder.entries and not decoder.marks:
                decoder.safe = max(decoder.safe, position)
            if data[17] == 1:
                self._write()
                self._confirm()

    def _turn(self) -> None:
        """Do what is due between two messages."""
        decoder = self._decoder
        now = clock.ticks()
        if decoder.marks or (decoder.entries and now - self._gathering >= GATHER_SECONDS):
            self._write()
        if now - self._told >= SILENCE_SECONDS or (
            decoder.safe > self._confirmed and not decoder.entries and now - self._told >= FEEDBACK_SECONDS
        ):
            self._confirm()
        if now - self._looked >= LOOK_SECONDS:
            self._look()

    def _write(self) -> None:
        """Write what was gathered, committed and flushed; only then may the slot move on."""
        decoder = self._decoder
        entries, marks = decoder.take()
        if entries:
            self._copy(entries)
            journal.point("online-entries-written")
        self._safe = decoder.safe
        if marks:
            with self._heard:
                self._tokens.update(self._awaited.intersection(marks))
                self._heard.notify_all()

    def _copy(self, entries: Iterable[tuple[int, int, Key]]) -> None:
        assert self._db is not None  # noqa: S101  opened together with the stream
        texts: dict[int, list[bytes]] = {}
        highest = self._known
        count = 0
        for log, short, key in entries:
            xid = widen(short, self._known)
            highest = max(highest, xid)
            texts.setdefault(log, []).append(copy_line(xid, key, self._widths[log]))
            count += 1
        lease = self._site.lease
        with self._db.transaction():
            check_fence(self._db, lease.execution, lease.fence)
            for log, lines in texts.items():
                with self._db.cursor() as cursor, cursor.copy(_copy_into(self._logs[log], self._widths[log])) as copy:
                    copy.write(b"".join(lines))
        self._known = highest
        self._lag = replace(self._lag, entries=self._lag.entries + count)

    def _confirm(self) -> None:
        """Tell the server how far everything is written."""
        assert self._wal is not None  # noqa: S101  opened just before
        if not self._decoder.entries:
            self._safe = self._decoder.safe
        self._confirmed = max(self._confirmed, self._safe)
        at = self._confirmed
        microseconds = int((clock.now() - _EPOCH).total_seconds() * 1_000_000)
        pg = self._wal.pgconn
        pg.put_copy_data(b"r" + struct.pack(">QQQQB", at, at, at, microseconds, 0))
        pg.flush()
        self._told = clock.ticks()

    def _find(self, oid: int, name: str) -> Captured:
        """Say what is captured of a relation; one that is new here must be a partition of ours."""
        if oid not in self._relations and self._db is not None:
            for relation in relations_of(self._db, list(self._roots)):
                number = self._roots[relation.root]
                self._relations[relation.oid] = Captured(number, self._keys[number])
        if oid not in self._relations:
            raise Unreadable(f"{name} is published with the tables of the change, but is none of their partitions")
        return self._relations[oid]

    # -- the look-out

    def _look(self) -> SeenSlot:
        """Look after the slot, the tables' identity, and what is kept back; raises SlotLost or StepFailed."""
        assert self._db is not None  # noqa: S101  opened just before
        seen = look_at(self._db, self._blueprint)
        self._looked = clock.ticks()
        if seen.plugin is None or seen.status == "lost" or not seen.published:
            what = "publication" if seen.plugin is not None and not seen.published else "replication slot"
            why = "was invalidated by the server" if seen.status == "lost" else "is gone"
            raise SlotLost(
                f'the {what} "{self._name}" {why}: what was written since is not known',
                hint="the copy has to begin anew; raise max_slot_wal_keep_size, or end long transactions",
            )
        self._known = seen.xid
        self._lag = Lag(seen.behind or 0, seen.retained or 0, seen.safe, self._lag.entries)
        self._check_identity()
        self._check_budget(seen)
        return seen

    def _check_identity(self) -> None:
        """Stop at once when a table gets another identity: the application's own updates fail until then."""
        assert self._db is not None  # noqa: S101  opened just before
        for relation in relations_of(self._db, list(self._roots)):
            key = tuple(sorted(self._keys[self._roots[relation.root]]))
            if relation.kind in ("r", "p") and (relation.identity != "d" or relation.key != key):
                self._give_up(f"the replica identity of {relation.name} is not its primary key any more")

    def _give_up(self, why: str) -> None:
        """End the publication, which could make the application's statements fail, and say why."""
        with closing(self._site.open()) as session, self._site.transaction(session):
            session.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(self._name)))
        raise SlotLost(
            f"{why}: the capture was ended",
            hint="put the primary key and REPLICA IDENTITY DEFAULT back, and begin anew",
        )

    def _check_budget(self, seen: SeenSlot) -> None:
        assert self._db is not None  # noqa: S101  opened just before
        kept = seen.retained or 0
        if seen.safe is not None and seen.keep > 0 and seen.safe < max(seen.keep * SAFE_SHARE, seen.segment):
            raise StepFailed(
                f"the server will drop the replication slot after {size(max(0, seen.safe))} more of its log: "
                f"{size(kept)} are kept back for it" + self._holder(),
                hint="end the transaction named, or raise max_slot_wal_keep_size, and run again before it is lost",
            )
        if kept > self._limit:
            why = f"{size(kept)} of the server's log were kept back for the replication slot" + self._holder()
            if self._wal is not None:
                self._wal.close()
            drop_slot(self._db, self._blueprint)
            raise SlotLost(
                f"{why}; more than {size(self._limit)} are not risked: the slot was given up before the disk is full",
                hint="end long transactions, take the change back and begin anew",
            )

    def _holder(self) -> str:
        assert self._db is not None  # noqa: S101  opened just before
        row = self._db.execute(_OLDEST.encode()).fetchone()
        return f"; the oldest transaction: {Blocker(*row).line()}" if row else ""


def _copy_into(log: Place, width: int) -> sql.Composed:
    columns = [sql.Identifier("xid"), *(sql.Identifier(f"segue_k{number}") for number in range(1, width + 1))]
    return sql.SQL("copy {} ({}) from stdin").format(log.sql, sql.SQL(", ").join(columns))


# -- draining


def drain(
    site: Site, reader: Reader, drainer: Drainer, most: int | None, *, compare: bool = False, anew: bool = False
) -> Drained:
    """Bring keys up to date as `drain.drain` does, from a log that lags behind; also raises what ended the reader.

    A snapshot sees rows whose entries are not in the log yet, and the log has entries whose rows it does not see. So it
    is the other way round: first the snapshot, then the log is waited for, and of it is taken what the snapshot sees.
    """
    tried = 0
    began = clock.ticks()
    with telling(site, drainer.connection):
        while True:
            tried += 1
            try:
                return _drain(site, reader, drainer, most, compare=compare, anew=anew)
            except psycopg.errors.LockNotAvailable:
                return Drained(left=1)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                if tried > DRAIN_TRIES:
                    raise
            except ReaderBehind:
                # Without a transaction that holds back VACUUM and stands in the way of whoever wants the table.
                if clock.ticks() - began > CATCH_UP_SECONDS:
                    raise
                with suppress(ReaderBehind):
                    reader.barrier(CATCH_UP_SECONDS - (clock.ticks() - began))


def _drain(site: Site, reader: Reader, drainer: Drainer, most: int | None, *, compare: bool, anew: bool) -> Drained:
    connection = drainer.connection
    log = drainer.log.sql
    with connection.transaction():
        # Before the snapshot, as in `drain`: TRUNCATE is not for snapshots.
        connection.execute(
            sql.SQL(
                "set transaction isolation level repeatable read, read write; set local lock_timeout = {}; "
                "lock table {} in access share mode; set local lock_timeout = 0"
            ).format(sql.Literal(LOCK_WAIT), drainer.flow.source.sql)
        )
        check_fence(connection, site.lease.execution, site.lease.fence)
        row = connection.execute("select pg_catalog.pg_current_snapshot()::text").fetchone()
        if row is None:
            raise InternalError("a look at the snapshot returned nothing")
        reader.barrier(DRAIN_SECONDS)
        seen = _seen(row[0])
        with reader.beside() as side:
            emptied = _emptied(side, drainer.log, seen)
            if emptied:
                if not anew:
                    return Drained(emptied=True, left=1)
                most = None
                drainer.clear()
            taken: sql.Composable = seen
            entries = 0
            if most is not None:
                places = side.execute(
                    sql.SQL("select ctid::text from {} where {} limit {}").format(log, seen, sql.SQL(str(int(most))))
                ).fetchall()
                entries = len(places)
                taken = sql.SQL("ctid = any({}::tid[])").format(sql.Literal([place for (place,) in places]))
            keys = _relay(side, drainer.log, taken, connection, drainer.table, drainer.names, distinct=drainer.exact)
        drained = drainer.bring(keys, compare=compare)
        journal.point("online-ghost-drain-before-commit")
    journal.point("online-ghost-drained")
    # Only now: whoever dies in between does the same once more, which changes nothing.
    with reader.beside() as side, site.transaction(side):
        side.execute(sql.SQL("delete from {} where {}").format(log, taken))
    left = most if most is not None and entries >= most else 0
    return replace(drained, left=left, emptied=emptied)


def _seen(snapshot: str) -> sql.Composed:
    """Return the condition that a snapshot sees the transaction of an entry."""
    return sql.SQL("pg_catalog.pg_visible_in_snapshot(xid, {}::pg_catalog.pg_snapshot)").format(sql.Literal(snapshot))


def _emptied(side: Connection, log: Place, seen: sql.Composable) -> bool:
    row = side.execute(
        sql.SQL("select exists (select from {} where segue_k1 is null and {})").format(log.sql, seen)
    ).fetchone()
    return bool(row and row[0])


def _relay(
    side: Connection,
    log: Place,
    taken: sql.Composable,
    connection: Connection,
    table: sql.Identifier,
    names: sql.Composed,
    *,
    distinct: bool,
) -> int:
    """Bring keys from a log into a list in a session that cannot see what the reader wrote after its snapshot."""
    source = sql.SQL("copy (select {} {} from {} where {} and segue_k1 is not null) to stdout (format binary)").format(
        sql.SQL("distinct" if distinct else ""), names, log.sql, taken
    )
    into = sql.SQL("copy {} ({}) from stdin (format binary)").format(table, names)
    with connection.cursor() as cursor:
        with side.cursor() as reading, reading.copy(source) as read, cursor.copy(into) as written:
            for block in read:
                written.write(block)
        return max(0, cursor.rowcount)
