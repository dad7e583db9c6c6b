"""Says beforehand how tables would be changed online: the strategy, the tables that go along, and every lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import parse
from segue.databases.postgresql.keys import KEYS
from segue.databases.postgresql.online import choosing, keygraph
from segue.databases.postgresql.relations import quoted
from segue.errors import StepFailed
from segue.model.online import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from segue.model.impact import Statement
    from segue.model.online import ChangeSpec

    Connection = psycopg.Connection[Any]

# The top of each table's tree, as it is written without doubt, and what its foreign keys lead to or come from.
_NAMED = """
select c.oid::bigint, n.nspname, c.relname from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where c.oid = pg_catalog.to_regclass(%s)
"""
_NEIGHBOURS = """
select distinct on (o.oid) n.nspname, o.relname, k.conname
from pg_catalog.pg_constraint as k
join pg_catalog.pg_class as o on o.oid = case when k.conrelid = any(%(tables)s) then k.confrelid else k.conrelid end
join pg_catalog.pg_namespace as n on n.oid = o.relnamespace
where k.contype = 'f' and k.conparentid = 0 and (k.conrelid = any(%(tables)s) or k.confrelid = any(%(tables)s))
    and o.oid <> all(%(tables)s)
order by o.oid, k.conname
"""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """How a change would be done: what is sent, or for a copy the locks that are taken.

    `why` says for each why its table is touched, where the plan does not name it; `copied` are the numbers of those
    whose tables are copied. `refused`: why it cannot be done.
    """

    strategy: str
    reasons: tuple[str, ...]
    statements: tuple[Statement, ...]
    why: tuple[str, ...]
    copied: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()


def foresee(connection: Connection, spec: ChangeSpec, schema: str, statements: Sequence[Statement]) -> Foreseen | None:
    """Look how a change would be done; None where one of its tables is not there yet. `statements`: as predicted."""
    if any(_named(connection, change.table) is None for change in spec.tables):
        return None
    try:
        wider, reasons = keygraph.widen(connection, spec)
        choice = choosing.look(connection, wider, schema)
    except StepFailed as error:
        why = tuple(map(readable, (error.message, *error.details)))
        return Foreseen(spec.strategy, (), tuple(statements), ("",) * len(statements), refused=why)
    reasons = [*map(readable, (*reasons, *choice.reasons))]
    if choice.native:
        sent = parse.statements(";\n".join(choice.native))
        return Foreseen(choice.strategy, tuple(reasons), tuple(sent), ("",) * len(sent))
    return _copied(connection, choice.strategy, reasons, [change.table for change in wider.tables], len(spec.tables))


def _copied(connection: Connection, strategy: str, reasons: Sequence[str], tables: Sequence[str], own: int) -> Foreseen:
    """Return the locks of a copy: for the triggers, and in the swap on its tables and on those beside them."""
    found = [place for table in tables if (place := _named(connection, table)) is not None]
    locks: list[tuple[str, str, str]] = []
    refused = []
    for number, (_, schema, bare) in enumerate(found):
        name = f"{quoted(schema)}.{quoted(bare)}"
        why = "" if number < own else "its foreign key goes along"
        if strategy != choosing.GHOST:
            locks.append((name, "SHARE ROW EXCLUSIVE", why))
        locks.append((name, "ACCESS EXCLUSIVE", why))
        if connection.execute(KEYS.encode(), {"table": name}).fetchone() is None:
            refused.append(f"{name} has neither a primary key nor a unique index over columns that are NOT NULL")
    copied = tuple(at for at, (_, mode, _) in enumerate(locks) if mode == "ACCESS EXCLUSIVE")
    oids = [oid for oid, _, _ in found]
    for schema, bare, key in connection.execute(_NEIGHBOURS.encode(), {"tables": oids}).fetchall():
        locks.append((f"{quoted(schema)}.{quoted(bare)}", "ACCESS EXCLUSIVE", f"in the swap, for {quoted(key)}"))
    sent = parse.statements(";\n".join(f"LOCK TABLE {name} IN {mode} MODE" for name, mode, _ in locks))
    return Foreseen(strategy, tuple(reasons), tuple(sent), tuple(why for _, _, why in locks), copied, tuple(refused))


def _named(connection: Connection, table: str) -> tuple[int, str, str] | None:
    row = connection.execute(_NAMED.encode(), [table]).fetchone()
    return (int(row[0]), str(row[1]), str(row[2])) if row is not None else None
