"""Environments: the databases that plans run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model.vocabulary import DataSize, EnvironmentType, Level, Mode
from segue.store.tables.columns import Id, Json, Row, index, one_of

if TYPE_CHECKING:
    from segue.store.tables.executions import ExecutionRow


class EnvironmentRow(Row):
    """A database that plans run on."""

    __tablename__ = "environments"
    __table_args__ = (
        index("type", "is_active"),
        one_of("type", EnvironmentType),
        one_of("data_size", DataSize),
        one_of("traffic_level", Level),
        one_of("deployment_type", Mode),
    )

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str]
    description: Mapped[str | None]
    database_url: Mapped[str]  # encrypted
    schema_name: Mapped[str]
    data_size: Mapped[str]
    traffic_level: Mapped[str]
    deployment_type: Mapped[str]
    maintenance_window: Mapped[str | None]  # e.g., "Sunday 2-4 AM UTC"
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    last_migration: Mapped[str | None]
    schema_version: Mapped[str | None]
    promotion_order: Mapped[int | None] = mapped_column(comment="segue: place in a promotion, lowest first")
    url_hint: Mapped[str | None] = mapped_column(
        comment="segue: host and database of the URL, without user and password"
    )
    measured: Mapped[Json | None] = mapped_column(comment="segue: size, traffic and server version when last reached")
    identity: Mapped[Json | None] = mapped_column(
        comment="segue: which server and database the URL led to: system identifier, oid, name"
    )
    checked: Mapped[Json | None] = mapped_column(comment="segue: what the last check found, and the replicas to expect")
    max_slots: Mapped[int | None] = mapped_column(comment="segue: most copy slots at a time; null: no limit")

    executions: Mapped[list[ExecutionRow]] = relationship(back_populates="environment", passive_deletes="all")
