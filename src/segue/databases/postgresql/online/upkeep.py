"""Keeps the old tables of a change current while its way back stands open and nobody drives the change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.lease import LOCK_KEY
from segue.databases.postgresql.online.blueprint import Blueprint
from segue.databases.postgresql.online.drain import LOCK_WAIT, Drainer, backlog
from segue.engine import journal
from segue.errors import StepFailed
from segue.model.lifecycles import OnlineChangePhase as Phase
from segue.model.online import Drained, Kept, readable
from segue.ports import BACKWARD

if TYPE_CHECKING:
    from collections.abc import Callable

    Connection = psycopg.Connection[tuple[Any, ...]]

#: How long one transaction should take: whoever wants the lease polls for it for two seconds.
SECONDS = 0.3
# So many entries at first, and at most, in one transaction; none may take longer than this.
FIRST, FEWEST, MOST = 500, 50, 20_000
TIMEOUT = "20s"


# Of its own triggers alone a table is known: somebody may have put another one in its place.
_STANDS = """
select pg_catalog.pg_try_advisory_xact_lock(%(lock)s),
    (select phase from segue.change where id = %(change)s),
    exists (
        select from pg_catalog.pg_trigger as t
        where t.tgrelid = pg_catalog.to_regclass(%(source)s)
            and pg_catalog.starts_with(t.tgname, 'segue_' || %(change)s || '_')
    )
"""


class _HeldError(Exception):
    """Somebody has the lease, or a lock in the way, or the change is not reversible any more."""


def waiting(url: str, execution: str, step: str, most: int) -> int | None:
    """Return how many writes wait to be brought to the old tables of a change, counted up to `most` for each table.

    None when there is no such change here whose way back stands open.
    """
    try:
        # Not as sessions of a lease are called: whoever takes that ends those.
        with open_session(url, application="segue-look") as connection:
            drawn = _drawn(connection, execution, step)
            if drawn is None:
                return None
            logs = [drawn.log(member, BACKWARD) for member in drawn.members]
            return sum(backlog(connection, log, most) for log in logs if _there(connection, str(log)))
    except psycopg.errors.UndefinedTable:
        return None  # it was dropped while we looked
    except psycopg.Error as error:
        raise explain(error, place(url)) from error


def keep(url: str, execution: str, step: str, *, seconds: float, rest: Callable[[float], bool]) -> Kept | None:
    """Bring what was written since the swap to the old tables, for about so many seconds.

    Each transaction is short, and holds the lease's lock: nobody drives anything on this database meanwhile, and where
    somebody does, nothing is done. The fence stays whose it is, so that a run which has lost its connection for a
    moment comes back to it. `rest` gets the seconds that were worked, waits, and returns whether to go on.
    """
    try:
        pins = {"synchronous_commit": "off", "jit": "off"}
        with open_session(url, application="segue-upkeep", pins=pins) as connection:
            drawn = _drawn(connection, execution, step)
            return _keep(connection, drawn, clock.ticks() + seconds, rest) if drawn is not None else None
    except psycopg.errors.UndefinedTable:
        return None  # its way back was ended while we looked
    except psycopg.Error as error:
        raise explain(error, place(url)) from error


def _keep(connection: Connection, drawn: Blueprint, until: float, rest: Callable[[float], bool]) -> Kept:
    keys, refused, left = 0, 0, False
    for member in drawn.members:
        log = drawn.log(member, BACKWARD)
        if not _there(connection, str(log)) or not backlog(connection, log, 1):
            continue
        drainer = Drainer(connection, member.backward, log, drawn.id, member.number, BACKWARD)
        most = FIRST
        while True:
            began = clock.ticks()
            try:
                drained = _once(connection, drainer, drawn.id, most)
            except _HeldError:
                return Kept(keys, left=True, held=True, refused=refused)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                drained = Drained(left=1)  # somebody drains at the same time
            took = max(0.001, clock.ticks() - began)
            keys += drained.keys
            refused += drained.refused
            if not drained.left:
                break
            most = int(min(MOST, max(FEWEST, most * min(2.0, max(0.3, SECONDS / took)))))
            if not rest(took) or clock.ticks() > until:
                left = True
                break
    return Kept(keys, left=left, refused=refused)


def _once(connection: Connection, drainer: Drainer, change_id: str, most: int) -> Drained:
    with connection.transaction():
        try:
            # The table before the snapshot, as in every drain.
            connection.execute(
                sql.SQL(
                    "set transaction isolation level repeatable read, read write; set local lock_timeout = {}; "
                    "set local statement_timeout = {}; lock table {} in access share mode"
                ).format(sql.Literal(LOCK_WAIT), sql.Literal(TIMEOUT), drainer.flow.source.sql)
            )
        except psycopg.errors.LockNotAvailable as error:
            raise _HeldError from error
        # Of this transaction alone: who dies gives it back, and nobody has to wait for more than one of these.
        row = connection.execute(
            _STANDS, {"lock": LOCK_KEY, "change": change_id, "source": str(drainer.flow.source)}
        ).fetchone()
        if row is None or not row[0] or row[1] != Phase.REVERSIBLE:
            raise _HeldError
        if not row[2]:
            raise StepFailed(
                f"{readable(str(drainer.flow.source))} is not the table that the change has put in place",
                hint="nothing was brought to the old table: give the new one its name again, or end the way back",
            )
        drained = drainer.drain(most)
        if drained.emptied:
            # Every row that came since is in the log.
            drained = drainer.drain(None, anew=True)
        journal.point("online-kept-before-commit")
    return drained


def _drawn(connection: Connection, execution: str, step: str) -> Blueprint | None:
    """Return a change that is reversible now."""
    if not _there(connection, "segue.change"):
        return None
    row = connection.execute(
        "select blueprint from segue.change where execution = %s and step = %s and phase = %s "
        "and not detail ? 'retiring'",
        [execution, step, Phase.REVERSIBLE.value],
    ).fetchone()
    return Blueprint.model_validate(row[0]) if row is not None else None


def _there(connection: Connection, name: str) -> bool:
    row = connection.execute("select pg_catalog.to_regclass(%s) is not null", [name]).fetchone()
    return bool(row and row[0])
