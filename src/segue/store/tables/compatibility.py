"""Which API version works with which schema version, and what is deprecated."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, text
from sqlalchemy.orm import Mapped, mapped_column

from segue.model import lifecycles
from segue.model.vocabulary import ElementType
from segue.store.tables.columns import Id, Json, Row, index, one_of, unique


class ApiCompatibilityRow(Row):
    """An API version and a schema version that belong together."""

    __tablename__ = "api_compatibility"
    __table_args__ = (
        unique("api_version", "schema_version"),
        index("is_supported", "support_end_date"),
    )

    id: Mapped[Id]
    api_version: Mapped[str]
    schema_version: Mapped[str]
    compatible_with: Mapped[Json]  # array of compatible versions
    field_mappings: Mapped[Json]  # old field -> new field mappings
    deprecated_fields: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    deprecation_date: Mapped[datetime | None]
    removal_date: Mapped[datetime | None]
    migration_guide: Mapped[str | None]
    is_supported: Mapped[bool] = mapped_column(server_default=text("true"))
    support_end_date: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class DeprecationRow(Row):
    """A table, column, index or constraint that will go."""

    __tablename__ = "schema_deprecations"
    __table_args__ = (
        index("element_type", "status"),
        index("removal_date", "status"),
        one_of("element_type", ElementType),
        one_of("status", lifecycles.DEPRECATION.words),
    )
    life = ("status", lifecycles.DEPRECATION)

    id: Mapped[Id]
    element_type: Mapped[str]
    element_name: Mapped[str]
    table_name: Mapped[str | None]
    reason: Mapped[str]
    replacement: Mapped[str | None]
    migration_path: Mapped[str | None]
    deprecated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    warning_period: Mapped[int] = mapped_column(server_default=text("90"))  # days
    removal_date: Mapped[datetime]
    has_warnings: Mapped[bool] = mapped_column(server_default=text("true"))
    notifications_sent: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    status: Mapped[str] = mapped_column(server_default="deprecated")
    removed_at: Mapped[datetime | None]
