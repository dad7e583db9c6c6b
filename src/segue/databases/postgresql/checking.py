"""Checks a target for everything that a migration could trip over, before one does. Nothing is changed.

What a role may not see is said, never taken for good: a question that is refused becomes an amber finding.
"""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row

from segue.databases.postgresql import signals
from segue.databases.postgresql.connection import PINNED, SUPPORTED, glance, open_session
from segue.databases.postgresql.errors import explain, place
from segue.errors import ConfigurationError, SegueError
from segue.model.checks import Checkup, Finding, Light, Replica
from segue.model.quantities import count, duration, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Connection = psycopg.Connection[Any]

#: No question takes longer; sizes of a database with very many files may.
PINS = {"statement_timeout": "5s", "lock_timeout": "500ms"}
#: Seconds from which an open transaction, and one that does nothing, is worth a word.
LONG_TRANSACTION = 60.0
LONG_IDLE = 10.0
#: Transactions since a snapshot was taken from which it holds VACUUM back noticeably.
OLD_SNAPSHOT = 100_000
#: Age of the oldest row from which the server is in danger of stopping (it does at two thousand million).
WRAPAROUND = 1_500_000_000
#: Connections that Segue should find free: a lease, two lookouts, some labourers.
WANTED_CONNECTIONS = 10
#: Bytes of log that a slot may keep before that is worth a word.
KEPT_LOG = 1_000_000_000
#: How much room the largest table's change needs: another copy with its indexes, and as much again in the log.
HEADROOM = 2.0
NAMED = 5

_IDENTITY = """
select oid::bigint, datname from pg_catalog.pg_database where datname = current_database()
"""
_SYSTEM = "select system_identifier::text from pg_catalog.pg_control_system()"
_ELSEWHERE = {
    "timescaledb": "its hypertables take other locks than plain tables",
    "citus": "its distributed tables take other locks than plain tables",
    "pg_partman": "it makes partitions by itself, which is drift to a plan that is under way",
    "pglogical": "it does not carry DDL to its subscribers by itself",
}


def identity(url: str) -> dict[str, Any]:
    """See `segue.ports.Database.identity`."""
    try:
        with (
            psycopg.connect(
                url, autocommit=True, connect_timeout=10, application_name="segue check", prepare_threshold=None
            ) as connection,
            glance(connection),
        ):
            return identify(connection)
    except psycopg.Error as error:
        raise explain(error, place(url)) from error


def identify(connection: Connection) -> dict[str, Any]:
    """Return which server and which of its databases a session is in."""
    row = connection.execute(_IDENTITY).fetchone()
    try:
        system = connection.execute(_SYSTEM).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        system = None
    return {
        "system_identifier": system[0] if system else None,
        "database_oid": row[0] if row else None,
        "database": row[1] if row else None,
    }


def check(url: str, *, schema: str) -> Checkup:
    """See `segue.ports.Database.check`."""
    try:
        with psycopg.connect(
            url, autocommit=True, connect_timeout=10, application_name="segue check", prepare_threshold=None
        ) as first:
            told = first.info.backend_pid
            with glance(first):
                row = first.execute("select pg_backend_pid()").fetchone()
                who = identify(first)
            major = first.info.server_version // 10000
    except psycopg.Error as error:
        raise explain(error, place(url)) from error
    except UnicodeError as error:
        raise ConfigurationError(f"{place(url)}: the URL cannot be read") from error
    if row is None or row[0] != told:
        # A proxy invents the process id that it tells its client; the server behind it says its own.
        return Checkup(who, [_pooled()])
    if major not in SUPPORTED:
        return Checkup(who, [_unsupported(major)])
    try:
        connection = open_session(url, application="segue check", schema=schema, pins=PINS)
    except ConfigurationError as error:
        return Checkup(who, [Finding(Light.RED, "session", error.message, error.hint)])
    try:
        return _Check(connection, schema, who).checkup()
    except psycopg.Error as error:
        raise explain(error, place(url)) from error
    finally:
        connection.close()


def _pooled() -> Finding:
    return Finding(
        Light.RED,
        "pooler",
        "the URL leads through a connection pooler: session settings and locks would not stay with Segue",
        "give the environment the server's own host and port; the application may keep its pooler",
    )


def _unsupported(major: int) -> Finding:
    return Finding(
        Light.RED,
        "server",
        f"PostgreSQL {major}, which Segue does not know",
        f"supported are {SUPPORTED.start} to {SUPPORTED.stop - 1}; a newer Segue may know it",
    )


class _Table(NamedTuple):
    name: str
    owned: bool
    owner: str
    keyed: bool
    unvacuumed: bool
    bytes: int
    index_bytes: int
    age: int | None


class _Check:
    def __init__(self, connection: Connection, schema: str, who: dict[str, Any]) -> None:
        self._connection = connection
        self._schema = schema
        self._who = who
        self._unseen: list[str] = []
        self._replicas: list[Replica] | None = None
        self.server = self._ask("check_server")[0]
        self.tables: list[_Table] = []

    def checkup(self) -> Checkup:
        findings: list[Finding] = []
        for look in self._looks():
            findings += self._guarded(look)
        return Checkup(self._who, findings, self._replicas, self._unseen)

    def _looks(self) -> list[Callable[[], Iterable[Finding]]]:
        return [
            self.version,
            self.read_only,
            self.pooler,
            self.connections,
            self.own_schema,
            self.plans_schema,
            self.owners,
            self.temporary,
            self.superuser,
            self.seeing,
            self.signalling,
            self.replicating,
            self.extensions,
            self.wal_level,
            self.slots,
            self.replicas,
            self.disk,
            self.transactions,
            self.prepared,
            self.vacuum,
            self.leftovers,
            self.keys,
            self.settings,
            self.namesake,
            self.bystanders,
        ]

    def _guarded(self, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
        what, do = look.__name__.replace("_", " "), "grant the role what is missing, or look there"
        try:
            return list(look())
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            why = error.diag.message_primary or type(error).__name__
        except SegueError as error:
            why, do = error.message, error.hint
        return [Finding(Light.AMBER, what, f"cannot be seen: {why}", do)]

    def _ask(self, name: str, **parameters: Any) -> list[Any]:
        query = files("segue.databases.postgresql").joinpath(f"sql/{name}.sql").read_bytes()
        with self._connection.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(query, parameters or None).fetchall()

    def _grant(self, words: str) -> str:
        """Compose a grant to this role: `{role}`, `{database}` and `{schema}` stand for the names."""
        names = {
            "role": sql.Identifier(self.server.role),
            "database": sql.Identifier(self.server.database),
            "schema": sql.Identifier(self._schema),
        }
        return sql.SQL(words).format(**names).as_string(self._connection)

    # -- the server

    def version(self) -> Iterator[Finding]:
        number, words = self.server.number, f"PostgreSQL {self.server.version.split()[0]}"
        if 140000 <= number < 140004:
            yield Finding(
                Light.RED,
                "server",
                f"{words}, in which CREATE INDEX CONCURRENTLY can build a corrupt index",
                "update to 14.4 or later before an index is built",
            )
        else:
            yield Finding(Light.GREEN, "server", words)

    def read_only(self) -> Iterator[Finding]:
        if self.server.replica:
            yield Finding(Light.RED, "primary", "this is a replica, which cannot be changed", "give the primary's URL")

    def pooler(self) -> Iterator[Finding]:
        yield Finding(Light.GREEN, "pooler", "none in between")

    def connections(self) -> Iterator[Finding]:
        free = self.server.max_connections - self.server.sessions
        words = f"{free} of {self.server.max_connections} free"
        if free < WANTED_CONNECTIONS:
            do = (
                "raise max_connections, or end what is not needed: a run takes 4, and one for each worker of a backfill"
            )
            yield Finding(Light.AMBER if free > 4 else Light.RED, "connections", words, do)
        else:
            yield Finding(Light.GREEN, "connections", words)

    # -- privileges

    def own_schema(self) -> Iterator[Finding]:
        what = "keep lease and history"
        row = self._ask("check_schema", schema=self._schema)[0]
        if row.has_own and not row.owns_own:
            yield Finding(
                Light.RED,
                what,
                f'the schema "segue" belongs to role "{row.own_owner}"',
                f'give the environment a URL with role "{row.own_owner}": one role does all of Segue\'s work',
            )
        elif row.has_own or row.may_make_own:
            yield Finding(Light.GREEN, what, 'the schema "segue" is ours' if row.has_own else "may make its schema")
        else:
            grant = self._grant("GRANT CREATE ON DATABASE {database} TO {role}")
            yield Finding(
                Light.RED, what, f'role "{self.server.role}" may not create a schema', f"as an owner: {grant}"
            )

    def plans_schema(self) -> Iterator[Finding]:
        row = self._ask("check_schema", schema=self._schema)[0]
        what = f"create in schema {self._schema}"
        if not row.found:
            yield Finding(
                Light.AMBER, what, "there is no such schema", "`segue env add NAME --replace --schema …` names another"
            )
        elif not row.may_use:
            grant = self._grant("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}")
            yield Finding(Light.RED, what, "may not even look into it", f"as an owner: {grant}")
        elif not row.may_create:
            grant = self._grant("GRANT CREATE ON SCHEMA {schema} TO {role}")
            yield Finding(Light.AMBER, what, "refused: neither tables nor indexes can be made", f"as an owner: {grant}")
        else:
            yield Finding(Light.GREEN, what, "allowed")

    def owners(self) -> Iterator[Finding]:
        self.tables = [_Table(*row) for row in self._ask("check_tables", schema=self._schema)]
        what = f"change tables of {self._schema}"
        foreign = [table for table in self.tables if not table.owned]
        if not self.tables:
            yield Finding(Light.GREEN, what, "there are none yet")
        elif not foreign:
            yield Finding(Light.GREEN, what, f"owner of all {count(len(self.tables))}")
        else:
            roles = sorted({table.owner for table in foreign})
            role = sql.Identifier(self.server.role).as_string(self._connection)
            grants = [f"GRANT {sql.Identifier(name).as_string(self._connection)} TO {role}" for name in roles[:NAMED]]
            yield Finding(
                Light.RED if len(foreign) == len(self.tables) else Light.AMBER,
                what,
                f"{count(len(foreign))} of {count(len(self.tables))} belong to {_listed(roles)}",
                f"as an owner: {'; '.join(grants)} (or ALTER TABLE … OWNER TO)",
                details=tuple(f"{table.name} belongs to {table.owner}" for table in foreign[:NAMED]),
            )

    def temporary(self) -> Iterator[Finding]:
        what = "make temporary tables"
        if self.server.may_use_temporary:
            yield Finding(Light.GREEN, what, "allowed")
        else:
            grant = self._grant("GRANT TEMPORARY ON DATABASE {database} TO {role}")
            yield Finding(Light.AMBER, what, "refused: no table can be changed online", f"as an owner: {grant}")

    def superuser(self) -> Iterator[Finding]:
        found = "yes, though none is needed" if self.server.superuser else "no, and none is needed"
        yield Finding(Light.GREEN, "superuser", found)

    def seeing(self) -> Iterator[Finding]:
        """Say which of the signals that slow work down the role can read."""
        hidden = {name: why for name, why in signals.visible(self._connection).items() if why and name != "statements"}
        self._unseen = sorted(hidden)
        if not hidden and self.server.sees_all:
            yield Finding(Light.GREEN, "see other sessions", "all signals can be read")
            return
        grant = self._grant("GRANT pg_read_all_stats TO {role}")
        words = f"hidden: {', '.join(sorted(hidden))}" if hidden else "what other roles' sessions do is hidden"
        details = tuple(f"{name}: {why}" for name, why in sorted(hidden.items()))
        yield Finding(Light.AMBER, "see other sessions", words, f"as an administrator: {grant}", details)

    def signalling(self) -> Iterator[Finding]:
        if self.server.may_signal:
            yield Finding(Light.GREEN, "end sessions", "may end what an earlier run left behind")
        else:
            yield Finding(
                Light.GREEN, "end sessions", "its own only; that is enough while one role does all of Segue's work"
            )

    def replicating(self) -> Iterator[Finding]:
        can = [
            word
            for word, given in (
                ("REPLICATION", self.server.may_replicate),
                ("pg_create_subscription", self.server.may_subscribe),
            )
            if given or self.server.superuser
        ]
        words = f"has {' and '.join(can)}" if can else "no"
        needs = "only online changes with the strategy ghost need it, and moves between databases will"
        yield Finding(Light.GREEN, "replication", f"{words}; {needs}")

    def extensions(self) -> Iterator[Finding]:
        known = {row.name: row for row in self._ask("check_extensions")}
        missing = signals.visible(self._connection).get("statements")
        statements = known.get("pg_stat_statements")
        if missing is None and statements is not None and statements.installed:
            yield Finding(Light.GREEN, "pg_stat_statements", f"{statements.installed}, readable")
        else:
            do = "shared_preload_libraries = 'pg_stat_statements', restart, then CREATE EXTENSION pg_stat_statements"
            if statements is not None and statements.installed:
                do = self._grant("as an administrator: GRANT pg_read_all_stats TO {role}")
            yield Finding(
                Light.AMBER,
                "pg_stat_statements",
                f"{missing or 'not installed'}; how busy a table is comes from coarser counters",
                do,
            )
        for name, why in _ELSEWHERE.items():
            if name in known and known[name].installed:
                yield Finding(Light.AMBER, name, f"{known[name].installed}: {why}", "rehearse on a copy first")

    # -- replication and disk

    def wal_level(self) -> Iterator[Finding]:
        level = self.server.wal_level
        words = {
            "logical": "logical",
            "replica": "replica; moves between databases will need logical",
            "minimal": "minimal: no replica and no backup of changes while they happen",
        }.get(level, level)
        light = Light.AMBER if level == "minimal" else Light.GREEN
        yield Finding(light, "wal_level", words, "wal_level = replica, and restart" if light is Light.AMBER else "")

    def slots(self) -> Iterator[Finding]:
        free = self.server.max_slots - self.server.slots
        senders = self.server.max_senders - self.server.senders
        words = f"{free} of {self.server.max_slots} slots and {senders} of {self.server.max_senders} senders free"
        yield Finding(Light.GREEN, "slots", words)
        for slot in self._ask("check_slots"):
            if slot.status == "lost":
                found = "has lost its log: whoever used it must begin anew"
            elif slot.active or slot.kept < KEPT_LOG // 10:
                continue
            else:
                found = f"nobody reads it, and it keeps {size(slot.kept)} of log; data work adds to that"
            name = sql.Literal(slot.slot_name).as_string(self._connection)
            yield Finding(
                Light.AMBER,
                f"slot {slot.slot_name}",
                found,
                f"bring its reader back, or: SELECT pg_drop_replication_slot({name})",
            )

    def replicas(self) -> Iterator[Finding]:
        rows = self._ask("check_replicas")
        self._replicas = [Replica(row.name, row.state, row.behind, row.synchronous) for row in rows]
        names = [replica.name for replica in self._replicas]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield Finding(
                Light.AMBER,
                "replica names",
                f"several replicas are called {_listed(twice)}: one that is missing could not be told",
                "give each its own application_name in primary_conninfo (or a cluster_name)",
            )
        waiting = self.server.synchronous and not any(replica.synchronous for replica in self._replicas)
        if waiting and self.server.sees_all:
            yield Finding(
                Light.RED,
                "synchronous replicas",
                f'none is connected, and commits wait for "{self.server.synchronous}"',
                "bring one back, or set synchronous_standby_names",
            )

    def disk(self) -> Iterator[Finding]:
        largest = max(self.tables, key=lambda table: table.bytes + table.index_bytes, default=None)
        needed = round((largest.bytes + largest.index_bytes) * HEADROOM) if largest is not None else 0
        whole = f"the database has {size(self.server.bytes)}"
        if largest is not None and needed:
            whole += f", its largest table {largest.name} {size(needed / HEADROOM)}"
        free = self._free()
        if free is None:
            yield Finding(
                Light.AMBER,
                "disk",
                f"{whole}; how much room is left cannot be known from here",
                f"see on the server that {size(max(needed, 1_000_000_000))} are free: a rewrite of the largest table "
                "takes as much again, and the log too",
            )
        elif free < needed:
            light = Light.RED if free < needed / HEADROOM else Light.AMBER
            yield Finding(light, "disk", f"{whole}; {size(free)} are free", f"make room: {size(needed)} for a rewrite")
        else:
            yield Finding(Light.GREEN, "disk", f"{whole}; {size(free)} are free")

    def _free(self) -> float | None:
        """Return the free bytes where the server's files lie, when they lie on this machine and may be looked at."""
        try:
            row = self._connection.execute("select current_setting('data_directory')").fetchone()
            if row is None or self._who["system_identifier"] is None:
                return None
            folder = Path(row[0])
            # A folder of the same name may be another server's: the control file says whose it is.
            with (folder / "global" / "pg_control").open("rb") as file:
                system = int.from_bytes(file.read(8), "little")
            if str(system) != self._who["system_identifier"]:
                return None
            return float(shutil.disk_usage(folder).free)
        except (psycopg.errors.InsufficientPrivilege, OSError):
            return None

    # -- what goes on now

    def transactions(self) -> Iterator[Finding]:
        rows = self._ask("check_transactions")
        hidden = sum(row.hidden for row in rows)
        tail = f"; since when {hidden} of other roles last is hidden" if hidden else ""
        long = [row for row in rows if (row.seconds or 0) >= LONG_TRANSACTION]
        idle = [row for row in rows if row.state.startswith("idle in transaction") and (row.idle or 0) >= LONG_IDLE]
        old = [row for row in rows if (row.snapshot or 0) >= OLD_SNAPSHOT]
        if long:
            yield Finding(
                Light.AMBER,
                "long transactions",
                f"{len(long)}, the oldest since {duration(long[0].seconds)}{tail}",
                "end them before a plan runs: CREATE INDEX CONCURRENTLY waits for each, and locks wait for theirs",
                details=tuple(_session(row) for row in long[:NAMED]),
            )
        if idle:
            yield Finding(
                Light.AMBER,
                "idle in transaction",
                f"{len(idle)}, which do nothing and hold their locks",
                "end them, and set idle_in_transaction_session_timeout for the application's role",
                details=tuple(_session(row) for row in idle[:NAMED]),
            )
        if old:
            yield Finding(
                Light.AMBER,
                "old snapshots",
                f"{len(old)} hold VACUUM back: what a backfill leaves dead stays",
                "end them before a backfill",
                details=tuple(_session(row) for row in old[:NAMED]),
            )
        if not (long or idle or old):
            light = Light.AMBER if hidden else Light.GREEN
            do = "as an administrator: " + self._grant("GRANT pg_read_all_stats TO {role}") if hidden else ""
            yield Finding(light, "transactions", f"none longer than {duration(LONG_TRANSACTION)}{tail}", do)

    def prepared(self) -> Iterator[Finding]:
        found = self._ask("check_others", schema=self._schema)[0].prepared
        if found:
            yield Finding(
                Light.AMBER,
                "prepared transactions",
                f"{len(found)}, which keep their locks and hold VACUUM back",
                "COMMIT PREPARED or ROLLBACK PREPARED those that nobody will finish",
                details=tuple(found[:NAMED]),
            )

    def vacuum(self) -> Iterator[Finding]:
        if not self.server.autovacuum:
            yield Finding(
                Light.AMBER, "autovacuum", "off: what a backfill leaves dead stays", "autovacuum = on, and reload"
            )
        off = [table.name for table in self.tables if table.unvacuumed]
        if off:
            yield Finding(
                Light.AMBER,
                "autovacuum",
                f"off for {_listed(off)}",
                "ALTER TABLE … RESET (autovacuum_enabled), at least while a backfill runs",
            )
        ages = [table for table in self.tables if (table.age or 0) > self.server.freeze_age]
        if self.server.age >= WRAPAROUND:
            yield Finding(
                Light.RED,
                "wraparound",
                f"the oldest row is {count(self.server.age)} transactions old; at two thousand million all stops",
                "VACUUM (FREEZE) the oldest tables before anything else",
            )
        elif ages:
            yield Finding(
                Light.AMBER,
                "wraparound",
                f"{_listed([table.name for table in ages])} must be vacuumed to prevent wraparound, and that vacuum "
                "is never cancelled: DDL waits for it",
                "VACUUM (FREEZE) them beforehand",
            )
        elif self.server.autovacuum:
            yield Finding(Light.GREEN, "autovacuum", f"on; the oldest row is {count(self.server.age)} transactions old")

    def leftovers(self) -> Iterator[Finding]:
        rows = self._ask("check_leftovers", schema=self._schema)
        if not rows:
            yield Finding(Light.GREEN, "invalid indexes", "none")
            return
        drops = "; ".join(f"DROP INDEX CONCURRENTLY {row.name}" for row in rows[:NAMED])
        yield Finding(
            Light.AMBER,
            "invalid indexes",
            f"{len(rows)}: every write keeps them up, and no query uses them",
            f"{drops}, or REINDEX INDEX CONCURRENTLY",
            details=tuple(f"{row.name} on {row.table_name}" for row in rows[:NAMED]),
        )

    def keys(self) -> Iterator[Finding]:
        without = [table.name for table in self.tables if not table.keyed]
        if without:
            yield Finding(
                Light.AMBER,
                "tables without a key",
                f"{len(without)}: {_listed(without)}",
                "a backfill of these is refused; add a primary key, or a unique index over NOT NULL columns",
            )
        elif self.tables:
            yield Finding(Light.GREEN, "tables without a key", "none: each can be backfilled")

    # -- settings and neighbours

    def settings(self) -> Iterator[Finding]:
        pinned = {name.lower() for name in PINNED} | {
            "application_name",
            "search_path",
            "client_connection_check_interval",
            "transaction_timeout",
        }
        rows = self._ask("check_settings")
        ours = [f"{row.name} = {row.value}" for row in rows if row.name.lower() in pinned]
        others = [f"{row.name} = {row.value}" for row in rows if row.name.lower() not in pinned]
        if ours:
            yield Finding(Light.GREEN, "role and database settings", f"{_listed(ours)}: Segue's sessions pin their own")
        if others:
            yield Finding(Light.GREEN, "other settings", f"{_listed(others)}: these hold for Segue's sessions too")
        if self.server.temp_file_limit != "-1":
            yield Finding(
                Light.AMBER,
                "temp_file_limit",
                f"{self.server.temp_file_limit} kB: building an index over a larger table fails",
                self._grant("as an administrator: ALTER ROLE {role} SET temp_file_limit = -1"),
            )

    def namesake(self) -> Iterator[Finding]:
        row = self._ask("check_others", schema=self._schema)[0]
        strangers = [name for name in row.in_own if name not in own_tables()]
        if strangers:
            yield Finding(
                Light.AMBER,
                'schema "segue"',
                f"holds {_listed(strangers)}, which Segue did not make",
                "ALTER TABLE segue.… SET SCHEMA …: `segue env clean` drops the schema with all that is in it",
            )
        if row.namesake:
            yield Finding(
                Light.AMBER,
                'role "segue"',
                'its search_path begins with "$user": tables that it makes without a schema land in Segue\'s own',
                'ALTER ROLE "segue" SET search_path = public, or give the role another name',
            )

    def bystanders(self) -> Iterator[Finding]:
        row = self._ask("check_others", schema=self._schema)[0]
        if row.event_triggers:
            yield Finding(
                Light.AMBER,
                "event triggers",
                f"{_listed(row.event_triggers)}: run at every change of the schema, and may refuse it or take long",
                "see what they do; rehearse on a copy",
            )
        if row.publications:
            yield Finding(
                Light.AMBER,
                "publications",
                f"{_listed(row.publications)}: changes of the schema do not reach subscribers",
                "make additions there first, removals there last",
            )


def own_tables() -> set[str]:
    """Return the tables that Segue makes in a target, by its own definitions of them."""
    found: set[str] = set()
    for path in files("segue.databases.postgresql").joinpath("sql").iterdir():
        if path.name.endswith(".sql"):
            found |= set(re.findall(r"create table if not exists segue\.(\w+)", path.read_text(encoding="utf-8")))
    return found


def _session(row: Any) -> str:
    who = ", ".join(word for word in (row.application, row.role, row.state) if word)
    return f"pid {row.pid} ({who}) since {duration(row.seconds or 0)}: {row.query}"


def _listed(words: list[str]) -> str:
    return ", ".join(words[:NAMED]) + (f" and {len(words) - NAMED} more" if len(words) > NAMED else "")
