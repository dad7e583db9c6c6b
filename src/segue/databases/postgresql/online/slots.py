"""The replication slot and the publication of an online change: whether they can be, how they are made and removed."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo, pq, sql

from segue import clock
from segue.databases.postgresql.connection import PINNED
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.locking import NotThisTime
from segue.engine import journal
from segue.errors import InternalError, LockNotGranted, PrivilegeMissing, SegueError, StepFailed
from segue.model.online import WAL_LIMIT
from segue.model.quantities import duration, size
from segue.ports import Blocker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.online.blueprint import Blueprint, Member
    from segue.databases.postgresql.online.site import Connection, Site
    from segue.ports import Patience

#: By which the publications that are not the application's are known to whoever looks at a table's.
COMMENT = "segue: follows an online change"
#: How long a slot may be in use by somebody of ours who has not heard yet that it is over.
STALE_SECONDS = 2.0
#: How long to wait until a slot's last user is gone.
RELEASE_SECONDS = 20.0

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


@dataclass(frozen=True, slots=True)
class SeenRelation:
    """A table of a change, or one of its partitions, as the catalogue has it; `root` is the table's own oid."""

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
class SeenSlot:
    """A slot as the server shows it, its columns None where there is no such slot; sizes in bytes, -1 for no limit."""

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
            f"slot without limit; a reader gives the slot up at {size(WAL_LIMIT)}"
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
        connection = walsender(site)
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
    for relation in relations_of(connection, [member.oid]):
        name = relation.name
        if relation.oid != member.oid and not relation.partition:
            found.append(
                f"{name} inherits from {member.table}: its changes are not published with the table's own key; use the "
                "strategy shadow-table, which changes both together"
            )
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
    seen = look_at(site.look, blueprint)
    if seen.plugin is not None and (seen.status == "lost" or seen.plugin != "pgoutput"):
        _remove(site, blueprint)
        seen = look_at(site.look, blueprint)
    if seen.plugin is None:
        _make_slot(site, blueprint, deadline, note)
    journal.point("online-slot-made")
    _await_writers(site, blueprint, deadline, note)


def end(site: Site, blueprint: Blueprint) -> None:
    """Remove slot and publication, however far they were made; nothing is left of either."""
    _remove(site, blueprint)
    journal.point("online-slot-dropped")
    with site.transaction() as connection:
        connection.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(slot_name(blueprint))))


def _publish(site: Site, blueprint: Blueprint, patience: Patience, note: Callable[[str], None]) -> None:
    name = slot_name(blueprint)
    relations = relations_of(site.look, [member.oid for member in blueprint.members])
    divided = {relation.root for relation in relations if relation.kind == "p"}
    wanted = sorted((member.oid, _published(site, member, divided)) for member in blueprint.members)
    if _publication(site.look, name) == wanted:
        return
    # A slot without its publication has already skipped what it should have told.
    _remove(site, blueprint)
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
            connection.execute(
                sql.SQL("comment on publication {} is {}").format(sql.Identifier(name), sql.Literal(COMMENT))
            )
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
    tables = [relation.oid for relation in relations_of(site.look, [member.oid for member in blueprint.members])]
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


def _remove(site: Site, blueprint: Blueprint) -> None:
    with site.transaction():
        pass  # only under the fence; a slot cannot be dropped in the transaction that holds it
    drop_slot(site.work, blueprint)


def drop_slot(connection: Connection, blueprint: Blueprint) -> None:
    """Drop the slot if there is one, after whoever of ours reads it was ended."""
    began = clock.ticks()
    while True:
        seen = look_at(connection, blueprint)
        if seen.plugin is None:
            return
        if seen.pid is not None and clock.ticks() - began > STALE_SECONDS:
            end_reader(connection, seen.pid)
        try:
            connection.execute("select pg_catalog.pg_drop_replication_slot(%s)", [slot_name(blueprint)])
        except psycopg.errors.UndefinedObject:
            return
        except psycopg.errors.ObjectInUse as error:
            if clock.ticks() - began > RELEASE_SECONDS:
                raise StepFailed(
                    f'the replication slot "{slot_name(blueprint)}" is in use by session {seen.pid}',
                    hint="end that session, and run again",
                ) from error
            clock.sleep(0.1)


def end_reader(connection: Connection, pid: int) -> None:
    """End a walsender of ours that outlived its process; never somebody else's."""
    with suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute(
            "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity "
            "where pid = %s and application_name like 'segue:%%'",
            [pid],
        )


def look_at(connection: Connection, blueprint: Blueprint) -> SeenSlot:
    """Look at a change's slot and publication."""
    name = slot_name(blueprint)
    row = connection.execute(_SLOT.encode(), {"slot": name, "publication": name}).fetchone()
    if row is None:
        raise InternalError("a look at a replication slot returned nothing")
    return SeenSlot(*row)


def relations_of(connection: Connection, roots: Sequence[int]) -> list[SeenRelation]:
    """Return tables with their partitions and whatever inherits from them; waits for no lock."""
    rows = connection.execute(_RELATIONS.encode(), [list(roots)]).fetchall()
    return [
        SeenRelation(
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


def walsender(site: Site) -> Connection:
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
