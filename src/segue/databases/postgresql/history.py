"""What was done to a target, kept in the target: one row an effect, written with the effect or around it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from segue.ports import EffectKey, Observed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

_BEGIN = b"""
insert into segue.history (execution, plan, plan_hash, step, direction, part, state, fence, statement, detail, done_at)
values (%(execution)s, %(plan)s, %(plan_hash)s, %(step)s, %(direction)s, %(part)s, %(state)s, %(fence)s, %(statement)s,
    %(detail)s, case when %(state)s = 'done' then clock_timestamp() end)
on conflict (execution, step, direction, part) do nothing
"""


def write(
    connection: psycopg.Connection[Any],
    key: EffectKey,
    *,
    fence: int,
    state: str,
    statement: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> bool:
    """Write the row of an effect; return False when it is there already."""
    return (
        connection.execute(
            _BEGIN,
            {
                "execution": key.execution,
                "plan": key.plan,
                "plan_hash": key.plan_hash,
                "step": key.step,
                "direction": key.direction,
                "part": key.part,
                "state": state,
                "fence": fence,
                "statement": statement,
                "detail": json.dumps(detail or {}),
            },
        ).rowcount
        == 1
    )


def begin(connection: psycopg.Connection[Any], key: EffectKey, *, fence: int, statement: str) -> None:
    """Say that an effect is begun, under this fence, unless it is done; one that was begun before is begun again."""
    if not write(connection, key, fence=fence, state="begun", statement=statement):
        connection.execute(
            "update segue.history set fence = %s, begun_at = clock_timestamp(), fingerprint_after = null "
            "where execution = %s and step = %s and direction = %s and part = %s and state = 'begun'",
            [fence, key.execution, key.step, key.direction, key.part],
        )


def begun(connection: psycopg.Connection[Any], key: EffectKey) -> int | None:
    """Return under which fence an effect was begun, if it is not done."""
    row = connection.execute(
        "select fence from segue.history where execution = %s and step = %s and direction = %s and part = %s "
        "and state = 'begun'",
        [key.execution, key.step, key.direction, key.part],
    ).fetchone()
    return row[0] if row else None


def finish(connection: psycopg.Connection[Any], key: EffectKey) -> None:
    """Say that an effect that was begun is done."""
    connection.execute(
        "update segue.history set state = 'done', done_at = clock_timestamp() "
        "where execution = %s and step = %s and direction = %s and part = %s",
        [key.execution, key.step, key.direction, key.part],
    )


def forget(connection: psycopg.Connection[Any], key: EffectKey) -> None:
    """Take back the row of an effect that was begun and did not take place."""
    connection.execute(
        "delete from segue.history where execution = %s and step = %s and direction = %s and part = %s "
        "and state = 'begun'",
        [key.execution, key.step, key.direction, key.part],
    )


def erase(connection: psycopg.Connection[Any], key: EffectKey) -> bool:
    """Take out the row of an effect that is taken back in the same transaction; return whether it was done."""
    return (
        connection.execute(
            "delete from segue.history where execution = %s and step = %s and direction = %s and part = %s "
            "and state = 'done'",
            [key.execution, key.step, key.direction, key.part],
        ).rowcount
        == 1
    )


def state(connection: psycopg.Connection[Any], key: EffectKey) -> str | None:
    """Return `begun`, `done` or None."""
    row = connection.execute(
        "select state from segue.history where execution = %s and step = %s and direction = %s and part = %s",
        [key.execution, key.step, key.direction, key.part],
    ).fetchone()
    return row[0] if row else None


def parts(connection: psycopg.Connection[Any], execution: str, step: str, direction: str) -> dict[int, Observed]:
    """Return the parts of a step that were begun or done."""
    rows = connection.execute(
        "select part, state from segue.history where execution = %s and step = %s and direction = %s",
        [execution, step, direction],
    ).fetchall()
    return {part: Observed.DONE if word == "done" else Observed.CANNOT_TELL for part, word in rows}
