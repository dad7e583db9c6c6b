"""Schema evolutions: what a version of a schema adds, changes and removes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, text
from sqlalchemy.orm import Mapped, mapped_column

from segue.model.vocabulary import EvolutionType
from segue.store.tables.columns import Id, Json, Row, index, one_of


class EvolutionRow(Row):
    """The way from one version of a schema to another."""

    __tablename__ = "schema_evolutions"
    __table_args__ = (
        index("from_version", "to_version"),
        index("evolution_type"),
        one_of("evolution_type", EvolutionType),
    )

    id: Mapped[Id]
    from_version: Mapped[str]
    to_version: Mapped[str]
    evolution_type: Mapped[str]
    added_tables: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    modified_tables: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    removed_tables: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    added_columns: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    modified_columns: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    removed_columns: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    added_indexes: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    removed_indexes: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    backward_compatible: Mapped[bool] = mapped_column(server_default=text("false"))
    forward_compatible: Mapped[bool] = mapped_column(server_default=text("false"))
    requires_data_migration: Mapped[bool] = mapped_column(server_default=text("false"))
    data_migration_script: Mapped[str | None]
    code_changes_required: Mapped[bool] = mapped_column(server_default=text("false"))
    deprecation_warnings: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
