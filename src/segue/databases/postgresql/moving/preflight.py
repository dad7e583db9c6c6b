"""Looks for whatever stands in a move's way, all of it at once and before anything is made; changes nothing."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.resources import files
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from segue.databases.postgresql.errors import place
from segue.databases.postgresql.moving import snapshot
from segue.databases.postgresql.moving.archive import programs
from segue.databases.postgresql.moving.slot import slot_exists
from segue.databases.postgresql.moving.support import (
    BOTH_WAYS,
    check_other,
    cluster,
    identity,
    qualified,
    referring,
    refuse,
    relations,
    require_logical,
    sequences_of,
    state,
    told,
)
from segue.errors import SegueError
from segue.model.checks import Finding, Light
from segue.model.quantities import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair, Side

_SERVER = """
select current_user::text, r.rolsuper, r.rolreplication,
    pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
    pg_catalog.current_setting('max_replication_slots')::int
        - (select count(*) from pg_catalog.pg_replication_slots),
    pg_catalog.current_setting('max_wal_senders')::int
        - (select count(*) from pg_catalog.pg_stat_replication),
    pg_catalog.current_setting('max_logical_replication_workers')::int
        - (select count(*) from pg_catalog.pg_stat_subscription where pid is not null),
    pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_slot_wal_keep_size')),
    pg_catalog.current_setting('server_encoding'),
    (select d.datcollate || ' ' || d.datctype from pg_catalog.pg_database as d
        where d.datname = pg_catalog.current_database()),
    pg_catalog.current_setting('max_slot_wal_keep_size')
from pg_catalog.pg_roles as r where r.rolname = current_user
"""
_MAY_SUBSCRIBE = "select pg_catalog.pg_has_role('pg_create_subscription', 'USAGE')"
_MAY_SKIP = """
select pg_catalog.has_parameter_privilege('session_replication_role', 'SET')
"""
_EXTENSIONS = """
select distinct e.extname::text from pg_catalog.pg_attribute as a
join pg_catalog.pg_depend as d on d.classid = 'pg_type'::regclass and d.objid = a.atttypid and d.deptype = 'e'
join pg_catalog.pg_extension as e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
where a.attrelid = any(%s::regclass[]) and a.attnum > 0 and not a.attisdropped
"""
_REFERRED = """
select k.conrelid::regclass::text, pg_catalog.quote_ident(k.conname), k.confrelid::regclass::text
from pg_catalog.pg_constraint as k
where k.contype = 'f' and k.conparentid = 0 and k.conrelid = any(%s::regclass[]) and k.confrelid <> all(%s::regclass[])
order by 1, 2
"""
_BYTES = "select coalesce(sum(pg_catalog.pg_table_size(t::regclass)), 0)::bigint from unnest(%s::text[]) as t"
# Versions whose servers subscribe for roles that are no superusers.
_SUBSCRIBERS = 16


class Preflight:
    """One look at both databases of a move; `read_only`: of one whose target only follows."""

    def __init__(
        self, pair: Pair, tables: Sequence[str], *, make_tables: bool, once: bool = False, read_only: bool = False
    ) -> None:
        self._pair, self._tables = pair, tables
        self._make_tables, self._once, self._read_only = make_tables, once, read_only
        self._a: Connection
        self._b: Connection
        self._names: list[str] = []
        self._parts: list[str] = []
        #: Tables of the target that belong to somebody else.
        self._foreign: set[str] = set()

    def look(self) -> list[Finding]:
        """Return what was found, worst first within each part; nothing is changed on either side."""
        with ExitStack() as stack:
            self._a = stack.enter_context(self._pair.open(self._pair.source))
            self._b = stack.enter_context(self._pair.open(self._pair.target))
            found = list(self._named())
            if not found:
                self._parts = [relation.name for relation in relations(self._a, self._names)]
                for part in self._steps():
                    with told("the look before the move"):
                        found += part()
            return found

    def _steps(self) -> list[Callable[[], Iterator[Finding]]]:
        steps = [self._rights, self._things, self._target_tables, self._foreign_keys, self._alike, self._room]
        return steps if self._once else [self._begun, self._logical, self._followable, self._slots, *steps]

    def _named(self) -> Iterator[Finding]:
        for table in self._tables:
            try:
                self._names.append(qualified(self._a, table))
            except SegueError as error:
                yield _refused("tables", error)

    # -- what a move that follows needs

    def _publishers(self) -> tuple[tuple[Side, Connection], ...]:
        return self._sides()[:1] if self._read_only else self._sides()

    def _begun(self) -> Iterator[Finding]:
        if state(self._pair, self._a) is not None:
            try:
                check_other(self._pair, self._pair.source, self._a, identity(self._b))
            except SegueError as error:
                yield _refused("the move", error)
            else:
                yield Finding(Light.GREEN, "the move", "it has begun: `segue move start` goes on")

    def _logical(self) -> Iterator[Finding]:
        for side, connection in self._publishers():
            try:
                require_logical(self._pair, side, connection)
            except SegueError as error:
                yield _refused("wal_level", error)
            else:
                yield Finding(Light.GREEN, "wal_level", f"{_place(side)}: logical")
        versions = [connection.info.server_version // 10000 for connection in (self._a, self._b)]
        if min(versions) < BOTH_WAYS and not self._read_only:
            if cluster(self._a) == cluster(self._b):
                yield Finding(
                    Light.RED,
                    "one server",
                    f"two databases of one server of PostgreSQL {BOTH_WAYS - 1} or older cannot follow each other",
                    "move to another server, or copy with --once",
                )
            else:
                yield Finding(
                    Light.GREEN,
                    "the way back",
                    f"PostgreSQL {min(versions)} cannot leave out what came from the other side: one direction is "
                    "followed at a time, and a switch turns it round",
                )

    def _followable(self) -> Iterator[Finding]:
        try:
            refuse(relations(self._a, self._names))
        except SegueError as error:
            yield _refused("keys", error)
        else:
            yield Finding(Light.GREEN, "keys", f"{len(self._parts)} tables and partitions can be followed")

    def _slots(self) -> Iterator[Finding]:
        if state(self._pair, self._b) is not None:
            # It has what it needs, and would be counted among those who use it.
            return
        for side, connection in self._sides():
            row = self._server(connection)
            slots, senders, workers, kept = int(row[4]), int(row[5]), int(row[6]), int(row[7])
            # A slot that an earlier start has made is counted among those in use.
            channel, where = self._pair.channel(side), _place(side)
            publishes = (side, connection) in self._publishers()
            wanted = 0 if slot_exists(connection, channel) or not publishes else 1
            if publishes and not wanted and state(self._pair, connection) is None:
                # Slots are the whole server's.
                do = "give this move another name, or drop the slot if nobody needs it"
                yield Finding(Light.RED, "slots", f"{where}: there is a slot {channel} of another move's", do)
            for setting, free, need in (
                ("max_replication_slots", slots, wanted),
                ("max_wal_senders", senders, wanted + (side.name == "source" and wanted)),
                ("max_logical_replication_workers", workers, 1 if side.name == "target" else wanted),
            ):
                if free < need:
                    do = f"raise {setting} and restart that server, or end what uses them"
                    yield Finding(Light.RED, setting, f"{where}: {max(free, 0)} are free, and {need} are needed", do)
            if kept >= 0 and row[10] != "-1":
                yield Finding(
                    Light.AMBER,
                    "max_slot_wal_keep_size",
                    f"{where}: the server ends the move by itself when it holds back more than {size(kept)} of log",
                    "make sure that this is more than what is written during the copy",
                )

    # -- what every copy needs

    def _rights(self) -> Iterator[Finding]:
        for side, connection in self._sides():
            row = self._server(connection)
            role, superuser, replication, create = str(row[0]), bool(row[1]), bool(row[2]), bool(row[3])
            where, quoted = _place(side), sql.Identifier(role).as_string(connection)
            if superuser:
                continue
            missing: list[tuple[str, str]] = []
            if not create:
                database = sql.Identifier(connection.info.dbname).as_string(connection)
                missing.append(("make a schema for the move", f"GRANT CREATE ON DATABASE {database} TO {quoted}"))
            if not self._once:
                if not replication:
                    missing.append(("make a slot", f"ALTER ROLE {quoted} REPLICATION"))
                if connection.info.server_version // 10000 < _SUBSCRIBERS:
                    missing.append(("subscribe, before PostgreSQL 16", f"ALTER ROLE {quoted} SUPERUSER"))
                elif not self._yes(connection, _MAY_SUBSCRIBE):
                    missing.append(("subscribe", f"GRANT pg_create_subscription TO {quoted}"))
            if (
                side.name == "target"
                and connection.info.server_version >= 150000
                and not self._yes(connection, _MAY_SKIP)
            ):
                missing.append(
                    (
                        "copy without firing triggers",
                        f"GRANT SET ON PARAMETER session_replication_role TO {quoted}",
                    )
                )
            for what, grant in missing:
                yield Finding(Light.RED, "rights", f"{where}: role {quoted} may not {what}", grant)

    def _things(self) -> Iterator[Finding]:
        query = files("segue.databases.postgresql").joinpath("sql/moving_preflight.sql").read_bytes()
        for kind, relation, detail in self._a.execute(query, {"names": self._parts}).fetchall():
            yield from self._thing(kind, relation, detail)
        parts = [relation.name for relation in relations(self._b, self._names)]
        for kind, relation, detail in self._b.execute(query, {"names": parts}).fetchall():
            if kind == "owner":
                self._foreign.add(relation)
                yield self._owned(self._pair.target, relation, detail)

    def _owned(self, side: Side, relation: str, owner: str) -> Finding:
        role = sql.Identifier((self._a if side is self._pair.source else self._b).info.user).as_string(self._a)
        what = f"{_place(side)}: {relation} belongs to {owner}, and only its owner can publish it and fence it"
        return Finding(Light.RED, "rights", what, f"GRANT {owner} TO {role}")

    def _thing(self, kind: str, relation: str, detail: str) -> Iterator[Finding]:
        role = self._a.info.user
        if kind == "owner" and not self._once:
            yield self._owned(self._pair.source, relation, detail)
        elif kind == "select":
            yield Finding(Light.RED, "rights", f"{relation} cannot be read", f'GRANT SELECT ON {relation} TO "{role}"')
        elif kind == "row security":
            what = f"{relation} hides rows from this role, which would not be copied"
            yield Finding(Light.RED, "row security", what, f'ALTER ROLE "{role}" BYPASSRLS')
        elif kind == "rule":
            what = f"rule {detail} of {relation} fires for rows that are carried over as well"
            yield Finding(Light.AMBER, "rules", what, "look whether the target should have it so")
        elif kind == "trigger":
            what = (
                f"trigger {detail} of {relation} is ENABLE REPLICA or ALWAYS: it fires for rows that are carried over"
            )
            yield Finding(Light.AMBER, "triggers", what, "make it fire for the application alone, on the target")
        elif kind == "large object":
            what = f"{relation}.{detail} names large objects, which stay behind"
            yield Finding(Light.RED, "large objects", what, "keep them in a bytea column, or move them by hand")
        elif kind == "inherits":
            what = f"{relation} is a part of {detail}, which stays"
            yield Finding(
                Light.AMBER, "inheritance", what, "queries of the parent lose these rows: move both, or detach"
            )
        elif kind == "shared sequence":
            what = f"{relation} draws from {detail} and stays"
            do = "after the switch both go on by themselves: give the tables sequences of their own"
            yield Finding(Light.AMBER, "sequences", what, do)
        elif kind == "subscribed" and not self._once:
            what = f"{relation} is filled by subscription {detail}, whose rows are not passed on to the target"
            yield Finding(
                Light.RED, "subscriptions", what, "end that subscription before, or move its publisher's table"
            )

    def _target_tables(self) -> Iterator[Finding]:
        there = [name for name in self._names if snapshot.columns_of(self._b, name)]
        if state(self._pair, self._b) is not None:
            return
        missing = [name for name in self._names if name not in there]
        if missing and self._make_tables:
            try:
                programs(self._a)
            except SegueError as error:
                yield _refused("pg_dump", error)
            yield Finding(Light.GREEN, "the target's tables", f"{len(missing)} of {len(self._names)} will be made")
        names = there if self._make_tables else self._names
        try:
            snapshot.refuse_unlike(self._a, self._b, names)
        except SegueError as error:
            yield _refused("the target's tables", error)
        begun = self._yes(self._b, "select pg_catalog.to_regclass(%s) is not null", f"{self._pair.name}.filling")
        for name in () if begun else [name for name in there if name not in self._foreign]:
            if self._yes(self._b, sql.SQL("select exists (select from {})").format(sql.SQL(name))):
                yield Finding(
                    Light.RED, "the target's tables", f"{name} on the target has rows", "empty it, if nobody needs them"
                )
        if not self._make_tables:
            keyless = [r.name for r in relations(self._b, there) if not r.key]
            if keyless and not self._once:
                yield Finding(
                    Light.RED,
                    "the target's tables",
                    "no primary key on the target, by which its rows are found",
                    "make it there, or create the move with --schema",
                    tuple(keyless),
                )

    def _foreign_keys(self) -> Iterator[Finding]:
        if self._read_only:
            there = [relation.name for relation in relations(self._b, self._names)]
            if wrong := referring(self._b, there):
                what = f"{len(wrong)} on the target refer to what is to be a read-only copy, which is a moment behind"
                drops = tuple(f"alter table {table} drop constraint {name};" for table, name in wrong)
                yield Finding(Light.RED, "foreign keys", what, "drop them", drops)
            return
        incoming = referring(self._a, self._parts)
        if incoming and not self._once:
            yield Finding(
                Light.AMBER,
                "foreign keys",
                f"{len(incoming)} of tables that stay refer to tables that move: no switch before they are gone",
                "drop them before the switch; `segue move probe` looks whether they still hold",
                tuple(f"alter table {table} drop constraint {name};" for table, name in incoming),
            )
        outgoing = self._a.execute(_REFERRED, [self._parts, self._parts]).fetchall()
        if outgoing:
            yield Finding(
                Light.AMBER,
                "foreign keys",
                f"{len(outgoing)} of tables that move refer to tables that stay: nobody enforces them on the target",
                "`segue move probe` looks whether they still hold",
                tuple(f"{table}: {name} refers to {other}" for table, name, other in outgoing),
            )
        counted = sequences_of(self._a, self._names)
        if counted:
            yield Finding(Light.GREEN, "sequences", f"{len(counted)} go along, ahead by a margin at each switch")

    def _alike(self) -> Iterator[Finding]:
        mine, theirs = self._server(self._a), self._server(self._b)
        if mine[8] != theirs[8]:
            what = f"the source is in {mine[8]}, the target in {theirs[8]}"
            do = "a character that the target does not have ends the copy: make the target's database in the same one"
            yield Finding(Light.RED if theirs[8] == "SQL_ASCII" else Light.AMBER, "encoding", what, do)
        if mine[9] != theirs[9]:
            what = f"the source sorts by {mine[9]}, the target by {theirs[9]}"
            yield Finding(Light.AMBER, "collation", what, "the application may get rows in another order")
        if self._b.info.server_version // 10000 < self._a.info.server_version // 10000:
            what = "the target's server is older than the source's"
            yield Finding(Light.AMBER, "versions", what, "what the older one does not know cannot be made there")
        needed = [row[0] for row in self._a.execute(_EXTENSIONS, [self._parts]).fetchall()]
        known = {
            row[0]
            for row in self._b.execute(
                "select name::text from pg_catalog.pg_available_extensions where name = any(%s)", [needed]
            ).fetchall()
        }
        if lacking := sorted(set(needed) - known):
            what = f"the target's server does not have {', '.join(lacking)}, of which columns are"
            yield Finding(Light.RED, "extensions", what, "install the packages on that server")

    def _room(self) -> Iterator[Finding]:
        row = self._a.execute(_BYTES, [self._parts]).fetchone()
        words = f"{size(int(row[0]) if row else 0)} of rows, and the indexes beside, go to {_place(self._pair.target)}"
        do = "see that its disk has twice that: no server tells how much room it has"
        if not self._once:
            words += "; the source keeps its log from now until that is done"
            do += ", and that the source's has room for the log"
        yield Finding(Light.AMBER, "room", words, do)

    # -- asking

    def _sides(self) -> tuple[tuple[Side, Connection], ...]:
        return (self._pair.source, self._a), (self._pair.target, self._b)

    def _server(self, connection: Connection) -> tuple[Any, ...]:
        (row,) = connection.execute(_SERVER).fetchall()
        return row

    def _yes(self, connection: Connection, query: LiteralString | sql.Composed, *parameters: str) -> bool:
        row = connection.execute(query, parameters or None).fetchone()
        return bool(row and row[0])


def _place(side: Side) -> str:
    return f"the {side.name} {place(side.url)}"


def _refused(what: str, error: SegueError) -> Finding:
    return Finding(Light.RED, what, error.message, error.hint or "", tuple(error.details))
