"""Limit how much may run at a time over all workers of the store, and say whether there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import InvalidInput
from segue.model.vocabulary import WorkQueue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from segue.settings import Settings

#: More than anybody means.
MOST = 1_000_000

# "segueli" in ASCII: whoever looks whether there is room holds this advisory lock until what it takes is written.
_LOCK = 0x73656775656C69


def listed(session: Session) -> dict[WorkQueue, int | None]:
    """Return the limits, None where there is none."""
    from sqlalchemy import select

    from segue.store.tables.limits import LimitRow

    kept = {row.name: row.most for row in session.scalars(select(LimitRow))}
    return {queue: kept.get(queue.value) for queue in WorkQueue}


def change(session: Session, settings: Settings, wanted: Mapping[WorkQueue, int | None]) -> None:
    """Set limits; None takes one away. What runs already is left to end; 0 begins nothing new. Raises InvalidInput."""
    from sqlalchemy import func

    from segue.store import ledger
    from segue.store.tables.limits import LimitRow

    hold(session)
    for queue, most in wanted.items():
        if most is not None and not 0 <= most <= MOST:
            raise InvalidInput(f"{most} is no limit of {queue}", hint=f"0 to {MOST}, or none")
        row = session.get(LimitRow, queue.value)
        before = row.most if row is not None else None
        if before == most:
            continue
        if row is None:
            session.add(LimitRow(name=queue.value, most=most, set_by=settings.user))
        elif most is None:
            session.delete(row)
        else:
            row.most, row.set_by = most, settings.user
            row.set_at = func.clock_timestamp()
        ledger.append(
            session,
            actor=settings.user,
            action="limit-set" if most is not None else "limit-removed",
            subject="limits",
            subject_id=queue.value,
            detail={"from": before, "to": most},
        )


def hold(session: Session) -> None:
    """Let nobody else look whether there is room until this transaction ends. Raises Busy after five seconds."""
    from sqlalchemy import text

    # A process that is stopped right here would keep all workers from all work; the server ends its session instead.
    session.execute(
        text(
            "SELECT set_config('lock_timeout', '5s', true),"
            " set_config('idle_in_transaction_session_timeout', '3s', true)"
        )
    )
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
