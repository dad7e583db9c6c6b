"""The two halves of an outbox in one database: the events it publishes, and those it has received."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.outbox.delivering import again
from segue.errors import Blocked, Busy, NotFound
from segue.model.outbox import WAITING_MOST, ConsumerStanding, OutboxStanding, ParkedEvent, Relayed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Connection = psycopg.Connection[tuple[Any, ...]]

APPLICATION = "segue outbox"

_HOME = (
    "select s.system_identifier || '/' || d.oid from pg_catalog.pg_control_system() as s, "
    "pg_catalog.pg_database as d where d.datname = pg_catalog.current_database()"
)
_CONSUMERS = """
select c.name, c.topics, w.waiting, w.oldest, extract(epoch from pg_catalog.now() - c.confirmed_at)::float8
from segue_outbox.consumer as c cross join lateral (
    select count(*), extract(epoch from pg_catalog.now() - min(e.written_at))::float8
    from (
        select written_at from segue_outbox.event
        where xid >= pg_snapshot_xmin(c.seen) and not pg_visible_in_snapshot(xid, c.seen) and topic = any(c.topics)
        limit %s
    ) as e
) as w (waiting, oldest)
order by c.name
"""


class PostgresOutbox:
    """See `segue.ports.outbox.Outbox`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def create(self, publishers: Sequence[str]) -> bool:
        """Make the publishing half, and let roles use it."""
        with self._open() as connection, connection.transaction():
            new = not has(connection, "event")
            if new and has(connection, "subscription"):
                # The receiving half is there: the schema is not to be made again.
                _script(connection, "outbox_source", without="create schema segue_outbox;")
            elif new:
                _script(connection, "outbox_source")
            if new:
                connection.execute(f"insert into segue_outbox.origin (home) {_HOME}".encode())
            for role in publishers:
                name = sql.Identifier(role)
                connection.execute(sql.SQL("grant usage on schema segue_outbox to {}").format(name))
                connection.execute(
                    sql.SQL("grant execute on function segue_outbox.publish(text, text, jsonb) to {}").format(name)
                )
        return new

    def standing(self) -> OutboxStanding:
        """Count what is kept, what waits and what is parked."""
        with self._open() as connection:
            publishes, receives = has(connection, "event"), has(connection, "subscription")
            if not publishes and not receives:
                raise _missing(self._url)
            events, consumers, parked = 0, [], []
            if publishes:
                row = connection.execute(
                    "select count(*) from (select from segue_outbox.event limit %s) as e", [WAITING_MOST]
                ).fetchone()
                events = row[0] if row else 0
                consumers = connection.execute(_CONSUMERS.encode(), [WAITING_MOST]).fetchall()
            if receives:
                parked = connection.execute(
                    "select consumer, id, topic, key, error, tries from segue_outbox.parked "
                    "order by consumer, id limit 1000"
                ).fetchall()
        return OutboxStanding(
            events,
            tuple(ConsumerStanding(row[0], tuple(row[1]), *row[2:]) for row in consumers),
            tuple(ParkedEvent(*row) for row in parked),
        )

    def retry(self, consumer: str) -> Relayed:
        """Give parked events to the handler again, key by key in order."""
        began = clock.ticks()
        with self._open() as connection:
            if not has(connection, "subscription"):
                raise _missing(self._url)
            alone(connection, consumer)
            handled, left = again(connection, consumer)
        return Relayed(handled, left, clock.ticks() - began)

    def discard(self, consumer: str, event: int) -> None:
        """Remove a parked event."""
        with self._open() as connection:
            if not has(connection, "subscription"):
                raise _missing(self._url)
            gone = connection.execute(
                "delete from segue_outbox.parked where consumer = %s and id = %s", [consumer, event]
            ).rowcount
        if not gone:
            raise NotFound(f"no event {event} is parked for {consumer}", hint="`segue outbox status` lists them")

    def drop(self) -> None:
        """Remove the schema with everything in it."""
        with self._open() as connection, connection.transaction():
            for table, what in (("consumer", "is read by"), ("subscription", "receives as")):
                if not has(connection, table):
                    continue
                names = [row[0] for row in connection.execute(f"select name from segue_outbox.{table}".encode())]  # noqa: S608
                if names:
                    raise Blocked(
                        f"the outbox in {place(self._url)} {what} {', '.join(names)}",
                        hint="`segue outbox unsubscribe` ends that first",
                    )
            connection.execute("drop schema if exists segue_outbox cascade")

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        connection = open_session(self._url, application=APPLICATION)
        with connection:
            try:
                yield connection
            except psycopg.Error as error:
                raise explain(error, place(self._url)) from error


def has(connection: Connection, table: str) -> bool:
    """Return whether a database has a table of the outbox's."""
    row = connection.execute("select pg_catalog.to_regclass(%s) is not null", [f"segue_outbox.{table}"]).fetchone()
    return bool(row and row[0])


def receive_here(connection: Connection) -> None:
    """Make the receiving half where it is not there."""
    if not has(connection, "parked"):
        _script(connection, "outbox_target")


def home(connection: Connection) -> str:
    """Return what tells a database from every other one, also from a copy restored into another server."""
    row = connection.execute(_HOME.encode()).fetchone()
    return str(row[0]) if row else ""


def alone(connection: Connection, consumer: str) -> None:
    """Take a consumer for as long as the session lasts; raises Busy while another process serves it."""
    row = connection.execute(
        "select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(%s, 0))",
        [f"segue_outbox {consumer}"],
    ).fetchone()
    if row is None or not row[0]:
        raise Busy(f"another process serves the consumer {consumer}", hint="one relay at a time keeps events in order")


def _missing(url: str) -> NotFound:
    return NotFound(f"there is no outbox in {place(url)}", hint="`segue outbox create` makes one")


def _script(connection: Connection, name: str, *, without: str = "") -> None:
    text = files("segue.databases.postgresql").joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")
    connection.execute(text.replace(without, "").encode() if without else text.encode())
