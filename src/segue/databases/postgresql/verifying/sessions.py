"""Sessions on both sides, as many as ranges are compared at a time, and queries that run on both at once."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psycopg

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place

if TYPE_CHECKING:
    from psycopg import sql

    Connection = psycopg.Connection[tuple[Any, ...]]
    Rows = list[tuple[Any, ...]]

#: Texts of values must be the same wherever they are made.
_PINS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "jit": "off",
}
_POSITION = """
select case when pg_catalog.pg_is_in_recovery() then null else pg_catalog.pg_current_wal_flush_lsn()::text end
"""
_APPLIED = """
select coalesce(bool_and(s.confirmed_flush_lsn >= %s::pg_lsn), true)
from pg_catalog.pg_replication_slots as s
where s.slot_type = 'logical' and s.active and s.database = pg_catalog.current_database()
"""


class Sessions:
    """One database's sessions, each used by one query at a time."""

    def __init__(self, url: str, jobs: int) -> None:
        """Open one session; further ones are opened when they are needed."""
        self.where = place(url)
        self._url = url
        self._pool = ThreadPoolExecutor(jobs)
        self._free: SimpleQueue[Connection] = SimpleQueue()
        self._all: list[Connection] = []
        self.first = self._open()

    def ask(self, query: sql.Composable, values: Any = None) -> Future[Rows]:
        """Run a query beside others."""
        return self._pool.submit(self.now, query, values)

    def now(self, query: sql.Composable | str, values: Any = None) -> Rows:
        """Run a query in a session that is free. Raises the driver's errors, as ours."""
        connection = self._open() if self._free.empty() else self._free.get()
        try:
            text = query if isinstance(query, str) else query.as_string(connection)
            return connection.execute(text.encode(), values).fetchall()
        except psycopg.Error as error:
            raise explain(error, self.where) from error
        finally:
            if not connection.closed:
                self._free.put(connection)

    def close(self) -> None:
        """End all sessions; what still runs in one is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for connection in self._all:
            connection.close()

    def _open(self) -> Connection:
        connection = open_session(self._url, application="segue verify", schema="public", pins=_PINS)
        self._all.append(connection)
        return connection


def await_applied(source: Sessions, seconds: float) -> None:
    """Wait until what was written on a side by now has come to whoever follows it, but no longer than so."""
    limit = clock.ticks() + seconds
    row = source.now(_POSITION)
    if row and row[0][0] is not None:
        position = row[0][0]
        while clock.ticks() < limit and not source.now(_APPLIED, [position])[0][0]:
            clock.sleep(0.05)
    clock.sleep(max(0.0, min(0.2, limit - clock.ticks())))
