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
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo, pq, sql

from segue import clock
from segue.databases.postgresql.connection import PINNED
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.lease import check_fence
from segue.databases.postgresql.locking import NotThisTime
from segue.databases.postgresql.online.pgoutput import (
    Captured,
    Decoder,
    IdentityChanged,
    Key,
    Unreadable,
    copy_line,
    widen,
)
from segue.engine import journal
from segue.errors import (
    InternalError,
    LockNotGranted,
    PrivilegeMissing,
    SegueError,
    SlotLost,
    StepFailed,
    TargetUnreachable,
)
from segue.model.quantities import duration, size
from segue.ports import FORWARD, Blocker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from segue.databases.postgresql.online.blueprint import Blueprint, Member, Place
    from segue.databases.postgresql.online.site import Connection, Site
    from segue.ports import Patience

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
#: What the slot may keep back of the server's log before it is given up: a full disk would be the application's.
RETAINED_BYTES = 32 * 2**30
#: Of `max_slot_wal_keep_size`, what must be left; a checkpoint takes the last segments at once.
SAFE_SHARE = 0.1
#: Slots keep catalogue rows and log for this long after the last walsender died unnoticed.
STALE_SECONDS = 2.0
#: How long `end` waits until the slot's last user is gone.
RELEASE_SECONDS = 20.0

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_WRITING = ["RowExclusiveLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"]

# Never by pg_partition_tree: it locks what it names, and would wait for the swap that waits for us.
_RELATIONS = """
with recursive relation (root, oid) as (
    select m.oid, m.oid from unnest(%s::oid[]) as m (oid)
    union all
    select r.root, i.inhrelid from relation as r join pg_catalog.pg_inherits as i on i.inhparent = r.oid
)
select
    r.root::bigint, c.oid::bigint, c.oid::regclass::text, c.relkind::text, c.relpersistence::text,
    c.relreplident::text, c.relispartition,
    (select array_agg(a.attname::text order by a.attname)
        from pg_catalog.pg_index as x join pg_catalog.pg_attribute as a
            on a.attrelid = x.indrelid and a.attnum = any (x.indkey)
        where x.indrelid = c.oid and x.indisprimary and x.indisvalid and x.indimmediate),
    exists (select from pg_catalog.pg_index as x where x.indrelid = c.oid and x.indisprimary and not x.indimmediate),
    coalesce((select array_agg(a.attname::text order by a.attname) from pg_catalog.pg_attribute as a
        where a.attrelid = c.oid and a.attgenerated <> ''), '{}')
from relation as r join pg_catalog.pg_class as c on c.oid = r.oid
order by 1, 2
"""

_SLOT = """
select
    s.plugin::text, s.database::text, s.wal_status, s.safe_wal_size,
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint,
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.confirmed_flush_lsn)::bigint,
    s.active_pid,
    exists (select from pg_catalog.pg_publication as p where p.pubname = %(publication)s),
    pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint,
    (select setting::bigint * 1024 * 1024 from pg_catalog.pg_settings where name = 'max_slot_wal_keep_size'),
    (select setting::bigint from pg_catalog.pg_settings where name = 'wal_segment_size')
from (select) as one left join pg_catalog.pg_replication_slots as s on s.slot_name = %(slot)s
"""

_SERVER = """
select
    pg_catalog.current_setting('wal_level'),
    pg_catalog.current_setting('max_replication_slots')::int,
    (select count(*) from pg_catalog.pg_replication_slots),
    pg_catalog.current_setting('synchronous_standby_names'),
    pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
    pg_catalog.current_database(),
    current_user::text,
    (select setting::bigint from pg_catalog.pg_settings where name = 'max_slot_wal_keep_size'),
    (select setting::bigint from pg_catalog.pg_settings where name = 'idle_replication_slot_timeout'),
    (select array_agg(gid::text) from pg_catalog.pg_prepared_xacts),
    (select extract(epoch from max(clock_timestamp() - xact_start))::float8 from pg_catalog.pg_stat_activity
        where backend_xid is not null and pid <> pg_catalog.pg_backend_pid())
"""

_OLDEST = """
select
    a.pid, coalesce(nullif(a.application_name, ''), a.usename, '?'), coalesce(a.state, '?'),
    left(regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 120),
    extract(epoch from clock_timestamp() - a.xact_start)::float8, 'a transaction', '', false
from pg_catalog.pg_stat_activity as a
where a.backend_xid is not null and a.pid <> pg_catalog.pg_backend_pid() and a.application_name not like 'segue:%'
order by a.xact_start limit 1
"""

_WRITERS = """
select
    l.virtualtransaction,
    coalesce(l.pid, 0),
    coalesce(nullif(a.application_name, ''), a.usename, case when l.pid is null then 'prepared transaction' end, '?'),
    coalesce(a.state, case when l.pid is null then 'prepared' end, 'there'),
    left(regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 120),
    extract(epoch from clock_timestamp() - a.xact_start)::float8,
    l.mode, l.relation::regclass::text
from pg_catalog.pg_locks as l left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
where l.locktype = 'relation' and l.granted and l.mode = any (%(modes)s) and l.relation = any (%(tables)s::oid[])
    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database())
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


@dataclass(frozen=True, slots=True)
class _Relation:
    root: int
    oid: int
    name: str
    kind: str
    persistence: str
    identity: str
    partition: bool
    key: tuple[str, ...] | None
    deferrable: bool
    generated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Slot:
    plugin: str | None
    database: str | None
    status: str | None
    safe: int | None
    retained: int | None
    behind: int | None
    pid: int | None
    published: bool
    xid: int
    keep: int
    segment: int


def slot_name(blueprint: Blueprint) -> str:
    """Return what a change's slot and publication are called."""
    return f"segue_{blueprint.id}"


# -- beforehand


def problems(site: Site, members: Sequence[Member]) -> list[str]:
    """Return why the tables cannot be captured through a slot, each with what to do; empty where they can."""
    row = site.look.execute(_SERVER.encode()).fetchone()
    if row is None:
        return ["the server does not answer"]
    level, most, slots, standbys, may_create, database, role = row[:7]
    found: list[str] = []
    if level != "logical":
        found.append(
            f'wal_level is "{level}": a slot needs "logical", and a restart (or use the strategy shadow-table)'
        )
    if slots >= most:
        found.append(f"all {most} replication slots are in use: raise max_replication_slots, or drop one")
    if _is_standby(site.lease.application, standbys):
        found.append(
            f'synchronous_standby_names is "{standbys}", which would make the reader a synchronous standby '
            "that every commit waits for: name the standbys one by one"
        )
    if not may_create:
        found.append(f'a publication needs CREATE on the database: GRANT CREATE ON DATABASE "{database}" TO "{role}"')
    if level == "logical":
        found += _connection_problems(site)
    for member in members:
        found += _table_problems(site.look, member)
    return found


def hints(site: Site) -> list[str]:
    """Return what people should know before a change is captured through a slot."""
    row = site.look.execute(_SERVER.encode()).fetchone()
    if row is None:
        return []
    keep, idle, prepared, oldest = row[7:11]
    found: list[str] = []
    if keep == -1:
        found.append(
            "max_slot_wal_keep_size is not set: while nobody reads, as in a pause, the server keeps its log for the "
            f"slot without limit; a reader gives the slot up at {size(RETAINED_BYTES)}"
        )
    elif keep is not None and keep < 1024:
        found.append(
            f"max_slot_wal_keep_size is {keep} MB: one long transaction, or a pause, and the slot is lost; the copy "
            "would have to begin anew"
        )
    if idle:
        found.append(f"idle_replication_slot_timeout is set ({idle}): a pause longer than that loses the slot")
    if prepared:
        found.append(f"the slot cannot be made before {len(prepared)} prepared transactions end: {prepared[0]}")
    if oldest is not None and oldest > 10:
        found.append(
            f"the slot cannot be made before every open writing transaction of the whole server has ended; the oldest "
            f"is {duration(oldest)} old"
        )
    return found


def _is_standby(application: str, names: str) -> bool:
    """Return whether a walsender of this name counts among the synchronous standbys."""
    _, bracket, rest = names.partition("(")
    listed = rest.rpartition(")")[0] if bracket else names
    words = [name.strip().strip('"').replace('""', '"') for name in listed.split(",")]
    return any(word == "*" or word.lower() == application.lower() for word in words)


def _connection_problems(site: Site) -> list[str]:
    """Try whether a walsender can be had, and whether it is the same server's."""
    try:
        connection = _walsender(site)
    except SegueError as error:
        hint = f": {error.hint}" if error.hint else ""
        return [f"no replication connection can be opened ({error.message}){hint}"]
    with closing(connection):
        seen = site.look.execute(
            "select backend_type from pg_catalog.pg_stat_activity where pid = %s", [connection.info.backend_pid]
        ).fetchone()
        if seen is None or seen[0] != "walsender":
            return [
                "the replication connection leads to another server, or through a pooler: give the server's own URL"
            ]
        result = connection.pgconn.exec_(b"IDENTIFY_SYSTEM")
        if result.status != pq.ExecStatus.TUPLES_OK or not result.get_value(0, 3):
            return ["the replication connection has no database: does a proxy stand in between?"]
    return []


def _table_problems(connection: Connection, member: Member) -> list[str]:
    key = tuple(sorted(column.name for column in member.forward.key))
    found: list[str] = []
    for relation in _relations(connection, [member.oid]):
        name = relation.name
        if relation.oid != member.oid and not relation.partition:
            found.append(f"{name} inherits from {member.table}: its changes are not published with the table's own key")
            continue
        if relation.kind not in ("r", "p"):
            found.append(f"{name} stores its rows elsewhere: its changes are not in this server's log")
            continue
        if relation.persistence != "p":
            found.append(f"{name} is not a permanent, logged table: its changes are not in the server's log")
        if relation.identity != "d":
            found.append(
                f"{name} has another replica identity than its primary key: the log would not name changed rows by "
                f"the key that is walked: ALTER TABLE {name} REPLICA IDENTITY DEFAULT"
            )
        if relation.key is None:
            why = "a deferrable primary key" if relation.deferrable else "no primary key"
            found.append(f"{name} has {why}: publishing it would make the application's updates fail")
        elif relation.key != key:
            found.append(
                f"the primary key of {name} ({', '.join(relation.key)}) is not the key that is walked "
                f"({', '.join(key)})"
            )
        if generated := sorted(set(relation.generated) & set(key)):
            found.append(f"{', '.join(generated)} of {name} is generated: its value is not in the log")
    return found


# -- the beginning and the end


def begin(site: Site, blueprint: Blueprint, patience: Patience, note: Callable[[str], None]) -> None:
    """See that every key that is touched from now on will come to the logs; one slot for all tables of a change.

    Waits for every older writing transaction of the whole server, at most `patience.work` seconds. Raises
    LockNotGranted with those who did not end, StepFailed where a table cannot be captured any more.
    """
    refused = [line for member in blueprint.members for line in _table_problems(site.look, member)]
    if refused:
        raise StepFailed(
            "the tables cannot be captured through a replication slot",
            details=refused,
            hint="correct what the lines name, or use the strategy shadow-table",
        )
    deadline = clock.ticks() + patience.work
    _publish(site, blueprint, patience, note)
    journal.point("online-published")
    seen = _slot(site.look, blueprint)
    if seen.plugin is not None and (seen.status == "lost" or seen.plugin != "pgoutput"):
        _drop_slot(site, blueprint)
        seen = _slot(site.look, blueprint)
    if seen.plugin is None:
        _make_slot(site, blueprint, deadline, note)
    journal.point("online-slot-made")
    _await_writers(site, blueprint, deadline, note)


def end(site: Site, blueprint: Blueprint) -> None:
    """Remove slot and publication, however far they were made; nothing is left of either."""
    _drop_slot(site, blueprint)
    journal.point("online-slot-dropped")
    with site.transaction() as connection:
        connection.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(slot_name(blueprint))))


def _publish(site: Site, blueprint: Blueprint, patience: Patience, note: Callable[[str], None]) -> None:
    name = slot_name(blueprint)
    relations = _relations(site.look, [member.oid for member in blueprint.members])
    divided = {relation.root for relation in relations if relation.kind == "p"}
    wanted = sorted((member.oid, _published(site, member, divided)) for member in blueprint.members)
    if _publication(site.look, name) == wanted:
        return
    # A slot without its publication has already skipped what it should have told.
    _drop_slot(site, blueprint)
    tables: list[sql.Composable] = []
    for member in blueprint.members:
        columns = _published(site, member, divided)
        listed = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL("")
        tables.append(sql.SQL("{}{}").format(member.table.sql, listed))
    statement = sql.SQL(
        "create publication {} for table {} "
        "with (publish = 'insert, update, delete, truncate', publish_via_partition_root = false)"
    ).format(sql.Identifier(name), sql.SQL(", ").join(tables))

    def act(connection: Connection, _until: float) -> None:
        # Under the locks: nobody gives a table another identity between this look and the publication.
        refused = [line for member in blueprint.members for line in _table_problems(connection, member)]
        if refused:
            raise StepFailed("the tables cannot be captured through a replication slot any more", details=refused)
        connection.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(name)))
        try:
            connection.execute(statement)
        except psycopg.errors.DeadlockDetected as error:
            raise NotThisTime from error

    locks = [(str(member.table), "SHARE UPDATE EXCLUSIVE") for member in blueprint.members]
    site.in_slices(locks, patience, note, act)


def _published(site: Site, member: Member, divided: set[int]) -> tuple[str, ...]:
    """Return the columns that are published; none named for all of them.

    Column lists came with PostgreSQL 15. For a partitioned table they are allowed only where its partitions are hidden
    behind it, and then a TRUNCATE of a single partition is not told.
    """
    if site.major < 15 or member.oid in divided:
        return ()
    return tuple(sorted(column.name for column in member.forward.key))


def _publication(connection: Connection, name: str) -> list[tuple[int, tuple[str, ...]]] | None:
    """Return the tables of a publication by oid, with the columns that it names; None where there is no such one."""
    found = connection.execute("select oid from pg_catalog.pg_publication where pubname = %s", [name]).fetchone()
    if found is None:
        return None
    listed = "r.prattrs::int2[]" if connection.info.server_version >= 150000 else "null::int2[]"
    rows = connection.execute(
        sql.SQL(
            "select r.prrelid::bigint, (select array_agg(a.attname::text order by a.attname) "
            "from pg_catalog.pg_attribute as a where a.attrelid = r.prrelid and a.attnum = any ({})) "
            "from pg_catalog.pg_publication_rel as r where r.prpubid = %s order by 1"
        ).format(sql.SQL(listed)),
        [found[0]],
    ).fetchall()
    return [(oid, tuple(columns or ())) for oid, columns in rows]


def _make_slot(site: Site, blueprint: Blueprint, deadline: float, note: Callable[[str], None]) -> None:
    """Make the slot, while another session looks for whom it waits."""
    with closing(site.open()) as maker:
        # Not in one transaction with the slot: one that has held a row for share has written, and may make none.
        with site.transaction(maker):
            pass
        failed: list[BaseException] = []

        def make() -> None:
            try:
                maker.execute(
                    "select pg_catalog.pg_create_logical_replication_slot(%s, 'pgoutput')", [slot_name(blueprint)]
                )
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=make, name="segue slot", daemon=True)
        thread.start()
        telling = _Telling("waiting for older transactions of the whole server, before the slot can be made", note)
        while True:
            thread.join(0.2)
            if not thread.is_alive():
                break
            blockers = _blockers(site.look, maker.info.backend_pid)
            telling.tell(blockers)
            if clock.ticks() > deadline:
                _cancel(site, maker.info.backend_pid)
                thread.join()
                if failed:
                    raise LockNotGranted(
                        f"the replication slot could not be made within {duration(telling.seconds)}: "
                        "it waits for every older writing transaction of the whole server",
                        details=[blocker.line() for blocker in blockers],
                        hint="end the sessions named, or run again when they are done",
                    )
                break
            site.lease.alive()
        if failed and isinstance(failed[0], psycopg.errors.DuplicateObject):
            return
        if failed and isinstance(failed[0], psycopg.errors.InsufficientPrivilege):
            raise PrivilegeMissing(
                f'role "{site.look.info.user}" may not make a replication slot',
                hint="give it the attribute REPLICATION (on a managed server its role for that, as rds_replication)",
            ) from failed[0]
        if failed:
            raise failed[0]


def _await_writers(site: Site, blueprint: Blueprint, deadline: float, note: Callable[[str], None]) -> None:
    """Wait until everyone is gone who held a lock to write to the tables when the slot was made.

    One of them may have written its commit before the slot began to see, and be invisible to every snapshot until a
    standby has answered: neither the stream nor the copy would have its rows.
    """
    tables = [relation.oid for relation in _relations(site.look, [member.oid for member in blueprint.members])]
    telling = _Telling("waiting for transactions that wrote to the tables when the slot was made", note)
    waiting = _writers(site.look, tables)
    names = set(waiting)
    while names:
        if clock.ticks() > deadline:
            raise LockNotGranted(
                f"transactions that were writing to the tables have not ended within {duration(telling.seconds)}",
                details=[waiting[name].line() for name in names],
                hint="end the sessions named, or run again when they are done",
            )
        clock.sleep(0.02)
        site.lease.alive()
        waiting = _writers(site.look, tables)
        names &= set(waiting)
        telling.tell([waiting[name] for name in names])


class _Telling:
    """Says now and then what is waited for."""

    def __init__(self, what: str, note: Callable[[str], None]) -> None:
        self._what = what
        self._note = note
        self._began = clock.ticks()
        self._next = 0.5

    @property
    def seconds(self) -> float:
        return clock.ticks() - self._began

    def tell(self, blockers: Sequence[Blocker]) -> None:
        if self.seconds < self._next:
            return
        self._next = self.seconds * 3
        named = "".join(f"; {blocker.line()}" for blocker in blockers[:3])
        self._note(f"{self._what} ({duration(self.seconds)}){named}")


def _writers(connection: Connection, tables: Sequence[int]) -> dict[str, Blocker]:
    rows = connection.execute(_WRITERS.encode(), {"modes": _WRITING, "tables": list(tables)}).fetchall()
    return {row[0]: Blocker(*row[1:]) for row in rows}


def _blockers(connection: Connection, pid: int) -> list[Blocker]:
    query = files("segue.databases.postgresql").joinpath("sql/blocking.sql").read_bytes()
    return [Blocker(*row) for row in connection.execute(query, {"pid": pid}).fetchall()]


def _cancel(site: Site, pid: int) -> None:
    with suppress(psycopg.errors.InsufficientPrivilege):
        site.look.execute("select pg_catalog.pg_cancel_backend(%s)", [pid])


def _drop_slot(site: Site, blueprint: Blueprint) -> None:
    """Drop the slot if there is one, after whoever reads it was ended."""
    began = clock.ticks()
    with site.transaction():
        pass  # only under the fence; a slot cannot be dropped in the transaction that holds it
    while True:
        seen = _slot(site.work, blueprint)
        if seen.plugin is None:
            return
        if seen.pid is not None and clock.ticks() - began > STALE_SECONDS:
            _end_reader(site.work, seen.pid)
        try:
            site.work.execute("select pg_catalog.pg_drop_replication_slot(%s)", [slot_name(blueprint)])
        except psycopg.errors.UndefinedObject:
            return
        except psycopg.errors.ObjectInUse as error:
            if clock.ticks() - began > RELEASE_SECONDS:
                raise StepFailed(
                    f'the replication slot "{slot_name(blueprint)}" is in use by session {seen.pid}',
                    hint="end that session, and run again",
                ) from error
            clock.sleep(0.1)


def _end_reader(connection: Connection, pid: int) -> None:
    """End a walsender of ours that outlived its process; never somebody else's."""
    with suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute(
            "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity "
            "where pid = %s and application_name like 'segue:%%'",
            [pid],
        )


def _slot(connection: Connection, blueprint: Blueprint) -> _Slot:
    name = slot_name(blueprint)
    row = connection.execute(_SLOT.encode(), {"slot": name, "publication": name}).fetchone()
    if row is None:
        raise InternalError("a look at a replication slot returned nothing")
    return _Slot(*row)


def _relations(connection: Connection, roots: Sequence[int]) -> list[_Relation]:
    rows = connection.execute(_RELATIONS.encode(), [list(roots)]).fetchall()
    return [
        _Relation(
            root=row[0],
            oid=row[1],
            name=row[2],
            kind=row[3],
            persistence=row[4],
            identity=row[5],
            partition=row[6],
            key=None if row[7] is None else tuple(row[7]),
            deferrable=row[8],
            generated=tuple(row[9]),
        )
        for row in rows
    ]


def _walsender(site: Site) -> Connection:
    """Open a replication connection, under the settings by which values are written as text."""
    given = conninfo.conninfo_to_dict(site.url)
    pins = {name: PINNED[name] for name in ("DateStyle", "IntervalStyle", "TimeZone", "extra_float_digits")}
    pins |= {"bytea_output": PINNED["bytea_output"], "search_path": "pg_catalog", "statement_timeout": "0"}
    # At the start, since statements of its own would run under what the role has set until then.
    options = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in pins.items())
    try:
        return psycopg.connect(
            conninfo.make_conninfo(
                site.url,
                replication="database",
                options=" ".join(word for word in (str(given.get("options") or ""), options) if word),
            ),
            autocommit=True,
            application_name=site.lease.application,
            client_encoding="utf8",
            connect_timeout=10,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
    except psycopg.Error as error:
        raise explain(error, place(site.url)) from error


# -- the reader


class Reader:
    """Follows the slot in a thread, and writes the touched keys to the logs before it says that they were taken.

    It survives lost connections: what had not been confirmed comes once more, and an entry that stands twice in a log
    is harmless. It ends by `stop`, or with an error that `check` and `barrier` raise from then on.
    """

    def __init__(self, site: Site, blueprint: Blueprint, *, retained: int = RETAINED_BYTES) -> None:
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
            raise explain(error, place(self._site.url)) from error
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

    def _mark(self, token: str) -> None:
        """Put a mark into the server's log, and see that the log is flushed up to it."""
        with self._marking:
            if self._marker is None or self._marker.closed:
                self._marker = self._site.open(synchronous_commit="local")
            try:
                if self._site.major >= 17:
                    self._marker.execute(
                        "select pg_catalog.pg_logical_emit_message(false, %s, %s, true)", [self._name, token]
                    )
                else:
                    # Only a commit flushes here, and only one that waits for it.
                    self._marker.execute("select pg_catalog.pg_logical_emit_message(true, %s, %s)", [self._name, token])
            except psycopg.Error as error:
                self._marker.close()
                self._marker = None
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
            for relation in _relations(self._db, list(self._roots))
        }
        if seen.pid is not None:
            _end_reader(self._db, seen.pid)
        self._wal = _walsender(site)
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
        self._lag = Lag(self._lag.behind, self._lag.retained, self._lag.safe, self._lag.entries + count)

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
            for relation in _relations(self._db, list(self._roots)):
                number = self._roots[relation.root]
                self._relations[relation.oid] = Captured(number, self._keys[number])
        if oid not in self._relations:
            raise Unreadable(f"{name} is published with the tables of the change, but is none of their partitions")
        return self._relations[oid]

    # -- the look-out

    def _look(self) -> _Slot:
        """Look after the slot, the tables' identity, and what is kept back; raises SlotLost or StepFailed."""
        assert self._db is not None  # noqa: S101  opened just before
        seen = _slot(self._db, self._blueprint)
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
        for relation in _relations(self._db, list(self._roots)):
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

    def _check_budget(self, seen: _Slot) -> None:
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
            _drop_slot_here(self._db, self._name)
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


def _drop_slot_here(connection: Connection, name: str) -> None:
    for _ in range(50):
        try:
            connection.execute("select pg_catalog.pg_drop_replication_slot(%s)", [name])
        except psycopg.errors.UndefinedObject:
            return
        except psycopg.errors.ObjectInUse:
            clock.sleep(0.1)
        else:
            return
