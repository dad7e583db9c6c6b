"""Opens sessions on a target: the one place where they are made, with everything pinned that could matter."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from segue.databases.postgresql.errors import explain, place
from segue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What a role's or a database's defaults could otherwise change under our feet. A session that inherited, say,
# `default_transaction_read_only`, a MDY date style or an idle timeout would fail or write other values.
PINNED: Mapping[str, str] = {
    "row_security": "off",
    "synchronous_commit": "on",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "idle_session_timeout": "0",
    "client_encoding": "UTF8",
    "exit_on_error": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "check_function_bodies": "on",
    "default_tablespace": "",
    "default_table_access_method": "heap",
    "quote_all_identifiers": "off",
    "xmloption": "content",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "client_min_messages": "warning",
    "gin_fuzzy_search_limit": "0",
    # A key is walked along its index; a role whose sessions shun indexes would sort the whole table for every chunk.
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_sort": "on",
}

# How often to begin again in a session whose role allows its statements next to no time: until the first of them has
# gone through, nothing lifts the limit.
HURRIED_TRIES = 200
# And how often to open another one, where time-outs of the role's end the session itself.
HURRIED_SESSIONS = 5

# Whatever comes after runs under the settings that come before it, although all are sent together.
_GLANCE = """
    begin isolation level read committed read only; set local statement_timeout = 0; set local lock_timeout = 0;
    set local idle_in_transaction_session_timeout = '60s'; set local exit_on_error = off;
    set local search_path = pg_catalog; set local datestyle = 'ISO'; set local timezone = 'UTC';
    set local extra_float_digits = 1; set local standard_conforming_strings = on; set local transform_null_equals = off;
    select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout'
"""

# A killed client's back-end notices within this time and ends its statement.
CLIENT_CHECK = "2s"
SUPPORTED = range(14, 19)


def open_session(
    url: str, *, application: str, schema: str | None = None, pins: Mapping[str, str] | None = None
) -> psycopg.Connection[tuple[Any, ...]]:
    """Open an autocommit session under the pinned settings.

    Raises TargetUnreachable, PrivilegeMissing or ConfigurationError (a version that is not supported, a pooler in
    transaction mode in between), never with the password in it.
    """
    for last in (*[False] * HURRIED_SESSIONS, True):
        try:
            connection = psycopg.connect(
                url,
                autocommit=True,
                prepare_threshold=None,
                application_name=application,
                # Fixed at the start: the driver encodes by it before any pin could be set.
                client_encoding="utf8",
                connect_timeout=10,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
            )
        except psycopg.Error as error:
            raise explain(error, place(url)) from error
        try:
            _pin(connection, application, schema, pins or {})
        except psycopg.Error as error:
            ended = connection.closed
            connection.close()
            if last or not ended:
                raise explain(error, place(url)) from error
        except BaseException:
            connection.close()
            raise
        else:
            break
    return connection


def _pin(
    connection: psycopg.Connection[tuple[Any, ...]], application: str, schema: str | None, pins: Mapping[str, str]
) -> None:
    major = connection.info.server_version // 10000
    if major not in SUPPORTED:
        raise ConfigurationError(
            f"the target runs PostgreSQL {major}, which Segue does not know",
            hint=f"supported are {SUPPORTED.start} to {SUPPORTED.stop - 1}; a newer Segue may know it",
        )
    # Before anything is set: behind a pooler the settings would stay on a session that the application gets next.
    row = _hurried(
        connection,
        "select pg_catalog.pg_backend_pid(), pg_catalog.current_setting('session_replication_role')",
    )
    if row is None or row[0] != connection.info.backend_pid:
        _refuse_shared(connection)
    elif row[1] != "origin":
        raise ConfigurationError(
            f'this role starts its sessions with session_replication_role "{row[1]}", which would skip triggers',
            hint="use a role without that setting",
        )
    _hurried(connection, "set statement_timeout = 0")
    pin(connection, application, schema, pins)


def pin(
    connection: psycopg.Connection[tuple[Any, ...]],
    application: str,
    schema: str | None,
    pins: Mapping[str, str],
) -> None:
    """Set what is pinned; again after statements of a plan, whose functions may have set what they liked."""
    major = connection.info.server_version // 10000
    settings = {**PINNED, "application_name": application, "client_connection_check_interval": CLIENT_CHECK}
    if major >= 17:
        settings["transaction_timeout"] = "0"
    settings.update(pins)
    connection.execute("set session characteristics as transaction isolation level read committed, read write")
    connection.execute(
        "select pg_catalog.set_config(name, value, false) from unnest(%s::text[], %s::text[]) as pins (name, value)",
        [list(settings), list(settings.values())],
    )
    path = sql.SQL(", ").join(sql.Identifier(name) for name in dict.fromkeys([schema or "public", "public"]))
    connection.execute(sql.SQL("set search_path = {}").format(path))


def _hurried(connection: psycopg.Connection[tuple[Any, ...]], query: LiteralString) -> tuple[Any, ...] | None:
    """Run one of the first statements, which a role's own `statement_timeout` may still cancel."""
    for _ in range(HURRIED_TRIES):
        try:
            cursor = connection.execute(query)
        except psycopg.errors.QueryCanceled:
            continue
        return cursor.fetchone() if cursor.description else None
    raise ConfigurationError(
        "every statement of this role is cancelled at once",
        hint="raise the `statement_timeout` that is set for the role or the database",
    )


@contextmanager
def glance(connection: psycopg.Connection[tuple[Any, ...]]) -> Iterator[None]:
    """Read in one transaction under the settings that matter for that, and leave none of them behind.

    For sessions that may not be pinned, because a pooler may stand in between and give them to the application next.
    """
    for _ in range(HURRIED_TRIES):
        try:
            connection.execute(_GLANCE)
        except psycopg.errors.QueryCanceled:
            connection.execute("rollback")
        else:
            break
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("rollback")


def _refuse_shared(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Refuse a proxy that gives every transaction another server session.

    A proxy shows itself by announcing another process id than the server's. Session locks, timeouts and temporary
    state would land on sessions that belong to somebody else a moment later.
    """
    raise ConfigurationError(
        "the URL leads through a connection pooler: session settings and locks would not stay with Segue",
        hint="give the server's own host and port for migrations; the application may keep its pooler",
    )
