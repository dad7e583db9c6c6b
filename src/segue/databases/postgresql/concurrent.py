"""Statements that must run outside a transaction: what they left behind, and how that is healed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.engine import journal
from segue.errors import Busy, StepFailed
from segue.model.impact import IndexBuild, Statement
from segue.ports import Observed

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

# Running these twice is the same as running them once.
_REPEATABLE = ("VACUUM", "ANALYZE", "REINDEX", "CHECKPOINT", "CLUSTER", "REFRESH MATERIALIZED VIEW")

# An index stands in its table's schema, wherever the search_path would look for its name first. A build by another
# role shows in no progress view, but by the lock that it holds on the table; autovacuum, which holds the same one, has
# no user.
_INDEX = """
select i.indisvalid and i.indisready, i.indrelid::regclass::text,
    exists (
        select from pg_catalog.pg_locks as l left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
        where l.locktype = 'relation' and l.relation = i.indrelid and l.mode = 'ShareUpdateExclusiveLock' and l.granted
            and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
            and l.pid <> pg_catalog.pg_backend_pid() and a.usesysid is not null
            and coalesce(a.backend_type <> 'autovacuum worker', true)
    ),
    c.oid::regclass::text, i.indrelid = t.oid
from pg_catalog.pg_class as c
join pg_catalog.pg_index as i on i.indexrelid = c.oid
left join pg_catalog.pg_class as t on t.oid = pg_catalog.to_regclass(%(table)s)
where case
        when t.oid is null then c.oid = pg_catalog.to_regclass(%(name)s)
        else c.relnamespace = t.relnamespace
            and c.relname = (pg_catalog.parse_ident(%(name)s))[array_length(pg_catalog.parse_ident(%(name)s), 1)]::name
    end
"""

_LEFTOVERS = """
select c.oid::regclass::text
from pg_catalog.pg_index as i
join pg_catalog.pg_class as c on c.oid = i.indexrelid
where i.indrelid = coalesce(
        (select o.indrelid from pg_catalog.pg_index as o where o.indexrelid = pg_catalog.to_regclass(%(name)s::text)),
        pg_catalog.to_regclass(%(table)s::text)
    )
    and not i.indisvalid and c.relname ~ '_cc(new|old)[0-9]*$'
"""

_DETACH = "ALTER TABLE DETACH PARTITION CONCURRENTLY"
_PENDING = """
select h.inhdetachpending from pg_catalog.pg_inherits as h
where h.inhparent = pg_catalog.to_regclass(%s) and h.inhrelid = pg_catalog.to_regclass(%s)
"""


def visible(statement: Statement) -> bool:
    """Return whether the target shows afterwards that the statement took effect."""
    return statement.index is not None and statement.index.action in ("create", "drop")


def outcome(connection: psycopg.Connection[Any], statement: Statement) -> Observed:
    """Look whether a statement took effect."""
    index = statement.index
    if statement.verb == _DETACH:
        return Observed.DONE if _pending(connection, statement) is None else Observed.NOT_DONE
    if index is None:
        return Observed.NOT_DONE if statement.verb.startswith(_REPEATABLE) else Observed.CANNOT_TELL
    found = _find(connection, index)
    if index.action == "drop":
        return Observed.DONE if found is None else Observed.NOT_DONE
    if index.action == "reindex":
        # Rebuilt or not looks the same from outside; doing it again does no harm.
        return Observed.NOT_DONE
    return Observed.DONE if found is not None and found[0] else Observed.NOT_DONE


def prepare(connection: psycopg.Connection[Any], statement: Statement, *, note: Callable[[str], None]) -> bool:
    """Take away what an interrupted attempt left in the statement's way; True when the effect is there with that.

    With IF NOT EXISTS the server would take an INVALID index for the one wanted, and it would never be used.
    """
    index = statement.index
    if statement.verb == _DETACH and _pending(connection, statement):
        note("finishing the DETACH that was interrupted")
        parent, partition = (_written(connection, held.table) for held in statement.locks)
        connection.execute(b"alter table " + parent + b" detach partition " + partition + b" finalize")
        return True
    if index is None or index.action != "create":
        for name in _leftovers(connection, statement):
            note(f"removing the INVALID index {name} that an interrupted rebuild left behind")
            _drop(connection, name)
        return False
    found = _find(connection, index)
    if found is None or found[0]:
        return False
    _, table, building, name, same = found
    if building:
        raise Busy(
            f'another session is building the index "{index.name}" right now',
            hint="wait until it has ended, then run again",
        )
    if not same and index.table is not None:
        raise StepFailed(
            f'an INVALID index "{index.name}" stands on another table ({table})',
            hint="drop it if nobody needs it, or choose another name",
        )
    note(f'removing the INVALID index "{index.name}" that an interrupted build left behind')
    _drop(connection, name)
    journal.point("invalid-index-dropped")
    return False


def clear_failure(connection: psycopg.Connection[Any], statement: Statement) -> bool:
    """After the server refused a statement, remove what it left; return whether nothing of it is left."""
    index = statement.index
    if statement.verb == _DETACH:
        return not _pending(connection, statement)
    if index is None or index.action == "reindex":
        for name in _leftovers(connection, statement):
            _drop(connection, name)
        return True
    if index.action == "drop":
        # A failed DROP INDEX CONCURRENTLY leaves the index there, perhaps INVALID; dropping again finishes it.
        return False
    found = _find(connection, index)
    # On another table, or being built: the statement failed because of it, and did not leave it.
    if found is not None and not found[0] and not found[2] and found[4]:
        _drop(connection, found[3])
    return True


def _find(connection: psycopg.Connection[Any], index: IndexBuild) -> tuple[bool, str, bool, str, bool] | None:
    """Return whether an index is valid, its table, whether somebody builds it, its name, whether the table is right."""
    # The name of an index to drop or rebuild is looked up as the statement will: along the search_path.
    table = index.table if index.action == "create" else None
    return connection.execute(_INDEX.encode(), {"name": index.name, "table": table}).fetchone()


def _drop(connection: psycopg.Connection[Any], name: str) -> None:
    # regclass text comes from the server, quoted and qualified
    connection.execute(b"drop index concurrently if exists " + name.encode())


def _leftovers(connection: psycopg.Connection[Any], statement: Statement) -> list[str]:
    """Return the INVALID indexes that interrupted rebuilds left on the table that a statement rebuilds, as SQL."""
    if not statement.verb.startswith("REINDEX") or not statement.verb.endswith("CONCURRENTLY"):
        return []
    index = statement.index
    table = next((held.table for held in statement.locks if held.known), None) if index is None else index.table
    found = connection.execute(_LEFTOVERS.encode(), {"name": index.name if index else None, "table": table}).fetchall()
    return [name for (name,) in found]


def _pending(connection: psycopg.Connection[Any], statement: Statement) -> bool | None:
    """Return whether a partition hangs between attached and detached; None when it is no partition any more."""
    row = connection.execute(_PENDING.encode(), [held.table for held in statement.locks]).fetchone()
    return None if row is None else row[0]


def _written(connection: psycopg.Connection[Any], table: str) -> bytes:
    """Return a table's name as the server writes it."""
    row = connection.execute("select pg_catalog.to_regclass(%s)::text", [table]).fetchone()
    return str(row[0] if row else table).encode()
