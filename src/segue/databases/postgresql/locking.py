"""Gets table locks in small slices, so that the application never queues behind a migration that waits."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.errors import LockNotGranted
from segue.model.impact import Duration, Lock, Statement
from segue.model.quantities import duration
from segue.ports import Blocker, Patience, Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FIRST_SLICE = 0.1
# A slice must end before the server's deadlock check would run in a session of the application that waits for us.
SLICE_OF_DEADLOCK_TIMEOUT = 0.7
LONGEST_PAUSE = 5.0
# While the same session is in the way, tries take the application no larger share of its time than this.
SHARE = 0.07
# From this try on that meets the same session; one that is soon done is worth some quick ones.
SAME = 3
# Once its locks are held, a statement that only changes the catalog is over in milliseconds; one that is not must
# not hold the application up.
INSTANT_SECONDS = 5.0

# Which locks conflict, from PostgreSQL's documentation ("Conflicting Lock Modes"), as the modes pg_locks shows.
CONFLICTS: dict[Lock, frozenset[str]] = {
    Lock.ACCESS_SHARE: frozenset({"AccessExclusiveLock"}),
    Lock.ROW_SHARE: frozenset({"ExclusiveLock", "AccessExclusiveLock"}),
}
_MODES = [
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
]
CONFLICTS |= {
    Lock.ROW_EXCLUSIVE: frozenset(_MODES[4:]),
    Lock.SHARE_UPDATE_EXCLUSIVE: frozenset(_MODES[3:]),
    Lock.SHARE: frozenset({"RowExclusiveLock", "ShareUpdateExclusiveLock", *_MODES[5:]}),
    Lock.SHARE_ROW_EXCLUSIVE: frozenset(_MODES[2:]),
    Lock.EXCLUSIVE: frozenset(_MODES[1:]),
    Lock.ACCESS_EXCLUSIVE: frozenset(_MODES),
}

_TAKEABLE = """
select c.oid, c.oid::regclass::text
from pg_catalog.pg_class as c
where c.oid = pg_catalog.to_regclass(%s) and c.relkind in ('r', 'p')
    and pg_catalog.pg_has_role(c.relowner, 'USAGE')
"""

# An autovacuum that we may not cancel ourselves is cancelled by the server, but only after deadlock_timeout of one and
# the same wait: one try in so many lasts that long. Never each of them, since "to prevent wraparound" is not cancelled
# and the application would queue behind every try.
OUTLAST_EVERY = 4


class NotThisTime(Exception):
    """A slice ended without the lock; `blockers` where it is known who else is in the way."""

    def __init__(self, blockers: Sequence[Blocker] = ()) -> None:
        super().__init__()
        self.blockers = list(blockers)


def lock_in_slices(
    connection: psycopg.Connection[Any],
    eye: psycopg.Connection[Any],
    statements: Sequence[Statement],
    patience: Patience,
    waits: Waits,
    attempt: Callable[[float], None],
    note: Callable[[str], None],
) -> None:
    """Call `attempt(slice)` until it goes through; it raises NotThisTime when the slice was too short.

    `eye` is another session, which looks who stands in the way while the first one waits. Raises LockNotGranted, with
    the sessions in the way, when `patience.locks` is over. Called again for the same locks, it goes on with the rest
    that the last call had come to, which `waits` keeps.
    """
    name = _name(statements)
    if waits.wanted != name:
        _forget(waits)
    rest = waits.until - clock.ticks()
    if rest > 0:
        clock.sleep(min(rest, patience.locks))
    deadlock = _deadlock_timeout(connection)
    longest = deadlock * SLICE_OF_DEADLOCK_TIMEOUT
    piece = min(FIRST_SLICE, longest)
    pause = waits.pause or 0.05
    began = clock.ticks() - min(max(rest, 0.0), patience.locks)
    tried = 0
    if rest > patience.locks:
        raise _not_granted(name, patience, tried, waits.blockers)
    outlast = False
    while True:
        tried += 1
        started = clock.ticks()
        length = deadlock * 1.3 if outlast else piece
        # Never beyond the deadline: what the user gave is the time after which the answer is there.
        length = max(0.01, min(length, patience.locks - (started - began))) if tried > 1 else length
        try:
            with _watching(eye, connection.info.backend_pid, length * 0.6) as seen:
                attempt(length)
        except NotThisTime as late:
            spent = clock.ticks() - started
            seen = late.blockers or seen
        else:
            _forget(waits)
            return
        blockers = seen or find_blockers(connection, statements)
        same = _count(waits, spent, blockers)
        now = min(pause, LONGEST_PAUSE) * random.uniform(0.5, 1.5)  # noqa: S311  jitter, not a secret
        if same:
            now = max(now, min(spent * (1 / SHARE - 1), LONGEST_PAUSE))
        waits.wanted, waits.until = name, clock.ticks() + now
        waited = clock.ticks() - began
        if waited >= patience.locks:
            raise _not_granted(name, patience, tried, blockers)
        if tried in (1, 5) or tried % 20 == 0:
            note(f"waiting for locks ({duration(waited)})" + "".join(f"; {b.line()}" for b in blockers[:2]))
        outlast = False
        if blockers and all(blocker.autovacuum for blocker in blockers):
            ended = _end_autovacuum(connection, blockers)
            outlast = not ended and (tried - 1) % OUTLAST_EVERY == 0
        # Longer slices meet a gap between short transactions; a session that stays leaves none.
        piece = min(FIRST_SLICE, longest) if same else min(piece * 1.5, longest)
        clock.sleep(min(now, max(0.0, patience.locks - waited)))
        pause = waits.pause = min(pause * 1.6, LONGEST_PAUSE, max(0.05, patience.locks / 10))


def _count(waits: Waits, spent: float, blockers: Sequence[Blocker]) -> bool:
    """Record a slice that was too short; return whether the same session has been in the way for some of them."""
    waits.slices += 1
    waits.seconds += spent
    waits.longest = max(waits.longest, spent)
    known = {blocker.pid for blocker in waits.blockers}
    waits.blockers = list(blockers)
    waits.same = waits.same + 1 if known & {blocker.pid for blocker in blockers} else 0
    return waits.same >= SAME


def _forget(waits: Waits) -> None:
    waits.wanted, waits.pause, waits.until, waits.same = "", 0.0, 0.0, 0


def _not_granted(name: str, patience: Patience, tried: int, blockers: Sequence[Blocker]) -> LockNotGranted:
    tries = f"{tried} tries" if tried != 1 else "one try"
    return LockNotGranted(
        f"could not get the locks for {name} within {duration(patience.locks)} "
        f"({tries}, so that nobody queued behind them)",
        details=[blocker.line() for blocker in blockers],
        hint="end the sessions named, or run again when they are done; `lock_timeout` in the step sets how long to try",
    )


@contextmanager
def _watching(eye: psycopg.Connection[Any], pid: int, after: float) -> Iterator[list[Blocker]]:
    """Look, after some seconds of the block, whom a session waits for; what is seen is there when the block has ended.

    Afterwards it could only be guessed: a session that waits for a row shows nowhere once it has given up.
    """
    seen: list[Blocker] = []
    over = threading.Event()

    def look() -> None:
        if over.wait(after):
            return
        query = files("segue.databases.postgresql").joinpath("sql/blocking.sql").read_bytes()
        try:
            seen.extend(Blocker(*row) for row in eye.execute(query, {"pid": pid}).fetchall())
        except psycopg.Error:
            return  # the connection's own user meets this error and says it

    thread = threading.Thread(target=look, name="segue blockers", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def take_locks(connection: psycopg.Connection[Any], statements: Sequence[Statement], piece: float) -> float:
    """Take the statements' table locks inside the running transaction, parents first; return the deadline's tick.

    Each statement has its own time-out; the deadline for all of them together is kept here. Tables that
    do not exist yet, views, and tables that the role does not own are left to the statement itself.
    """
    deadline = clock.ticks() + piece
    try:
        for table, lock in wanted(statements):
            row = connection.execute(_TAKEABLE.encode(), [table]).fetchone()
            if row is None:
                continue
            # The whole statement is timed: it locks every partition, and `lock_timeout` begins anew with each of them.
            set_local(connection, "statement_timeout", max(0.001, deadline - clock.ticks()))
            connection.execute(
                sql.SQL("lock table {} in {} mode").format(
                    sql.SQL(row[1]),  # regclass text: quoted and qualified by the server
                    sql.SQL(lock.value),
                )
            )
        set_local(connection, "statement_timeout", 0)
    except (psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected) as error:
        raise NotThisTime from error
    return deadline


def wanted(statements: Sequence[Statement]) -> list[tuple[str, Lock]]:
    """Return the strongest lock per table over all statements, in the order in which they must be taken."""
    strongest: dict[str, Lock] = {}
    for statement in statements:
        if statement.duration is Duration.DATA:
            continue
        for held in statement.locks:
            if not held.known or held.lock.rank < Lock.SHARE_UPDATE_EXCLUSIVE.rank:
                continue
            before = strongest.get(held.table, Lock.NONE)
            strongest[held.table] = max(before, held.lock, key=lambda lock: lock.rank)
    return list(strongest.items())


def find_blockers(connection: psycopg.Connection[Any], statements: Sequence[Statement]) -> list[Blocker]:
    """Return the sessions that hold locks in the way of the statements right now."""
    locks: dict[int, Lock] = {}
    for held in (held for statement in statements for held in statement.locks):
        if not held.known or held.lock is Lock.NONE:
            continue
        row = connection.execute("select pg_catalog.to_regclass(%s)::oid::bigint", [held.table]).fetchone()
        if row and row[0] is not None:
            locks[row[0]] = max(locks.get(row[0], Lock.NONE), held.lock, key=lambda lock: lock.rank)
    if not locks:
        return []
    query = files("segue.databases.postgresql").joinpath("sql/lock_holders.sql").read_bytes()
    rows = connection.execute(query, {"tables": list(locks), "pid": connection.info.backend_pid}).fetchall()
    found = [
        Blocker(pid, who, state, text, seconds, mode, table, autovacuum)
        for oid, mode, pid, who, state, text, seconds, table, autovacuum in rows
        if mode in CONFLICTS[locks[oid]]
    ]
    return list({blocker.pid: blocker for blocker in reversed(found)}.values())[::-1]


def set_local(connection: psycopg.Connection[Any], name: str, seconds: float) -> None:
    """Set a timeout for the running transaction, in seconds; 0 means none."""
    connection.execute("select pg_catalog.set_config(%s, %s, true)", [name, milliseconds(seconds)])


def milliseconds(seconds: float) -> str:
    """Return a time as a setting's value; the server counts milliseconds in 31 bits, which are 24 days."""
    return f"{max(0, min(round(seconds * 1000), 2**31 - 1))}ms"


def _deadlock_timeout(connection: psycopg.Connection[Any]) -> float:
    row = connection.execute(
        "select setting::float8 / 1000 from pg_catalog.pg_settings where name = 'deadlock_timeout'"
    ).fetchone()
    return float(row[0]) if row else 1.0


def _end_autovacuum(connection: psycopg.Connection[Any], blockers: Sequence[Blocker]) -> bool:
    """Cancel autovacuums in the way; return whether that was possible."""
    for blocker in blockers:
        # An anti-wraparound vacuum protects the whole cluster; it is never ended for our convenience.
        if "to prevent wraparound" in blocker.query:
            return False
        try:
            connection.execute("select pg_catalog.pg_cancel_backend(%s)", [blocker.pid])
        except psycopg.errors.InsufficientPrivilege:
            return False
    return True


def _name(statements: Sequence[Statement]) -> str:
    tables = list(dict.fromkeys(held.table for statement in statements for held in statement.locks))
    return f"{statements[0].verb} on {', '.join(tables)}" if tables else statements[0].verb
