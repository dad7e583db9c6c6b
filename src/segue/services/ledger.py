"""Read the ledger, and check that nobody has changed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from segue.store.ledger import Problem
    from segue.store.tables.ledger import LedgerRow


def entries(
    session: Session, *, limit: int = 50, subject: str | None = None, action: str | None = None
) -> Sequence[LedgerRow]:
    """Return the newest entries, oldest of them first, optionally of one subject (its kind or id) or one action."""
    from sqlalchemy import or_, select

    from segue.store.tables.ledger import LedgerRow

    query = select(LedgerRow).order_by(LedgerRow.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(or_(LedgerRow.subject == subject, LedgerRow.subject_id == subject))
    if action is not None:
        query = query.where(LedgerRow.action == action)
    return list(reversed(session.scalars(query).all()))


def problems(session: Session) -> list[Problem]:
    """Return what is wrong with the chain of entries; empty when every entry is as it was written."""
    from segue.store import ledger

    return ledger.verify(session)
