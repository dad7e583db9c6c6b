"""Online schema changes and their shadow tables."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model import lifecycles
from segue.model.vocabulary import ImpactLevel, OnlineStrategy, ShadowPurpose
from segue.store.tables.columns import BigInt, Id, Json, Row, index, one_of, refers, unique


class OnlineChangeRow(Row):
    """An online change of one table."""

    __tablename__ = "online_schema_changes"
    __table_args__ = (
        index("phase", "started_at"),
        index("table_name", "phase"),
        index("execution_id", "step_name"),
        one_of("strategy", OnlineStrategy),
        one_of("impact_level", ImpactLevel),
        one_of("phase", lifecycles.ONLINE_CHANGE.words),
    )
    life = ("phase", lifecycles.ONLINE_CHANGE)

    id: Mapped[Id]
    change_name: Mapped[str] = mapped_column(unique=True)
    change_type: Mapped[str]  # add-column, modify-column, add-index, etc.
    table_name: Mapped[str]
    column_name: Mapped[str | None]
    index_name: Mapped[str | None]
    change_spec: Mapped[Json]
    strategy: Mapped[str]
    phase: Mapped[str] = mapped_column(server_default="pending")
    progress_percent: Mapped[float] = mapped_column(server_default=text("0"))
    rows_copied: Mapped[BigInt] = mapped_column(server_default=text("0"))
    total_rows: Mapped[BigInt | None]
    impact_level: Mapped[str]
    throttling: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))  # throttling configuration
    started_at: Mapped[datetime | None]
    estimated_completion: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    performance_metrics: Mapped[Json | None]
    execution_id: Mapped[str | None] = mapped_column(
        refers("migration_executions.id", "CASCADE"), comment="segue: the execution that this change belongs to"
    )
    step_name: Mapped[str | None] = mapped_column(comment="segue: the step that this change belongs to")

    shadows: Mapped[list[ShadowTableRow]] = relationship(
        back_populates="change", passive_deletes="all", order_by="ShadowTableRow.original_table"
    )


class ShadowTableRow(Row):
    """A table that is kept beside an original."""

    __tablename__ = "shadow_tables"
    __table_args__ = (
        unique("original_table", "shadow_table"),
        index("is_active", "syncStatus"),
        index("marked_for_cleanup"),
        index("change_id"),
        one_of("purpose", ShadowPurpose),
        one_of("syncStatus", lifecycles.SHADOW_SYNC.words),
    )
    life = ("sync_status", lifecycles.SHADOW_SYNC)

    id: Mapped[Id]
    original_table: Mapped[str]
    shadow_table: Mapped[str]
    migration_id: Mapped[str]
    purpose: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    sync_status: Mapped[str] = mapped_column("syncStatus", server_default="syncing")
    last_sync_at: Mapped[datetime | None]
    checksum_original: Mapped[str | None]
    checksum_shadow: Mapped[str | None]
    row_count_original: Mapped[BigInt | None]
    row_count_shadow: Mapped[BigInt | None]
    retention_days: Mapped[int] = mapped_column(server_default=text("7"))
    marked_for_cleanup: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    change_id: Mapped[str | None] = mapped_column(
        refers("online_schema_changes.id", "CASCADE"), comment="segue: the change that this table was made for"
    )

    change: Mapped[OnlineChangeRow | None] = relationship(back_populates="shadows")
