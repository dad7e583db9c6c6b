"""Replication slots of a move, and the snapshot at which following begins."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo, sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain
from segue.databases.postgresql.moving.support import told, where
from segue.engine import journal
from segue.errors import Blocked, LockNotGranted
from segue.model.quantities import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.databases.postgresql.moving.support import Connection, Pair, Side

#: How long to wait until the last reader of a slot that is to be dropped has gone.
RELEASE_SECONDS = 10.0

_WRITERS = """
select pg_catalog.format('%%s (pid %%s, %%s, database %%s): %%s', coalesce(nullif(a.application_name, ''), a.usename),
    a.pid, a.state, a.datname, pg_catalog.left(a.query, 80))
from pg_catalog.pg_stat_activity as a
where a.backend_xid is not null and a.pid <> pg_catalog.pg_backend_pid()
order by a.xact_start limit 10
"""


class Keeper:
    """Keeps a slot's snapshot: `snapshot` is what a copy sets, and following brings exactly what came after it.

    It lives as long as the connection, which does nothing else: any further command ends it. Copy under
    `SET TRANSACTION SNAPSHOT` in as many sessions as wanted; close the keeper when all of them have begun their last
    transaction.
    """

    def __init__(self, pair: Pair, publisher: Side, seconds: float) -> None:
        """Make the slot; it waits for every open writing transaction of the whole server, at most so many seconds.

        Raises LockNotGranted, with the sessions it waited for, and Blocked where the slot is there already: its
        snapshot is gone with whoever made it.
        """
        self._connection = _walsender(publisher)
        try:
            with open_session(publisher.url, application=f"segue move {pair.id}") as look:
                if slot_exists(look, pair.channel(publisher)):
                    raise Blocked(
                        f"the slot {pair.channel(publisher)} is there, but the snapshot that it began with is gone",
                        hint="drop the slot, empty the tables that were copied, and begin anew",
                    )
            self.snapshot = _create(self._connection, pair, publisher, "export", seconds)
        except BaseException:
            self._connection.close()
            raise
        journal.point("move-slot")

    @property
    def alive(self) -> bool:
        """Tell whether the snapshot can still be set: whether the server still keeps the connection."""
        if self._connection.closed:
            return False
        with suppress(OSError, ValueError):
            import select

            # A connection that does nothing has something to read only when the other end has closed it.
            return not select.select([self._connection.fileno()], [], [], 0)[0]
        return False

    def close(self) -> None:
        """Let the snapshot go; the slot stays."""
        self._connection.close()


def make_slot(pair: Pair, publisher: Side, seconds: float) -> None:
    """Make a slot from which following begins here and now; raises LockNotGranted as Keeper does."""
    with closing(_walsender(publisher)) as connection:
        _create(connection, pair, publisher, "nothing", seconds)


def _walsender(publisher: Side) -> Connection:
    given = conninfo.conninfo_to_dict(publisher.url)
    options = "-c idle_in_transaction_session_timeout=0 -c statement_timeout=0 -c lock_timeout=0"
    with told(f"the {publisher.name} of the move"):
        connection = psycopg.connect(
            conninfo.make_conninfo(
                publisher.url,
                replication="database",
                options=" ".join(word for word in (str(given.get("options") or ""), options) if word),
            ),
            autocommit=True,
            prepare_threshold=None,
            application_name="segue move",
            connect_timeout=10,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        if connection.info.server_version >= 170000:
            connection.execute("set transaction_timeout = 0")
        return connection


def _create(connection: Connection, pair: Pair, publisher: Side, snapshot: str, seconds: float) -> str:
    name = pair.channel(publisher)
    query = sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT {})").format(
        sql.Identifier(name), sql.Literal(snapshot)
    )
    try:
        with _within(connection, seconds):
            row = connection.execute(query).fetchone()
    except psycopg.errors.QueryCanceled as error:
        with open_session(publisher.url, application=f"segue move {pair.id}") as look:
            waited = [str(row[0]) for row in look.execute(_WRITERS).fetchall()]
        raise LockNotGranted(
            f"a slot on {where(pair, publisher)} did not come within {duration(seconds)}: it waits for every "
            "transaction that writes anywhere on that server",
            details=waited,
            hint="end the transactions named, or try again when they are done",
        ) from error
    except psycopg.Error as error:
        raise explain(error, where(pair, publisher)) from error
    return str(row[2]) if row else ""


@contextmanager
def _within(connection: Connection, seconds: float) -> Iterator[None]:
    """Cancel what the connection does after some time; the driver's QueryCanceled comes through as it is."""
    timer = threading.Timer(seconds, connection.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def slot_exists(connection: Connection, name: str) -> bool:
    """Tell whether a slot is there."""
    row = connection.execute(
        "select exists (select from pg_catalog.pg_replication_slots where slot_name = %s)", [name]
    ).fetchone()
    return bool(row and row[0])


def slot_lives(connection: Connection, name: str) -> bool:
    """Tell whether a slot is there and still has all the log it needs."""
    row = connection.execute(
        "select exists (select from pg_catalog.pg_replication_slots "
        "where slot_name = %s and wal_status is distinct from 'lost')",
        [name],
    ).fetchone()
    return bool(row and row[0])


def drop_slot(connection: Connection, name: str) -> None:
    """Drop a slot once nobody reads it any more; nothing where there is none."""
    until = clock.ticks() + RELEASE_SECONDS
    while slot_exists(connection, name):
        try:
            connection.execute("select pg_catalog.pg_drop_replication_slot(%s)", [name])
        except psycopg.errors.UndefinedObject:
            return
        except psycopg.errors.ObjectInUse as error:
            if clock.ticks() > until:
                raise Blocked(
                    f"the slot {name} is still read", hint="end the session that reads it, and try again"
                ) from error
            clock.sleep(0.05)
