"""Brings a consumer the events of another database: each once, those of one key in the order they were written.

What is there to bring is told by snapshots, not by ids: a transaction that drew its id early may be committed late, and
would be passed over. Events are handed over in the order of ids within what one snapshot shows: where a transaction
wrote after another one of the same key had been committed, it has the higher id, and is in the same snapshot or a later
one. The position is written in the transaction that hands the events over, so a process may die at any moment.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.outbox.delivering import MAKE_BATCH, deliver, is_passing
from segue.databases.postgresql.outbox.halves import APPLICATION, alone, has, home, receive_here
from segue.engine import journal
from segue.errors import Blocked, CannotTell, FenceLost, InvalidInput, NotFound, PrivilegeMissing, TargetUnreachable
from segue.model.outbox import Relayed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segue.model.outbox import Subscription

    Connection = psycopg.Connection[tuple[Any, ...]]
    Note = Callable[[str], None]

#: Before every transaction there was.
NOTHING = "3:3:"
# Seconds between two removals of old events, and how many at a time: each is one transaction.
_PURGE_EVERY = 60.0
_PURGE_ROWS = 10_000
# Seconds until a failed round is tried again, doubled up to the second.
_WAIT_FIRST, _WAIT_LONGEST = 0.2, 15.0
# How often without success where nobody asked to follow.
_TRIES = 6

_WINDOW = """
select id, topic, key, payload, written_at from segue_outbox.event
where xid >= pg_snapshot_xmin({last}) and not pg_visible_in_snapshot(xid, {last})
    and pg_visible_in_snapshot(xid, {until}) and id > {after} and topic = any({topics})
order by id limit {limit}
"""
_POSITION = """
select origin::text, topics, handler, last::text, until::text, after, readings
from segue_outbox.subscription where name = %s
"""
_MOVE_ON = """
update segue_outbox.subscription
set last = %(last)s::pg_snapshot, until = %(until)s::pg_snapshot, after = %(after)s, readings = %(readings)s,
    received = received + %(count)s, received_at = clock_timestamp()
where name = %(name)s and last::text = %(was_last)s and until::text is not distinct from %(was_until)s
    and after = %(was_after)s
"""
# A committed write with everything before it on disk, and on the standbys that are waited for: what was read is there
# for good. Otherwise a crash could take back an event that others have heard of already.
_READING = "update segue_outbox.consumer set readings = readings + 1 where name = %s returning readings"
_CONFIRM = "update segue_outbox.consumer set seen = %s::pg_snapshot, confirmed_at = clock_timestamp() where name = %s"
_PURGE = """
with least as (
    select min(pg_snapshot_xmin(seen)::text::numeric)::text::xid8 as xid from segue_outbox.consumer having count(*) > 0
), gone as (
    delete from segue_outbox.event where ctid = any(array(
        select e.ctid from segue_outbox.event as e, least
        where e.xid < least.xid and e.written_at < now() - make_interval(secs => %(keep)s) limit %(rows)s
    )) returning xid
), noted as (
    update segue_outbox.origin set purged = greatest(purged, (select max(xid::text::numeric)::text::xid8 from gone))
    where exists (select from gone)
)
select count(*) from gone
"""


@dataclass(frozen=True, slots=True)
class _Position:
    """How far a consumer is, as the target has it."""

    origin: str
    topics: list[str]
    handler: str | None
    last: str
    until: str | None
    after: int
    readings: int


@dataclass(frozen=True, slots=True)
class _Events:
    """What was read: rows in COPY's binary form, and where to go on after them."""

    rows: list[bytes]
    count: int
    last: str
    until: str | None
    after: int


class PostgresRelay:
    """See `segue.ports.outbox.Relay`."""

    def __init__(self, source: str, target: str, note: Note) -> None:
        self._source = source
        self._target = target
        self._note = note

    def subscribe(self, subscription: Subscription, *, now: bool) -> bool:
        """Note the consumer in both databases, the source first: from then on its events are kept."""
        name, topics = subscription.name, sorted(set(subscription.topics))
        with self._open() as (source, target):
            origin = self._origin(source)
            handler = _handler(target, subscription.handler) if subscription.handler else None
            position = _position(target, name)
            if position is not None:
                if (position.origin, position.topics, position.handler) != (origin, topics, handler):
                    raise Blocked(
                        f"{name} is subscribed already, to other topics, with another handler or elsewhere",
                        hint="`segue outbox unsubscribe` ends that; or choose another name",
                    )
                if _known(source, name):
                    return False
                raise _set_back(self._source, name)
            with source.transaction():
                row = source.execute(
                    "insert into segue_outbox.consumer (name, topics, seen, base) "
                    "select %s, %s, case when %s then pg_current_snapshot() else %s::pg_snapshot end, purged "
                    "from segue_outbox.origin on conflict (name) do update "
                    "set topics = excluded.topics, seen = excluded.seen, base = excluded.base, readings = 0 "
                    "returning seen::text",
                    [name, topics, now, NOTHING],
                ).fetchone()
            receive_here(target)
            with target.transaction():
                target.execute(
                    "insert into segue_outbox.subscription (name, origin, topics, handler, last) "
                    "values (%s, %s, %s, %s, %s::pg_snapshot)",
                    [name, origin, topics, handler, row[0] if row else NOTHING],
                )
        return True

    def unsubscribe(self, name: str) -> None:
        """Forget the consumer in both databases, the target first: nothing is purged that it could still want."""
        with self._open() as (source, target):
            found = 0
            if has(target, "subscription"):
                alone(target, name)
                with target.transaction():
                    for table, column in (("parked", "consumer"), ("inbox", "consumer"), ("subscription", "name")):
                        of = sql.Identifier("segue_outbox", table), sql.Identifier(column)
                        found += target.execute(sql.SQL("delete from {} where {} = %s").format(*of), [name]).rowcount
            if has(source, "consumer"):
                found += source.execute("delete from segue_outbox.consumer where name = %s", [name]).rowcount
        if not found:
            raise NotFound(f"nobody is subscribed as {name}", hint="`segue outbox status` lists the consumers")

    def run(self, name: str, *, batch: int, keep: float, follow: float | None, stop: Callable[[], bool]) -> Relayed:
        """Bring events until none is left, or with `follow` until `stop`; lost connections are opened again."""
        began = clock.ticks()
        received, failures, wait, begun = 0, 0, _WAIT_FIRST, False
        while True:
            try:
                with self._open() as (source, target):
                    begun = True
                    alone(target, name)
                    for count in self._rounds(source, target, name, batch, keep, follow, stop):
                        received += count
                        failures, wait = 0, _WAIT_FIRST
                    return Relayed(received, _parked(target, name), clock.ticks() - began)
            except psycopg.Error as error:
                failures += 1
                if not is_passing(error) or (follow is None and failures >= _TRIES):
                    raise explain(error, f"relaying to {name}") from error
                said: str = explain(error, f"relaying to {name}").message
            except TargetUnreachable as error:
                # At once it is an address that is wrong; later a server that is away for a while.
                if follow is None or not begun:
                    raise
                said = error.message
            if stop():
                return Relayed(received, 0, clock.ticks() - began)
            self._note(f"{said}; trying again in {wait:.1f} s")
            clock.sleep(wait)
            wait = min(wait * 2, _WAIT_LONGEST)

    # -- one round after the other

    def _rounds(
        self,
        source: Connection,
        target: Connection,
        name: str,
        batch: int,
        keep: float,
        follow: float | None,
        stop: Callable[[], bool],
    ) -> Iterator[int]:
        """Bring batch after batch; yield how many events each had."""
        position = self._checked(source, target, name)
        target.execute(MAKE_BATCH.encode())
        purged = clock.ticks() - _PURGE_EVERY
        # A window that an earlier process began shows what there was then.
        present = position.until is None
        while not stop():
            events = _read(source, position, batch)
            if events.count:
                position = self._bring(source, target, name, position, events)
                yield events.count
            elif position.until is not None:
                # The last batch was full, and there is nothing after it.
                position = self._move_on(target, name, position, events, position.readings)
            if events.until is None:
                if events.count:
                    source.execute(_CONFIRM, [events.last, name])
                if clock.ticks() - purged >= _PURGE_EVERY:
                    self._purge(source, target, name, position, events, keep)
                    position = _position(target, name) or position
                    purged = clock.ticks()
                if follow is None and present:
                    return
                present = True
                if follow is not None and not events.count:
                    clock.sleep(follow)

    def _bring(
        self, source: Connection, target: Connection, name: str, position: _Position, events: _Events
    ) -> _Position:
        """Hand over what was read, in one transaction with the position behind it."""
        row = source.execute(_READING, [name]).fetchone()
        if row is None:
            raise _set_back(self._source, name)
        readings = int(row[0])
        journal.point("outbox-read")
        with target.transaction():
            with target.cursor().copy("copy segue_outbox_batch from stdin (format binary)") as copy:
                for rows in events.rows:
                    copy.write(rows)
            deliver(target, name, position.handler)
            moved = self._move_on(target, name, position, events, readings)
            journal.point("outbox-handled")
        journal.point("outbox-delivered")
        return moved

    def _move_on(self, target: Connection, name: str, position: _Position, events: _Events, readings: int) -> _Position:
        done = target.execute(
            _MOVE_ON,
            {
                "name": name,
                "last": events.last,
                "until": events.until,
                "after": events.after,
                "readings": readings,
                "count": events.count,
                "was_last": position.last,
                "was_until": position.until,
                "was_after": position.after,
            },
        )
        if not done.rowcount:
            raise FenceLost(
                f"another process has moved {name} on, or it was unsubscribed", hint="nothing was handed over twice"
            )
        return _Position(
            position.origin, position.topics, position.handler, events.last, events.until, events.after, readings
        )

    def _purge(
        self, source: Connection, target: Connection, name: str, position: _Position, events: _Events, keep: float
    ) -> None:
        """Remove old events that every consumer has; and let the snapshots follow where nothing was to be brought."""
        with target.transaction():
            self._move_on(target, name, position, events, position.readings)
        source.execute(_CONFIRM, [events.last, name])
        while True:
            row = source.execute(_PURGE, {"keep": keep, "rows": _PURGE_ROWS}).fetchone()
            if row is None or row[0] < _PURGE_ROWS:
                return

    # -- what must be true before

    def _checked(self, source: Connection, target: Connection, name: str) -> _Position:
        """Return the consumer's position if both databases agree about the past."""
        origin = self._origin(source)
        position = _position(target, name)
        if position is None:
            raise NotFound(
                f"nobody is subscribed as {name} in {place(self._target)}", hint="`segue outbox subscribe` begins"
            )
        if position.origin != origin:
            raise Blocked(
                f"{name} is subscribed to another outbox than the one in {place(self._source)}",
                hint="check the environments; `segue outbox unsubscribe` ends a subscription",
            )
        row = source.execute(
            "select c.readings, o.purged > c.base and pg_snapshot_xmin(%s::pg_snapshot) <= o.purged "
            "from segue_outbox.consumer as c, segue_outbox.origin as o where c.name = %s",
            [position.last, name],
        ).fetchone()
        if row is None or row[0] < position.readings:
            raise _set_back(self._source, name)
        if row[1]:
            raise CannotTell(
                f"events that {name} has not received are gone from {place(self._source)}",
                hint="was its database set back to an earlier moment? bring what it misses by other means, then "
                "unsubscribe it and subscribe again",
            )
        return position

    def _origin(self, source: Connection) -> str:
        if not has(source, "origin"):
            raise NotFound(f"there is no outbox in {place(self._source)}", hint="`segue outbox create` makes one")
        row = source.execute("select id::text, home from segue_outbox.origin").fetchone()
        if row is None or row[1] != home(source):
            raise CannotTell(
                f"the outbox in {place(self._source)} was made on another server: its transaction numbers mean nothing",
                hint="drop it there, `segue outbox create` it anew, and subscribe its consumers again",
            )
        return str(row[0])

    @contextmanager
    def _open(self) -> Iterator[tuple[Connection, Connection]]:
        with (
            open_session(self._source, application=APPLICATION) as source,
            open_session(self._target, application=APPLICATION) as target,
        ):
            yield source, target


def _read(source: Connection, position: _Position, batch: int) -> _Events:
    """Read the next events as one snapshot shows them."""
    with source.transaction():
        source.execute("set transaction isolation level repeatable read, read only")
        row = source.execute("select pg_current_snapshot()::text").fetchone()
        until = position.until or str(row[0] if row else "")
        words = {
            "last": sql.SQL("{}::pg_snapshot").format(sql.Literal(position.last)),
            "until": sql.SQL("{}::pg_snapshot").format(sql.Literal(until)),
            "after": sql.Literal(position.after),
            "topics": sql.SQL("{}::text[]").format(sql.Literal(position.topics)),
            "limit": sql.Literal(batch),
        }
        query = sql.SQL(_WINDOW).format(**words)
        count, after = 0, position.after
        found = source.execute(
            sql.SQL("select count(*), max(id) from ({}) as e").format(query).as_string(source).encode()
        ).fetchone()
        rows: list[bytes] = []
        if found and found[0]:
            count, after = int(found[0]), int(found[1])
            with source.cursor().copy(sql.SQL("copy ({}) to stdout (format binary)").format(query)) as copy:
                rows = [bytes(data) for data in copy]
    if count < batch:
        return _Events(rows, count, until, None, 0)
    return _Events(rows, count, position.last, until, after)


def _position(target: Connection, name: str) -> _Position | None:
    if not has(target, "subscription"):
        return None
    row = target.execute(_POSITION, [name]).fetchone()
    return _Position(*row) if row else None


def _known(source: Connection, name: str) -> bool:
    return source.execute("select from segue_outbox.consumer where name = %s", [name]).fetchone() is not None


def _handler(target: Connection, said: str) -> str:
    """Return a handler's name as the server writes it. Raises InvalidInput where it cannot be called, with why."""
    row = target.execute(
        "select pg_catalog.format('%%I.%%I', n.nspname, p.proname), "
        "pg_catalog.has_function_privilege(p.oid, 'EXECUTE'), p.prokind = 'f' "
        "from pg_catalog.pg_proc as p join pg_catalog.pg_namespace as n on n.oid = p.pronamespace "
        "where p.oid = pg_catalog.to_regprocedure(%s)",
        [f"{said}(bigint, text, text, jsonb)"],
    ).fetchone()
    if row is None or not row[2]:
        raise InvalidInput(
            f"there is no function {said}(bigint, text, text, jsonb)",
            hint="the handler gets an event's id, topic, key and payload; name it with its schema",
        )
    if not row[1]:
        raise PrivilegeMissing(f"this role may not call {row[0]}", hint="grant EXECUTE on it")
    return str(row[0])


def _parked(target: Connection, name: str) -> int:
    row = target.execute("select count(*) from segue_outbox.parked where consumer = %s", [name]).fetchone()
    return int(row[0]) if row else 0


def _set_back(source: str, name: str) -> CannotTell:
    return CannotTell(
        f"the outbox in {place(source)} knows less of {name} than {name} has received",
        hint="was that database set back to an earlier moment? compare what it had published since, then unsubscribe "
        f"{name} and subscribe it again",
    )
