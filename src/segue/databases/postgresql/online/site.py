"""Where an online change works: its sessions under the lease, and the way to a lock."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from segue import clock
from segue.databases.postgresql import parse
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.lease import Tenure, check_fence
from segue.databases.postgresql.locking import NotThisTime, lock_in_slices, set_local, take_locks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.ports import Patience, Waits

    Connection = psycopg.Connection[tuple[Any, ...]]


class Site:
    """Sessions of one change: `work` writes, `look` only looks; others are opened where work goes on beside them.

    Every transaction begins through `transaction` (or checks the fence itself), so that a driver that was stopped and
    wakes can write nothing.
    """

    def __init__(
        self, work: Connection, look: Connection, lease: Tenure, *, url: str, schema: str, waits: Waits
    ) -> None:
        self.work = work
        self.look = look
        self.lease = lease
        self.url = url
        self.schema = schema
        self.waits = waits

    @property
    def major(self) -> int:
        """Return the server's major version."""
        return self.work.info.server_version // 10000

    def open(self, **pins: str) -> Connection:
        """Open another session under the lease; whoever opens it closes it."""
        pins = {**self.lease.pins, **pins}
        return open_session(self.url, application=self.lease.application, schema=self.schema, pins=pins)

    @contextmanager
    def transaction(
        self, connection: Connection | None = None, *, isolation: str = "read committed"
    ) -> Iterator[Connection]:
        """Begin a transaction that holds the fence; raises FenceLost when the lease is somebody else's by now.

        With `repeatable read` the snapshot is the fence check's: whatever must be locked before it is to be locked by
        whoever calls, in a session's own transaction.
        """
        connection = connection or self.work
        with connection.transaction():
            connection.execute(f"set transaction isolation level {isolation}, read write".encode())
            check_fence(connection, self.lease.execution, self.lease.fence)
            yield connection

    def in_slices(
        self,
        locks: Sequence[tuple[str, str]],
        patience: Patience,
        note: Callable[[str], None],
        act: Callable[[Connection, float], None],
        *,
        first: Sequence[str] = (),
    ) -> None:
        """Lock tables in one short transaction and act in it, trying in slices so that nobody queues behind it.

        `locks`: names as SQL writes them, with the mode ("ACCESS EXCLUSIVE"), in the order in which they are taken;
        `act` gets the session and the tick at which the slice ends, and may raise NotThisTime to try again later.
        `first`: statements for locks that LOCK TABLE has no words for, run before the others within the same slice.
        Raises LockNotGranted with the sessions that stand in the way.
        """
        text = ";\n".join(f"LOCK TABLE {table} IN {mode} MODE" for table, mode in locks)
        statements = parse.statements(text)

        def attempt(piece: float) -> None:
            with self.transaction():
                try:
                    began = clock.ticks()
                    if first:
                        set_local(self.work, "statement_timeout", piece)
                        self.work.execute(";\n".join(first).encode())
                    until = take_locks(self.work, statements, max(0.01, piece - (clock.ticks() - began)))
                    act(self.work, until)
                except (
                    psycopg.errors.LockNotAvailable,
                    psycopg.errors.QueryCanceled,
                    psycopg.errors.DeadlockDetected,
                ) as error:
                    raise NotThisTime from error

        lock_in_slices(self.work, self.look, statements, patience, self.waits, attempt, note)
