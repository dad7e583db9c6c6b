"""Incidents and the actions taken."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model import lifecycles
from segue.model.vocabulary import Detector, IncidentActionType, IncidentCategory, IncidentImpact, Level
from segue.store.tables.columns import Id, Json, Row, index, one_of, refers


class IncidentRow(Row):
    """Something that went wrong."""

    __tablename__ = "migration_incidents"
    __table_args__ = (
        index("severity", "status"),
        index("detected_at", "status"),
        one_of("severity", Level),
        one_of("category", IncidentCategory),
        one_of("impact", IncidentImpact),
        one_of("detected_by", Detector),
        one_of("status", lifecycles.INCIDENT.words),
    )
    life = ("status", lifecycles.INCIDENT)

    id: Mapped[Id]
    incident_number: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    description: Mapped[str]
    severity: Mapped[str]
    category: Mapped[str]
    impact: Mapped[str]
    detected_by: Mapped[str]
    detection_method: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="open")
    assigned_to: Mapped[str | None]
    root_cause: Mapped[str | None]
    resolution: Mapped[str | None]
    preventive_measures: Mapped[str | None]
    detected_at: Mapped[datetime] = mapped_column(server_default=func.now())
    acknowledged_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    mttr: Mapped[int | None]  # mean time to resolution (minutes)

    actions: Mapped[list[IncidentActionRow]] = relationship(back_populates="incident", passive_deletes="all")


class IncidentActionRow(Row):
    """Something that was done about an incident."""

    __tablename__ = "incident_actions"
    __table_args__ = (
        index("incident_id", "created_at"),
        one_of("action_type", IncidentActionType),
        one_of("status", lifecycles.INCIDENT_ACTION.words),
    )
    life = ("status", lifecycles.INCIDENT_ACTION)

    id: Mapped[Id]
    incident_id: Mapped[str] = mapped_column(refers("migration_incidents.id", "CASCADE"))
    action_type: Mapped[str]
    description: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="pending")
    executed_by: Mapped[str | None]
    result: Mapped[str | None]
    evidence: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    completed_at: Mapped[datetime | None]

    incident: Mapped[IncidentRow] = relationship(back_populates="actions")
