"""Finds transactions that would see the new table as it was before its rows came: as an empty one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.ports import Blocker

if TYPE_CHECKING:
    from segue.databases.postgresql.online.site import Connection

_NOW = "select pg_catalog.clock_timestamp(), pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text"

# One that is idle has a snapshot only if it keeps it: REPEATABLE READ, SERIALIZABLE, or an open cursor.
_OLD = """
select a.pid, coalesce(nullif(a.application_name, ''), a.usename, '?'), a.state,
    left(regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 120),
    extract(epoch from clock_timestamp() - a.xact_start)::float8
from pg_catalog.pg_stat_activity as a
where a.datname = pg_catalog.current_database() and a.pid <> pg_catalog.pg_backend_pid()
    and a.backend_xmin is not null and a.xact_start < %(at)s and a.application_name <> %(own)s
    and (a.state like 'idle in transaction%%' or a.state = 'active' and a.xact_start < a.query_start
        and pg_catalog.age(a.backend_xmin) > pg_catalog.age(%(xmin)s::xid8::xid))
order by a.xact_start
"""


def now(connection: Connection) -> tuple[Any, str]:
    """Return the moment and the oldest transaction that a snapshot taken now knows to be running."""
    row = connection.execute(_NOW).fetchone()
    assert row is not None  # noqa: S101  a SELECT without FROM
    return row[0], str(row[1])


def older(connection: Connection, since: tuple[Any, str], own: str) -> list[Blocker]:
    """Return the sessions that keep a snapshot of before a moment, as far as this role may see them."""
    rows = connection.execute(_OLD, {"at": since[0], "xmin": since[1], "own": own}).fetchall()
    return [
        Blocker(pid, who, state, query, age, "a snapshot of before the swap", "", False)
        for pid, who, state, query, age in rows
    ]
