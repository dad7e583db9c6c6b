"""Take Segue's schema out of a target, when nobody needs it any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import fence
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain
from segue.databases.postgresql.lease import Lease
from segue.databases.postgresql.online.slots import COMMENT
from segue.errors import Blocked
from segue.model.cleaning import Cleaned
from segue.model.urls import place

if TYPE_CHECKING:
    import psycopg

#: How long one table's lock is waited for; the tables are Segue's own, so nobody else should hold them.
PATIENCE = "5s"

_TRIGGERS = """
    SELECT format('trigger "%s" on %s', t.tgname, t.tgrelid::regclass)
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE p.pronamespace = 'segue'::regnamespace AND NOT t.tgisinternal
    ORDER BY 1
"""

_RELATIONS = """
    SELECT relkind::text, relname
    FROM pg_class c
    WHERE relnamespace = 'segue'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S') AND NOT relispartition
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0)
    ORDER BY relname
"""

#: What support.sql makes. A role named like the schema has it first in its own search_path, so that tables of the
#: application's may have been made here by mistake: those are not ours to drop.
OWN = frozenset(
    {"lease", "history", "history_id_seq", "chunk", "batch", "work", "labourer", "schema_state", "fence"}
    | {"change", "conflict", "verified"}
)

_CHANGES = """
    SELECT format('%s of step "%s" (execution %s)', c.phase, c.step, c.execution)
    FROM segue.change c WHERE c.ended_at IS NULL AND c.strategy <> 'native-online' ORDER BY c.created_at
"""

# Asked once the schema is gone: what goes on keeps its state there, so these belong to nothing any more. A slot that is
# read is somebody's.
_SLOTS = """
    SELECT slot_name::text FROM pg_catalog.pg_replication_slots
    WHERE database = pg_catalog.current_database() AND slot_type = 'logical' AND slot_name ~ '^segue_[a-z0-9]+$'
      AND NOT active AND pg_catalog.to_regnamespace('segue') IS NULL
    ORDER BY 1
"""
_PUBLICATIONS = """
    SELECT pubname::text FROM pg_catalog.pg_publication
    WHERE pg_catalog.obj_description(oid, 'pg_publication') = %s AND pg_catalog.to_regnamespace('segue') IS NULL
    ORDER BY 1
"""
_LEFT = """
    SELECT pg_catalog.format('schema %I with %s tables', n.nspname,
        (SELECT count(*) FROM pg_catalog.pg_class AS c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')))
    FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname ~ '^segue_[a-z0-9]+_(new|old)$' AND pg_catalog.to_regnamespace('segue') IS NULL
    UNION ALL
    SELECT pg_catalog.format('trigger %I on %s', t.tgname, t.tgrelid::regclass)
    FROM pg_catalog.pg_trigger AS t
    WHERE t.tgname ~ '^segue_[a-z0-9]+_' AND NOT t.tgisinternal AND t.tgparentid = 0
      AND pg_catalog.to_regnamespace('segue') IS NULL
    ORDER BY 1
"""

#: What `pg_class.relkind` calls them and what DROP does, in the order in which they can go.
KINDS = (("m", "MATERIALIZED VIEW"), ("v", "VIEW"), ("rp", "TABLE"), ("S", "SEQUENCE"))

_ROUTINES = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'segue'::regnamespace ORDER BY 1"


def clean(url: str, *, holder: str, export: Callable[[list[dict[str, Any]]], None]) -> Cleaned:
    """Remove the schema `segue`, after `export` has kept its history, and slots and publications that nothing needs.

    Raises Busy while an execution holds the lease, and Blocked when a fence is armed or something outside the schema
    needs it: nothing but Segue's own objects is ever dropped.
    """
    import psycopg

    try:
        with open_session(url, application="segue clean") as connection:
            if not _value(connection, "SELECT to_regnamespace('segue') IS NOT NULL"):
                return _remains(connection, schema=False)
            lease = Lease(url, execution="clean", holder=holder)
            try:
                fence.clear(connection, url)
                _refuse_changes(connection)
                _refuse_armed(connection)
                export(_history(connection))
                # The heartbeat writes to a table that goes now; the lock stays until the end.
                lease.pause()
                _drop(connection)
            finally:
                lease.close()
            return _remains(connection, schema=True)
    except psycopg.Error as error:
        raise explain(error, place(url)) from error


def _remains(connection: psycopg.Connection[Any], *, schema: bool) -> Cleaned:
    """Drop what keeps the server's log back or publishes tables for nobody, and name what may hold rows."""
    import psycopg
    from psycopg import sql

    dropped, left = [], []
    for (name,) in connection.execute(_SLOTS).fetchall():
        try:
            connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", [name])
        except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
            continue  # somebody reads it, or was quicker
        except psycopg.errors.InsufficientPrivilege:
            left.append(f"replication slot {name}, which only a role with REPLICATION can drop")
            continue
        dropped.append(f"replication slot {name}")
    for (name,) in connection.execute(_PUBLICATIONS, [COMMENT]).fetchall():
        try:
            connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            left.append(f"publication {name}, which only its owner can drop")
            continue
        dropped.append(f"publication {name}")
    left += [row[0] for row in connection.execute(_LEFT).fetchall()]
    return Cleaned(schema, tuple(dropped), tuple(left))


def _refuse_changes(connection: psycopg.Connection[Any]) -> None:
    if not _value(connection, "SELECT to_regclass('segue.change') IS NOT NULL"):
        return
    standing = [row[0] for row in connection.execute(_CHANGES).fetchall()]
    if standing:
        raise Blocked(
            f"{len(standing)} online changes are under way or can still be taken back",
            details=standing,
            hint="`segue change cleanup CHANGE --env ENV --now` ends the way back of one that is swapped; "
            "`segue rollback EXECUTION` takes one back",
        )


def _refuse_armed(connection: psycopg.Connection[Any]) -> None:
    triggers = [row[0] for row in connection.execute(_TRIGGERS).fetchall()]
    if triggers:
        raise Blocked(
            f"{len(triggers)} of Segue's triggers are still on the application's tables",
            details=triggers,
            hint="finish or cancel what uses them first",
        )


def _history(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    if not _value(connection, "SELECT to_regclass('segue.history') IS NOT NULL"):
        return []
    # The statements themselves stay behind: they are in the plan, and the ledger keeps a line for each.
    rows = connection.execute("SELECT to_jsonb(h) - 'statement' FROM segue.history h ORDER BY id").fetchall()
    return [row[0] for row in rows]


def _drop(connection: psycopg.Connection[Any]) -> None:
    import psycopg
    from psycopg import sql

    relations = connection.execute(_RELATIONS).fetchall()
    foreign = [f"segue.{name}" for _, name in relations if name not in OWN]
    if foreign:
        raise Blocked(
            f'the schema "segue" holds {len(foreign)} objects that Segue did not make',
            details=foreign,
            hint="move them elsewhere (ALTER TABLE … SET SCHEMA public) or drop them first",
        )
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [PATIENCE])
            for kinds, word in KINDS:
                names = [sql.Identifier("segue", name) for found, name in relations if found in kinds]
                if names:
                    connection.execute(sql.SQL("DROP {} {} RESTRICT").format(sql.SQL(word), sql.SQL(", ").join(names)))
            for (routine,) in connection.execute(_ROUTINES).fetchall():
                # regprocedure prints the name quoted, with its argument types, as DROP takes it.
                connection.execute(sql.SQL("DROP ROUTINE {} RESTRICT").format(sql.SQL(routine)))
            connection.execute("DROP SCHEMA segue RESTRICT")
    except psycopg.errors.DependentObjectsStillExist as error:
        raise Blocked(
            'something outside the schema "segue" needs it',
            details=(error.diag.message_detail or "").splitlines(),
            hint="remove these objects first",
        ) from error


def _value(connection: psycopg.Connection[Any], query: Any) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None
