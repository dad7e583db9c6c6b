"""Statements that must run outside a transaction: what they left behind, and how that is healed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.engine import journal
from segue.errors import Busy, StepFailed
from segue.model.impact import IndexBuild, Statement
from segue.ports import Observed

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

# Running these twice is the same as running them once.
_REPEATABLE = ("VACUUM", "ANALYZE", "REINDEX", "CHECKPOINT", "CLUSTER", "REFRESH MATERIALIZED VIEW")

_INDEX = """
select i.indisvalid and i.indisready, i.indrelid::regclass::text,
    exists (select from pg_catalog.pg_stat_progress_create_index as p where p.index_relid = i.indexrelid)
from pg_catalog.pg_index as i
where i.indexrelid = pg_catalog.to_regclass(%s)
"""

_LEFTOVERS = """
select n.nspname, c.relname
from pg_catalog.pg_index as i
join pg_catalog.pg_class as c on c.oid = i.indexrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where i.indrelid = any(
        select o.indrelid from pg_catalog.pg_index as o where o.indexrelid = pg_catalog.to_regclass(%(name)s)
        union all select pg_catalog.to_regclass(%(table)s)
    )
    and not i.indisvalid and c.relname ~ '_cc(new|old)[0-9]*$'
"""


def visible(statement: Statement) -> bool:
    """Return whether the target shows afterwards that the statement took effect."""
    return statement.index is not None and statement.index.action in ("create", "drop")


def outcome(connection: psycopg.Connection[Any], statement: Statement) -> Observed:
    """Look whether a statement took effect."""
    index = statement.index
    if index is None:
        return Observed.NOT_DONE if statement.verb.startswith(_REPEATABLE) else Observed.CANNOT_TELL
    found = connection.execute(_INDEX.encode(), [index.name]).fetchone()
    if index.action == "drop":
        return Observed.DONE if found is None else Observed.NOT_DONE
    if index.action == "reindex":
        # Rebuilt or not looks the same from outside; doing it again does no harm.
        return Observed.NOT_DONE
    return Observed.DONE if found is not None and found[0] else Observed.NOT_DONE


def prepare(
    connection: psycopg.Connection[Any], statement: Statement, *, begun: bool, note: Callable[[str], None]
) -> None:
    """Remove an INVALID index that an interrupted build left under the name the statement is about to use.

    With IF NOT EXISTS the server would take such an index for the one wanted, and it would never be used.
    """
    index = statement.index
    if index is None or index.action == "drop":
        return
    if index.action == "reindex":
        for name in _leftovers(connection, index):
            note(f"removing the INVALID index {name.as_string(connection)} that an interrupted rebuild left behind")
            connection.execute(sql.SQL("drop index concurrently if exists {}").format(name))
        return
    found = connection.execute(_INDEX.encode(), [index.name]).fetchone()
    if found is None or (found[0] and not begun):
        return
    valid, table, building = found
    if building:
        raise Busy(
            f'another session is building the index "{index.name}" right now',
            hint="wait until it has ended, then run again",
        )
    if valid:
        return
    if index.table is not None and not same_table(connection, table, index.table):
        raise StepFailed(
            f'an INVALID index "{index.name}" stands on another table ({table})',
            hint="drop it if nobody needs it, or choose another name",
        )
    note(f'removing the INVALID index "{index.name}" that an interrupted build left behind')
    drop(connection, index.name)
    journal.point("invalid-index-dropped")


def clear_failure(connection: psycopg.Connection[Any], statement: Statement) -> bool:
    """After a failed statement, remove the INVALID index it left; return whether nothing of it is left."""
    index = statement.index
    if index is None:
        return statement.verb.startswith(_REPEATABLE)
    if index.action == "drop":
        # A failed DROP INDEX CONCURRENTLY leaves the index there, perhaps INVALID; dropping again finishes it.
        return False
    if index.action == "reindex":
        for name in _leftovers(connection, index):
            connection.execute(sql.SQL("drop index concurrently if exists {}").format(name))
        return True
    found = connection.execute(_INDEX.encode(), [index.name]).fetchone()
    if found is not None and not found[0] and not found[2]:
        drop(connection, index.name)
    return True


def drop(connection: psycopg.Connection[Any], name: str) -> None:
    """Drop an index without blocking anybody."""
    row = connection.execute("select pg_catalog.to_regclass(%s)::text", [name]).fetchone()
    if row and row[0]:
        # regclass text comes from the server, quoted and qualified
        connection.execute(b"drop index concurrently if exists " + row[0].encode())


def same_table(connection: psycopg.Connection[Any], one: str, other: str) -> bool:
    """Return whether two names are of the same table."""
    row = connection.execute(
        "select pg_catalog.to_regclass(%s) is not distinct from pg_catalog.to_regclass(%s)", [one, other]
    ).fetchone()
    return bool(row and row[0])


def _leftovers(connection: psycopg.Connection[Any], index: IndexBuild) -> list[sql.Identifier]:
    rows = connection.execute(_LEFTOVERS.encode(), {"name": index.name, "table": index.table}).fetchall()
    return [sql.Identifier(schema, name) for schema, name in rows]
