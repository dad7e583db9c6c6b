"""The only way to change a status or phase: compare, set, and write it in the ledger, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from segue.errors import Busy
from segue.store import ledger
from segue.store.tables.columns import Row


class StaleState(Busy):
    """Somebody else has changed the record's status in the meantime."""

    code = "S076"


def advance(
    session: Session,
    row: Row,
    to: str,
    *,
    expecting: str | None = None,
    actor: str,
    detail: Mapping[str, Any] | None = None,
    **columns: Any,
) -> None:
    """Move a record's status (or phase) to `to`, if it still is `expecting` (by default: as it was loaded).

    Other columns given by name are set in the same statement. The ledger's entry, which has `from`, `to` and `detail`,
    commits or vanishes with it. The row is read again. Raises LifecycleError when `to` may not follow, StaleState when
    the record has another status by now.
    """
    cls = type(row)
    if cls.life is None:
        raise TypeError(f"{cls.__name__} has no status")
    attribute, lifecycle = cls.life
    session.flush()
    here = expecting if expecting is not None else getattr(row, attribute)
    lifecycle.check(here, to)
    status, key = getattr(cls, attribute), cls.__mapper__.attrs["id"].class_attribute
    identity = row.id  # type: ignore[attr-defined]  # every row with a life has an id
    changed = session.execute(
        update(cls)
        .where(key == identity, status == str(here))
        .values({status: str(to), **{getattr(cls, name): value for name, value in columns.items()}})
        .returning(key)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    session.refresh(row)
    if changed is None:
        raise StaleState(
            f'the {lifecycle.noun} is "{getattr(row, attribute)}" by now, not "{here}"',
            hint="somebody else works on it; look at it again",
        )
    ledger.append(
        session,
        actor=actor,
        action=str(to),
        subject=cls.__tablename__,
        subject_id=identity,
        detail={**(detail or {}), "from": str(here), "to": str(to)},
    )


def follow(session: Session, cls: type[Row], key: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Bring records that only follow what another database shows to that: many at once, without ledger entries.

    They are found by the columns of `key` and made where they are missing. For records that somebody moves, `advance`.
    """
    from sqlalchemy.dialects.postgresql import insert

    statement = insert(cls)
    kept = {"id", *key}
    session.execute(
        statement.on_conflict_do_update(
            index_elements=list(key),
            set_={name: statement.excluded[name] for name in rows[0] if name not in kept},
        ),
        list(rows),
    )
