"""Remembers a target's schema as Segue last left it, and names what changed since."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from segue.ports import Drift, EffectKey

if TYPE_CHECKING:
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
    unrecorded = connection.execute(_UNRECORDED, {"schema": schema, "execution": execution}).fetchone()
    if unrecorded and unrecorded[0]:
        return None
    return Drift(since=row[2], changes=differences(row[1], objects))


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return what changed between two readings, a line an object, at most 20 lines."""
    lines = [
        f"{name} {'appeared' if name not in before else 'is gone' if name not in after else 'changed'}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    rest = len(lines) - _LIMIT
    return lines if rest <= 0 else [*lines[:_LIMIT], f"and {rest} more"]
