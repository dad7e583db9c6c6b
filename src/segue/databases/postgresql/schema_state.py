"""Remembers a target's schema as Segue last left it, and names what changed since."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from segue.ports import Drift, EffectKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

_LIMIT = 20

# Effects that the recorded schema may lack: done after it, or begun by this execution and perhaps done since. Parts
# below zero are records of chunked work, which changes rows only.
_UNRECORDED = b"""
select exists (
    select from segue.history as h, segue.schema_state as s
    where s.schema = %(schema)s and h.part >= 0
        and (
            h.fingerprint_after is null and coalesce(h.done_at, h.begun_at) > s.at
            or h.state = 'begun' and h.execution = %(execution)s
        )
)
"""

_MOVES = b"""
select pg_catalog.format('%I.sequence', n.nspname) from pg_catalog.pg_namespace as n
where n.nspname ~ '^segue_move_[a-z0-9]+$'
    and pg_catalog.to_regclass(pg_catalog.format('%I.sequence', n.nspname)) is not null
"""


def read(connection: psycopg.Connection[Any], schema: str) -> dict[str, str]:
    """Return every object of the schema with a digest of its definition."""
    query = files("segue.databases.postgresql").joinpath("sql/schema_objects.sql").read_bytes()
    return dict(connection.execute(query, {"schema": schema}).fetchall())


def fingerprint(objects: dict[str, str]) -> str:
    """Return one digest of a whole schema."""
    text = "\n".join(f"{name}={digest}" for name, digest in sorted(objects.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def remember(connection: psycopg.Connection[Any], schema: str, key: EffectKey | None, execution: str) -> str:
    """Record the schema as it is; with `key`, as what that step left behind."""
    objects = read(connection, schema)
    now = fingerprint(objects)
    with connection.transaction():
        row = connection.execute(
            "select fingerprint from segue.schema_state where schema = %s for update", [schema]
        ).fetchone()
        # Written also when nothing changed: the time says which effects are in it.
        connection.execute(
            "insert into segue.schema_state (schema, fingerprint, objects, execution) values (%s, %s, %s, %s) "
            "on conflict (schema) do update set fingerprint = excluded.fingerprint, objects = excluded.objects, "
            "execution = excluded.execution, at = clock_timestamp()",
            [schema, now, json.dumps(objects), execution],
        )
        if key is not None:
            connection.execute(
                "update segue.history set fingerprint_before = %s, fingerprint_after = %s "
                "where execution = %s and step = %s and direction = %s and fingerprint_after is null",
                [row[0] if row else None, now, key.execution, key.step, key.direction],
            )
    return now


def drift(connection: psycopg.Connection[Any], schema: str, execution: str) -> Drift | None:
    """Compare the schema with what Segue last left; None when equal, never seen, or not to be told.

    Not to be told: a process died between an effect and the record of the schema it left. What the effect changed
    and what somebody else changed in that moment cannot be told apart, so the effect's own step decides. Only until
    the next record: an execution that was broken off and left alone must not hide drift for ever.
    """
    row = connection.execute(
        "select fingerprint, objects, to_char(at, 'YYYY-MM-DD HH24:MI:SS') || ' UTC' from segue.schema_state "
        "where schema = %s",
        [schema],
    ).fetchone()
    if row is None:
        return None
    objects = read(connection, schema)
    if fingerprint(objects) == row[0]:
        return None
    # A move that was cut off has perhaps limited its sequences; what it keeps of them says how they were.
    ours = _moving(connection, schema)
    left = {name: digest for name, digest in row[1].items() if name not in ours}
    if left == {name: digest for name, digest in objects.items() if name not in ours}:
        return None
    unrecorded = connection.execute(_UNRECORDED, {"schema": schema, "execution": execution}).fetchone()
    if unrecorded and unrecorded[0]:
        return None
    return Drift(since=row[2], changes=differences(left, {n: d for n, d in objects.items() if n not in ours}))


def _moving(connection: psycopg.Connection[Any], schema: str) -> set[str]:
    """Return the sequences that moves limit."""
    found: set[str] = set()
    for (table,) in connection.execute(_MOVES).fetchall():
        names = connection.execute(
            f"select 'sequence ' || c.relname from {table} as s "  # noqa: S608
            "join pg_catalog.pg_class as c on c.oid = pg_catalog.to_regclass(s.name) "
            "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace where n.nspname = %s".encode(),
            [schema],
        ).fetchall()
        found |= {name for (name,) in names}
    return found


def adopt(connection: psycopg.Connection[Any], sequences: Sequence[str]) -> None:
    """Take sequences as they are into what Segue last left; what else changed meanwhile stays somebody else's.

    A move limits the sequences of the side that closes, and gives them their limits back, outside of any execution.
    """
    row = connection.execute("select pg_catalog.to_regclass('segue.schema_state') is not null").fetchone()
    if row is None or not row[0]:
        return
    with connection.transaction():
        owned = connection.execute(
            "select n.nspname::text, pg_catalog.array_agg('sequence ' || c.relname) from pg_catalog.pg_class as c "
            "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace "
            "where c.oid = any(%s::regclass[]) group by n.nspname",
            [list(sequences)],
        ).fetchall()
        for schema, names in owned:
            kept = connection.execute(
                "select objects from segue.schema_state where schema = %s for update", [schema]
            ).fetchone()
            if kept is None:
                continue
            now = read(connection, schema)
            objects = {name: now.get(name, digest) if name in names else digest for name, digest in kept[0].items()}
            connection.execute(
                "update segue.schema_state set fingerprint = %s, objects = %s where schema = %s",
                [fingerprint(objects), json.dumps(objects), schema],
            )


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return what changed between two readings, a line an object, at most 20 lines."""
    lines = [
        f"{name} {'appeared' if name not in before else 'is gone' if name not in after else 'changed'}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    rest = len(lines) - _LIMIT
    return lines if rest <= 0 else [*lines[:_LIMIT], f"and {rest} more"]
