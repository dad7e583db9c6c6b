"""Blue-green deployments."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from segue.model import lifecycles
from segue.model.vocabulary import Colour, SwitchStrategy
from segue.store.tables.columns import Id, Json, Row, index, one_of


class BlueGreenRow(Row):
    """A blue-green deployment."""

    __tablename__ = "blue_green_deployments"
    __table_args__ = (
        index("deployment_phase"),
        index("current_active"),
        one_of("current_active", Colour),
        one_of("switch_strategy", SwitchStrategy),
        one_of("deployment_phase", lifecycles.DEPLOYMENT.words),
    )
    life = ("deployment_phase", lifecycles.DEPLOYMENT)

    id: Mapped[Id]
    deployment_name: Mapped[str] = mapped_column(unique=True)
    version: Mapped[str]
    blue_environment: Mapped[str]  # current live environment
    green_environment: Mapped[str]  # new deployment environment
    migration_plan_id: Mapped[str]
    current_active: Mapped[str]
    deployment_phase: Mapped[str]
    switch_strategy: Mapped[str]
    traffic_split: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))  # for gradual switching
    prepared_at: Mapped[datetime | None]
    switched_at: Mapped[datetime | None]
    validated_at: Mapped[datetime | None]
    can_rollback: Mapped[bool] = mapped_column(server_default=text("true"))
    rollback_window: Mapped[int] = mapped_column(server_default=text("3600"))  # seconds
