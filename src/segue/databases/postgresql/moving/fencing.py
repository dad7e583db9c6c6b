"""Closes and opens the sides of a move: triggers that refuse writes, and limits on its sequences."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.locking import NotThisTime, lock_in_slices, set_local
from segue.databases.postgresql.moving.following import locking
from segue.databases.postgresql.moving.support import members, relations, sequences
from segue.engine import journal
from segue.model.impact import Lock
from segue.ports import Patience, Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair, SequenceLimits

    Note = Callable[[str], None]

#: How many values of a sequence stay with the side that closes: for whoever draws one before it hears of the switch.
MARGIN = 1000
# Ours runs this early: it makes us the victim of a deadlock, never the application, and sends autovacuum away.
DEADLOCK = "20ms"

_ARMED = """
select pg_catalog.format('%%I.%%I', n.nspname, c.relname), t.tgenabled::text
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where t.tgname = %s and not t.tgisinternal
"""


def arm(pair: Pair, work: Connection, eye: Connection, patience: Patience, note: Note, *, closed: bool) -> None:
    """Make the triggers, on the tables and on all below them, each in a transaction of its own.

    Several at once would meet writers that have the second table and want the first. They are enabled where the side
    is closed. Raises LockNotGranted.
    """
    until = clock.ticks() + patience.locks
    armed: dict[str, str] = dict(work.execute(_ARMED, [pair.name]).fetchall())
    how = "enable always" if closed else "disable"
    for relation in relations(work, members(pair, work)):
        if armed.get(relation.name) == ("A" if closed else "D"):
            continue
        left = Patience(max(0.1, until - clock.ticks()), patience.work)
        words = [
            sql.SQL(
                "create or replace trigger {} before insert or update or delete or truncate on {} "
                "for each statement execute function {}()"
            ).format(sql.Identifier(pair.name), sql.SQL(relation.name), sql.Identifier(pair.name, "fence")),
            sql.SQL("alter table only {} {} trigger {}").format(
                sql.SQL(relation.name), sql.SQL(how), sql.Identifier(pair.name)
            ),
        ]
        in_slices(work, eye, relation.name, Lock.SHARE_ROW_EXCLUSIVE, words, left, note)
        journal.point("move-armed")


def disarm(pair: Pair, work: Connection, eye: Connection, patience: Patience, note: Note) -> None:
    """Drop the triggers; raises LockNotGranted while a reader keeps a table."""
    until = clock.ticks() + patience.locks
    for name, _ in work.execute(_ARMED, [pair.name]).fetchall():
        left = Patience(max(0.1, until - clock.ticks()), patience.work)
        words = [sql.SQL("drop trigger {} on {}").format(sql.Identifier(pair.name), sql.SQL(name))]
        in_slices(work, eye, name, Lock.ACCESS_EXCLUSIVE, words, left, note)
        journal.point("move-disarmed")


def in_slices(
    work: Connection,
    eye: Connection,
    table: str,
    lock: Lock,
    words: Sequence[sql.Composed],
    patience: Patience,
    note: Note,
) -> None:
    """Lock one table by itself and run statements, in one transaction; raises LockNotGranted."""

    def attempt(piece: float) -> None:
        try:
            with work.transaction():
                set_local(work, "statement_timeout", piece)
                work.execute(sql.SQL("lock table only {} in {} mode").format(sql.SQL(table), sql.SQL(lock.value)))
                for statement in words:
                    work.execute(statement)
        except (psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected) as error:
            raise NotThisTime from error

    lock_in_slices(work, eye, [locking("fencing off", [table], lock)], patience, Waits(), attempt, note)


def lock_all(
    pair: Pair,
    work: Connection,
    eye: Connection,
    patience: Patience,
    waits: Waits,
    note: Note,
    also: Callable[[float], None] = lambda until: None,
) -> float:
    """Begin a transaction that has all tables' locks against writers, and return the tick since when they wait.

    The transaction stays open. `also` takes further locks within the same slice: it gets the tick at which that ends.
    Raises LockNotGranted, with whoever has written and not ended, when no slice went through.
    """
    tables = [relation.name for relation in relations(work, members(pair, work))]
    began = 0.0

    def attempt(piece: float) -> None:
        nonlocal began
        began = clock.ticks()
        try:
            work.execute("begin")
            set_local(work, "statement_timeout", piece)
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege), work.transaction():
                work.execute("select pg_catalog.set_config('deadlock_timeout', %s, true)", [DEADLOCK])
            listed = sql.SQL(", ").join(sql.SQL("only ") + sql.SQL(name) for name in tables)
            work.execute(sql.SQL("lock table {} in share row exclusive mode").format(listed))
            also(began + piece)
            set_local(work, "statement_timeout", 0)
        except (psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected) as error:
            work.execute("rollback")
            raise NotThisTime from error

    statement = locking("switching", tables, Lock.SHARE_ROW_EXCLUSIVE)
    lock_in_slices(work, eye, [statement], patience, waits, attempt, note)
    return began


def set_fence(pair: Pair, connection: Connection, *, closed: bool) -> None:
    """Switch all triggers of a side, within a transaction that has the tables' locks."""
    how = sql.SQL("enable always" if closed else "disable")
    for relation in relations(connection, members(pair, connection)):
        connection.execute(
            sql.SQL("alter table only {} {} trigger {}").format(sql.SQL(relation.name), how, sql.Identifier(pair.name))
        )


def seal(pair: Pair, connection: Connection, margin: int, until: float) -> None:
    """Leave this side's sequences a margin of values and no more, within the transaction that closes it.

    `until`: the tick at which to stop waiting for whoever has drawn a value and not ended. That one may want a table
    of ours next, so the wait must be shorter than its deadlock check.

    What is drawn beyond it would be drawn by the other side too. The margin is for the application's sessions that
    draw a value before they hear of the switch: they need not fail.
    """
    for sequence in sequences(pair, connection):
        set_local(connection, "statement_timeout", max(0.01, until - clock.ticks()))
        limit = _limit(connection, sequence, margin)
        up = sequence.increment > 0
        # The server wants the limits apart, and the start between them.
        low, high = (min(sequence.minimum, limit - 1), limit) if up else (limit, max(sequence.maximum, limit + 1))
        connection.execute(
            sql.SQL("alter sequence {} minvalue {} maxvalue {} start with {} no cycle").format(
                sql.SQL(sequence.name), *map(sql.Literal, (low, high, max(low, min(sequence.start, high))))
            )
        )
        connection.execute(
            sql.SQL("update {}.sequence set sealed_at = %s where name = %s").format(sql.Identifier(pair.name)),
            [limit, sequence.name],
        )


def _limit(connection: Connection, sequence: SequenceLimits, margin: int) -> int:
    row = connection.execute(sql.SQL("select last_value from {}").format(sql.SQL(sequence.name))).fetchone()
    last = int(row[0]) if row else 0
    room = (sequence.maximum - last) if sequence.increment > 0 else (last - sequence.minimum)
    # A sequence that is nearly used up shares what it has left.
    steps = max(0, min(margin, room // abs(sequence.increment) // 2))
    return last + steps * sequence.increment


def sealed(pair: Pair, connection: Connection) -> dict[str, int]:
    """Return up to where the sequences of a closed side may go, by name."""
    query = sql.SQL("select name, sealed_at from {}.sequence where sealed_at is not null")
    return {str(name): int(at) for name, at in connection.execute(query.format(sql.Identifier(pair.name))).fetchall()}


def unseal(pair: Pair, connection: Connection, beyond: dict[str, int] | None = None) -> None:
    """Give this side's sequences the limits they had, within the transaction that opens it.

    `beyond`: by name, up to where the other side may go; this side goes on after that.
    """
    for sequence in sequences(pair, connection):
        connection.execute(
            sql.SQL("alter sequence {} minvalue {} maxvalue {} start with {} {}").format(
                sql.SQL(sequence.name),
                *map(sql.Literal, (sequence.minimum, sequence.maximum, sequence.start)),
                sql.SQL("cycle" if sequence.cycle else "no cycle"),
            )
        )
        if beyond and sequence.name in beyond:
            furthest = sql.SQL("greatest" if sequence.increment > 0 else "least")
            connection.execute(
                sql.SQL("select pg_catalog.setval(%s::regclass, {}(last_value, %s::bigint), true) from {}").format(
                    furthest, sql.SQL(sequence.name)
                ),
                [sequence.name, beyond[sequence.name]],
            )
    connection.execute(sql.SQL("update {}.sequence set sealed_at = null").format(sql.Identifier(pair.name)))
