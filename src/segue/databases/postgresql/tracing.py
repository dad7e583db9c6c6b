"""Tries statements in a database that is thrown away, on a server of our own or on one that is named."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo, sql

from segue.databases.postgresql.changes import read
from segue.databases.postgresql.errors import explain, place
from segue.lint.report import Seen, Trace, Tried
from segue.lint.sources.psql import without_commands
from segue.model.impact import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Nothing of a trace outlives it.
_HASTY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "16MB"}
_LIMIT = "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '5s'"
_MODES = {lock.value.title().replace(" ", "") + "Lock": lock for lock in Lock if lock.value}
_RELATIONS = """
SELECT c.oid::bigint, c.oid::regclass::text, c.relfilenode::bigint FROM pg_catalog.pg_class AS c
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'f') AND c.relnamespace <> 'pg_catalog'::regnamespace
AND c.relnamespace <> 'information_schema'::regnamespace
"""
_LOCKS = """
SELECT l.relation::bigint, l.mode FROM pg_catalog.pg_locks AS l
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.granted
AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""
_MISSING = """
SELECT extname FROM unnest(%s::text[]) AS extname
WHERE extname NOT IN (SELECT name FROM pg_catalog.pg_available_extensions)
"""


@contextmanager
def throwaway(url: str | None) -> Iterator[str]:
    """Give the URL of an empty database: on this server, or, for None, on one that is made for it."""
    if url is not None:
        with _database(url) as made:
            yield made
        return
    from segue.embedded import Cluster

    # Short, because a socket's path may have a hundred characters, and passable for the server's own user.
    folder = Path(tempfile.mkdtemp(prefix="segue-trace-", dir="/tmp"))
    folder.chmod(0o711)
    cluster = Cluster(folder / "pg", options=_HASTY)
    try:
        with cluster.use(), _database(cluster.url("postgres")) as made:
            yield made
    finally:
        cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _database(url: str) -> Iterator[str]:
    name = f"segue_trace_{secrets.token_hex(6)}"
    try:
        with psycopg.connect(url, autocommit=True, application_name="segue lint") as session:
            session.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise explain(error, place(url)) from error
    try:
        yield conninfo.make_conninfo(url, dbname=name)
    finally:
        with psycopg.connect(url, autocommit=True, application_name="segue lint") as session:
            session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def trace(url: str, source: str | None, called: str, wanted: int | None) -> Iterator[tuple[Session, Trace]]:
    """Give a session in an empty database with the schema of a source, and what the two do not have in common.

    `called` is the source's name for people; `wanted` the major version that is meant, None for any.
    """
    connection = psycopg.connect(url, autocommit=True, prepare_threshold=None, application_name="segue lint")
    try:
        found = Trace(connection.info.server_version // 10000)
        if source is not None:
            found.notes += _copied(source, connection, called)
        if wanted is not None and wanted != found.server:
            found.notes.append(f"tried on PostgreSQL {found.server}, meant for {wanted}: locks may differ between them")
        connection.execute(_LIMIT.encode())
        yield Session(connection), found
    finally:
        connection.close()


def _copied(source: str, target: psycopg.Connection[Any], called: str) -> list[str]:
    """Make the schema of a source without its rows, owners and rights; return what could not be made."""
    from segue.databases.postgresql.connection import open_session
    from segue.databases.postgresql.moving.archive import LEFT_OUT, closed, programs, run

    with open_session(source, application="segue lint") as session:
        folder = programs(session)
        hidden = closed(session)
        extensions = [name for (name,) in session.execute("SELECT extname FROM pg_catalog.pg_extension")]
        zone = session.execute("SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'").fetchone()
    given = {**conninfo.conninfo_to_dict(source), "application_name": "segue lint"}
    secret = given.pop("password", None)
    words = run(
        [
            folder / "pg_dump",
            *("--schema-only", "--no-owner", "--no-privileges", "--lock-wait-timeout=2000", *LEFT_OUT),
            *(f"--exclude-table={name}" for name in hidden),
            f"--dbname={conninfo.make_conninfo('', **given)}",
        ],
        dict(os.environ) if secret is None else {**os.environ, "PGPASSWORD": str(secret)},
        called,
    )
    notes = [
        f'the extension "{name}" of {called} is not on the server of the trace: what needs it fails'
        for (name,) in target.execute(_MISSING, (extensions,))
    ]
    notes += [f"{name} of {called} may not be read: it is not in the copy" for name in hidden]
    failed = []
    for statement in read(without_commands(words)):
        try:
            target.execute(statement.sql.encode())
        except psycopg.Error as error:
            failed.append(f"{_first_line(error)}: {' '.join(statement.sql.split())[:80]}")
    if failed:
        notes.append(f"{len(failed)} statements of the copy of {called} failed, the first: {failed[0]}")
    target.execute("RESET ALL")
    if zone is not None:  # by which a type may change for free, or not
        target.execute("SELECT pg_catalog.set_config('TimeZone', %s, false)", zone)
    return notes


class Session:
    """See `segue.lint.tracing.Tracer`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._old: set[int] = set()
        self._names: dict[int, str] = {}
        self._files: dict[int, int] = {}
        self._held: dict[int, Lock] = {}

    def begin(self, *, in_transaction: bool) -> None:
        """Begin a file."""
        self._look()
        self._old = set(self._files)
        if in_transaction:
            self._connection.execute("BEGIN")

    def end(self) -> None:
        """End a file."""
        if self._inside():
            self._connection.execute("COMMIT")
        self._held = {}
        self._connection.execute("RESET ROLE")
        self._connection.execute("RESET search_path")

    def run(self, statement: str) -> Tried:
        """Run a statement in the transaction that is open, or in one of its own."""
        words = read(statement)[0]
        from segue.model.changes import SetSetting, Transaction

        if any(isinstance(item, Transaction | SetSetting) for item in words.changes):
            return self._plain(statement)
        return self._inner(statement) if self._inside() else self._alone(statement)

    def _plain(self, statement: str) -> Tried:
        try:
            self._connection.execute(statement.encode())
        except psycopg.Error as error:
            return Tried(error=_first_line(error))
        if not self._inside():
            self._held = {}
        return Tried()

    def _inner(self, statement: str) -> Tried:
        self._connection.execute("SAVEPOINT segue_trace")
        try:
            self._connection.execute(statement.encode())
        except psycopg.Error as error:
            self._connection.execute("ROLLBACK TO SAVEPOINT segue_trace")
            return Tried(error=_first_line(error))
        seen = self._look()
        # Its own locks go over to the transaction; a name that the file uses too is not in its way.
        self._connection.execute("RELEASE SAVEPOINT segue_trace")
        return Tried(seen)

    def _alone(self, statement: str) -> Tried:
        self._held = {}
        self._connection.execute("BEGIN")
        try:
            self._connection.execute(statement.encode())
            seen = self._look()
            self._connection.execute("COMMIT")
        except psycopg.errors.ActiveSqlTransaction:
            self._connection.execute("ROLLBACK")
            tried = self._plain(statement)
            self._look()
            return tried if tried.error else Tried(note="its locks are over when it is: it cannot be in a transaction")
        except psycopg.Error as error:
            with suppress(psycopg.Error):
                self._connection.execute("ROLLBACK")
            return Tried(error=_first_line(error))
        finally:
            self._held = {}
        return Tried(seen)

    def _inside(self) -> bool:
        return self._connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE

    def _look(self) -> tuple[Seen, ...]:
        """Return the locks that are new or stronger than before, and the tables that have other files than before."""
        strongest: dict[int, Lock] = {}
        locks = self._connection.execute(_LOCKS).fetchall()
        for oid, mode in locks:
            lock = _MODES.get(mode, Lock.NONE)
            if lock.rank > strongest.get(oid, Lock.NONE).rank:
                strongest[oid] = lock
        files: dict[int, int] = {}
        for oid, name, file in self._connection.execute(_RELATIONS):
            files[oid] = file
            self._names.setdefault(oid, name)
        seen = []
        for oid in sorted(self._old):
            lock = strongest.get(oid, Lock.NONE)
            rewritten = bool(self._files.get(oid)) and oid in files and files[oid] != self._files[oid]
            if rewritten or lock.rank > self._held.get(oid, Lock.NONE).rank:
                seen.append(Seen(self._names[oid], lock, rewritten))
        self._files, self._held = files, strongest
        return tuple(sorted(seen, key=lambda item: (-item.lock.rank, item.table)))


def _first_line(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).strip().split("\n", 1)[0]
