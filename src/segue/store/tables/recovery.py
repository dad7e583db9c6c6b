"""Point-in-time recoveries."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from segue.model import lifecycles
from segue.model.vocabulary import RecoveryType
from segue.store.tables.columns import Id, Json, Row, index, one_of


class RecoveryRow(Row):
    """A recovery to a moment in the past."""

    __tablename__ = "point_in_time_recovery"
    __table_args__ = (
        index("status", "target_timestamp"),
        one_of("recovery_type", RecoveryType),
        one_of("status", lifecycles.RECOVERY.words),
    )
    life = ("status", lifecycles.RECOVERY)

    id: Mapped[Id]
    recovery_name: Mapped[str] = mapped_column(unique=True)
    target_timestamp: Mapped[datetime]
    reason: Mapped[str]
    trigger_event: Mapped[str | None]
    affected_tables: Mapped[Json]
    recovery_type: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="planned")
    consistency_checks: Mapped[Json]
    estimated_downtime: Mapped[int | None]  # minutes
    actual_downtime: Mapped[int | None]  # minutes
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
