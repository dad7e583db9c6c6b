"""Follows one side of a move on the other, by the servers' own logical replication."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo, sql

from segue import clock
from segue.databases.postgresql.locking import NotThisTime, lock_in_slices, set_local
from segue.databases.postgresql.moving.slot import drop_slot
from segue.databases.postgresql.moving.support import BOTH_WAYS, members, where
from segue.engine import journal
from segue.errors import NotCaughtUp
from segue.model.impact import Duration, Lock, Statement, TableLock
from segue.ports import Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair, Side
    from segue.ports import Patience

#: How long to wait until a subscription's worker has ended.
WORKER_SECONDS = 10.0
#: What of our own connection an older server's library understands too.
_SHARED = ("hostaddr", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "gssencmode", "krbsrvname")

# The password comes as a parameter of its own and never stands in a statement's text: that could end up in the log, in
# pg_stat_activity and in pg_stat_statements. An error inside is raised anew, so that no context quotes the text.
_SUBSCRIBE = """
do $$
begin
    execute pg_catalog.format(
        'create subscription %I connection %L publication %I with (copy_data = false, create_slot = false, '
        'slot_name = %L, enabled = false' || pg_catalog.current_setting('segue.move_more') || ')',
        pg_catalog.current_setting('segue.move_channel'), pg_catalog.current_setting('segue.move_reach'),
        pg_catalog.current_setting('segue.move_publication'), pg_catalog.current_setting('segue.move_channel'));
exception when others then
    raise exception using errcode = sqlstate, message = sqlerrm;
end
$$
"""
_QUIET = {
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "pg_stat_statements.track": "none",
}


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the following side is behind; None where it cannot be told."""

    bytes: int | None
    seconds: float
    #: Whether what was committed when it was asked had arrived when it was answered.
    caught_up: bool
    #: Whether the subscription's worker runs.
    running: bool


def publish(
    pair: Pair, side: Side, work: Connection, eye: Connection, patience: Patience, note: Callable[[str], None]
) -> None:
    """Publish a side's tables and markers; nothing where they are published."""
    if work.execute("select 1 from pg_catalog.pg_publication where pubname = %s", [pair.name]).fetchone():
        return
    tables = members(pair, work)
    listed = sql.SQL(", ").join([*map(sql.SQL, tables), sql.Identifier(pair.name, "marker")])

    def attempt(piece: float) -> None:
        try:
            with work.transaction():
                set_local(work, "statement_timeout", piece)
                work.execute(sql.SQL("create publication {} for table {}").format(sql.Identifier(pair.name), listed))
        except (psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected) as error:
            raise NotThisTime from error

    statement = locking("publishing", tables, Lock.SHARE_UPDATE_EXCLUSIVE)
    lock_in_slices(work, eye, [statement], patience, Waits(), attempt, note)
    journal.point("move-published")


def locking(verb: str, tables: Sequence[str], lock: Lock) -> Statement:
    """Say which locks are wanted, for those who wait for them and tell about it."""
    return Statement(
        sql="",
        offset=0,
        verb=verb,
        locks=tuple(TableLock(name, lock) for name in tables),
        duration=Duration.INSTANT,
        transactional=True,
    )


def reach(publisher: Side, connection: Connection) -> str:
    """Return how a subscription connects to the server of a connection: with its password, if it used one."""
    given: dict[str, Any] = {k: v for k, v in connection.info.get_parameters().items() if k in _SHARED}
    given |= {"host": connection.info.host, "port": connection.info.port, "dbname": connection.info.dbname}
    given |= {"user": connection.info.user}
    if connection.info.password:
        given["password"] = connection.info.password
    if publisher.reach:
        given |= conninfo.conninfo_to_dict(publisher.reach)
    return conninfo.make_conninfo("", **{k: v for k, v in given.items() if v not in (None, "")})


def subscribe(
    pair: Pair, publisher: Side, published: Connection, subscriber: Connection, *, relayed: bool = False
) -> None:
    """Make the subscription to one side on the other, disabled; nothing where it is there.

    `relayed`: also what came to that side by replication, which the way back of a move must not return.
    """
    name = pair.channel(publisher)
    if _subscription(subscriber, name) is not None:
        return
    settings = {
        "segue.move_channel": name,
        "segue.move_publication": pair.name,
        "segue.move_reach": reach(publisher, published),
        "segue.move_more": ", origin = none"
        if subscriber.info.server_version // 10000 >= BOTH_WAYS and not relayed
        else "",
    }
    with subscriber.transaction():
        for setting, value in _QUIET.items():
            # Only a superuser may; who else makes a subscription gives the server's log no more than it asks for.
            with suppress(psycopg.Error), subscriber.transaction():
                subscriber.execute("select pg_catalog.set_config(%s, %s, true)", [setting, value])
        for setting, value in settings.items():
            subscriber.execute("select pg_catalog.set_config(%s, %s, true)", [setting, value])
        subscriber.execute(_SUBSCRIBE)
    journal.point("move-subscribed")


def _subscription(connection: Connection, name: str) -> bool | None:
    """Return whether a subscription of this database is enabled; None where there is none."""
    row = connection.execute(
        "select subenabled from pg_catalog.pg_subscription where subname = %s and subdbid = "
        "(select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())",
        [name],
    ).fetchone()
    return bool(row[0]) if row else None


def follows(pair: Pair, publisher: Side, subscriber: Connection) -> bool:
    """Tell whether a side is followed."""
    return bool(_subscription(subscriber, pair.channel(publisher)))


def enable(pair: Pair, publisher: Side, subscriber: Connection) -> None:
    """Begin to follow a side."""
    name = pair.channel(publisher)
    if _subscription(subscriber, name) is False:
        subscriber.execute(sql.SQL("alter subscription {} enable").format(sql.Identifier(name)))
        journal.point("move-following")


def disable(pair: Pair, publisher: Side, subscriber: Connection) -> None:
    """Stop following a side, and wait until nothing of it is applied any more."""
    name = pair.channel(publisher)
    if _subscription(subscriber, name):
        subscriber.execute(sql.SQL("alter subscription {} disable").format(sql.Identifier(name)))
    until = clock.ticks() + WORKER_SECONDS
    while _running(subscriber, name):
        # By itself it looks only once a second whether it should go on, and what it has not applied stays in its slot.
        subscriber.execute(
            "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_subscription "
            "where subname = %s and pid is not null",
            [name],
        )
        if clock.ticks() > until:
            raise NotCaughtUp(f"the worker of {name} did not end", hint="look at the server's log, and try again")
        clock.sleep(0.01)


def _running(subscriber: Connection, name: str) -> bool:
    row = subscriber.execute(
        "select exists (select from pg_catalog.pg_stat_subscription where subname = %s and pid is not null)", [name]
    ).fetchone()
    return bool(row and row[0])


def unsubscribe(pair: Pair, publisher: Side, published: Connection, subscriber: Connection) -> None:
    """Remove the subscription to a side, and the slot it read from."""
    forget(pair, publisher, subscriber)
    drop_slot(published, pair.channel(publisher))


def forget(pair: Pair, publisher: Side, subscriber: Connection) -> None:
    """Remove the subscription to a side, and leave its slot."""
    name = pair.channel(publisher)
    if _subscription(subscriber, name) is not None:
        # First by themselves: the server would drop the slot from within, where it cannot be tried again.
        disable(pair, publisher, subscriber)
        subscriber.execute(sql.SQL("alter subscription {} set (slot_name = none)").format(sql.Identifier(name)))
        subscriber.execute(sql.SQL("drop subscription {}").format(sql.Identifier(name)))
    journal.point("move-unsubscribed")


def mark(pair: Pair, publisher: Side, published: Connection) -> str:
    """Commit a marker on one side; return its token."""
    schema = sql.Identifier(pair.name)
    published.execute(
        sql.SQL("delete from {}.marker where side = %s and at < clock_timestamp() - interval '1 hour'").format(schema),
        [publisher.name],
    )
    row = published.execute(
        sql.SQL("insert into {}.marker (side) values (%s) returning token::text").format(schema), [publisher.name]
    ).fetchone()
    return str(row[0]) if row else ""


def arrived(pair: Pair, subscriber: Connection, token: str) -> bool:
    """Tell whether a marker of the other side has arrived."""
    query = sql.SQL("select 1 from {}.marker where token = %s::uuid").format(sql.Identifier(pair.name))
    return subscriber.execute(query, [token]).fetchone() is not None


def await_marker(pair: Pair, publisher: Side, subscriber: Connection, token: str, seconds: float) -> None:
    """Wait for a marker: all that was committed before it is on the following side then.

    Raises NotCaughtUp. The positions that servers report are no proof: what was sent may not be applied yet, and what
    was committed without waiting for the log is not in it yet.
    """
    until = clock.ticks() + seconds
    pause = 0.001
    while not arrived(pair, subscriber, token):
        if clock.ticks() > until:
            raise NotCaughtUp(
                f"{where(pair, pair.other(publisher))} did not catch up within {seconds:.1f} s",
                details=_why(pair, publisher, subscriber),
                hint="wait until `segue move status` shows little lag; an apply that fails is in the server's log",
            )
        clock.sleep(pause)
        pause = min(pause * 1.3, 0.02)


def _why(pair: Pair, publisher: Side, subscriber: Connection) -> list[str]:
    name = pair.channel(publisher)
    enabled = _subscription(subscriber, name)
    if enabled is None:
        return [f"there is no subscription {name}"]
    if not enabled:
        return [f"the subscription {name} is disabled"]
    return (
        []
        if _running(subscriber, name)
        else [
            f"the worker of {name} ends again and again, as its apply fails, or the server has none left: "
            "max_logical_replication_workers, max_worker_processes"
        ]
    )


def measure(pair: Pair, publisher: Side, published: Connection, subscriber: Connection, seconds: float = 1.0) -> Lag:
    """Measure how far the following side is behind; waits at most some seconds for it."""
    token = mark(pair, publisher, published)
    began = clock.ticks()
    caught_up = True
    try:
        await_marker(pair, publisher, subscriber, token, seconds)
    except NotCaughtUp:
        caught_up = False
    behind = clock.ticks() - began
    schema = sql.Identifier(pair.name)
    if not caught_up:
        last = subscriber.execute(
            sql.SQL("select max(at) from {}.marker where side = %s").format(schema), [publisher.name]
        ).fetchone()
        row = published.execute(
            sql.SQL(
                "select extract(epoch from clock_timestamp() - min(at))::float8 from {}.marker "
                "where side = %s and at > coalesce(%s, '-infinity')"
            ).format(schema),
            [publisher.name, last and last[0]],
        ).fetchone()
        behind = max(behind, float(row[0])) if row and row[0] is not None else behind
    size = published.execute(
        "select pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), confirmed_flush_lsn)::bigint "
        "from pg_catalog.pg_replication_slots where slot_name = %s",
        [pair.channel(publisher)],
    ).fetchone()
    return Lag(size[0] if size else None, behind, caught_up, _running(subscriber, pair.channel(publisher)))
