"""Rollback strategies and their procedures."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model.vocabulary import BackupStrategy, DataLossRisk, ProcedureType, RollbackType
from segue.store.tables.columns import Id, IntList, Json, Row, index, one_of, refers, unique


class RollbackStrategyRow(Row):
    """How a plan is taken back."""

    __tablename__ = "rollback_strategies"
    __table_args__ = (
        one_of("rollback_type", RollbackType),
        one_of("data_backup_strategy", BackupStrategy),
        one_of("data_loss_risk", DataLossRisk),
    )

    id: Mapped[Id]
    migration_plan_id: Mapped[str] = mapped_column(unique=True)
    strategy_name: Mapped[str]
    rollback_type: Mapped[str]
    rollback_window: Mapped[int]  # minutes available for rollback
    data_backup_strategy: Mapped[str]
    backup_location: Mapped[str | None]
    backup_retention: Mapped[int] = mapped_column(server_default=text("30"))  # days
    validation_checks: Mapped[Json]
    data_loss_risk: Mapped[str]
    downtime_estimate: Mapped[int | None]  # minutes
    prerequisites: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    procedures: Mapped[list[RollbackProcedureRow]] = relationship(
        back_populates="strategy", passive_deletes="all", order_by="RollbackProcedureRow.step_number"
    )


class RollbackProcedureRow(Row):
    """One step of taking a plan back."""

    __tablename__ = "rollback_procedures"
    __table_args__ = (
        unique("strategy_id", "step_number"),
        index("strategy_id", "step_number"),
        one_of("procedure_type", ProcedureType),
    )

    id: Mapped[Id]
    strategy_id: Mapped[str] = mapped_column(refers("rollback_strategies.id", "CASCADE"))
    step_number: Mapped[int]
    step_name: Mapped[str]
    description: Mapped[str]
    procedure_type: Mapped[str]
    command: Mapped[str | None]
    is_optional: Mapped[bool] = mapped_column(server_default=text("false"))
    timeout_seconds: Mapped[int] = mapped_column(server_default=text("300"))
    requires_confirmation: Mapped[bool] = mapped_column(server_default=text("false"))
    depends_on: Mapped[IntList]  # array of step numbers

    strategy: Mapped[RollbackStrategyRow] = relationship(back_populates="procedures")
