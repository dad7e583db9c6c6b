"""Plans, their steps and their validations."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import FetchedValue, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model import lifecycles
from segue.model.vocabulary import Level, MigrationPhase, StepType, Strategy
from segue.store.tables.columns import Id, IntList, Json, Row, index, one_of, refers, unique

if TYPE_CHECKING:
    from segue.store.tables.executions import ExecutionRow


class PlanRow(Row):
    """A migration plan."""

    __tablename__ = "migration_plans"
    __table_args__ = (
        index("status", "scheduled_at"),
        index("complexity", "risk_level"),
        index("target_schema", "status"),
        one_of("migration_phase", MigrationPhase),
        one_of("strategy", Strategy),
        one_of("complexity", Level),
        one_of("risk_level", Level),
        one_of("status", lifecycles.PLAN.words),
    )
    life = ("status", lifecycles.PLAN)

    id: Mapped[Id]
    plan_name: Mapped[str] = mapped_column(unique=True)
    version: Mapped[str]  # semantic version for this migration plan
    description: Mapped[str]
    target_schema: Mapped[str]  # which schema/database
    migration_phase: Mapped[str]
    strategy: Mapped[str]
    complexity: Mapped[str]
    risk_level: Mapped[str]
    estimated_duration: Mapped[int]  # minutes
    maintenance_window: Mapped[int | None]  # minutes, null for zero-downtime
    prerequisites: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    dependencies: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    rollback_plan: Mapped[str]
    rollback_window: Mapped[int | None]  # minutes to complete rollback
    created_by: Mapped[str]
    approved_by: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="draft")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=FetchedValue(), server_onupdate=FetchedValue())
    scheduled_at: Mapped[datetime | None]
    executed_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    plan_hash: Mapped[str] = mapped_column(comment="segue: content hash of the document")
    document: Mapped[Json] = mapped_column(comment="segue: the plan as read, in canonical form")
    source: Mapped[str | None] = mapped_column(comment="segue: the file that the plan was read from")
    assessment: Mapped[Json | None] = mapped_column(comment="segue: the last assessment, by name of environment")

    steps: Mapped[list[StepRow]] = relationship(
        back_populates="plan", passive_deletes="all", order_by="StepRow.step_number"
    )
    validations: Mapped[list[ValidationRow]] = relationship(back_populates="plan", passive_deletes="all")
    executions: Mapped[list[ExecutionRow]] = relationship(back_populates="plan", passive_deletes="all")


class StepRow(Row):
    """One step of a plan."""

    __tablename__ = "migration_steps"
    __table_args__ = (
        unique("plan_id", "step_number"),
        index("plan_id", "step_number"),
        one_of("step_type", StepType),
    )

    id: Mapped[Id]
    plan_id: Mapped[str] = mapped_column(refers("migration_plans.id", "CASCADE"))
    step_number: Mapped[int]
    step_name: Mapped[str]
    description: Mapped[str]
    step_type: Mapped[str]
    sql_command: Mapped[str | None]
    prisma_script: Mapped[str | None]
    custom_script: Mapped[str | None]
    is_blocking: Mapped[bool] = mapped_column(server_default=text("true"))
    timeout_seconds: Mapped[int] = mapped_column(server_default=text("300"))
    retry_count: Mapped[int] = mapped_column(server_default=text("0"))
    depends_on: Mapped[IntList]  # array of step numbers
    requires_approval: Mapped[bool] = mapped_column(server_default=text("false"))
    can_rollback: Mapped[bool] = mapped_column(server_default=text("true"))
    rollback_command: Mapped[str | None]
    validation_query: Mapped[str | None]
    expected_result: Mapped[Json | None]
    kind: Mapped[str] = mapped_column(comment="segue: the step kind that runs this step")
    params: Mapped[Json] = mapped_column(
        server_default=text("'{}'::jsonb"), comment="segue: the step as the plan says it"
    )
    reverse: Mapped[Json | None] = mapped_column(comment="segue: how the step is undone; null means not at all")

    plan: Mapped[PlanRow] = relationship(back_populates="steps")


class ValidationRow(Row):
    """A query whose result was compared with what the plan expects, and how that went."""

    __tablename__ = "migration_validations"
    __table_args__ = (
        index("plan_id", "checked_at"),
        index("execution_id", "passed"),
    )

    id: Mapped[Id]
    plan_id: Mapped[str] = mapped_column(refers("migration_plans.id", "CASCADE"))
    execution_id: Mapped[str | None] = mapped_column(refers("migration_executions.id", "CASCADE"))
    step_name: Mapped[str | None]  # null: the plan as a whole
    query: Mapped[str]
    expected: Mapped[Json]
    actual: Mapped[Json | None]
    tolerance: Mapped[float] = mapped_column(server_default=text("0"))  # allowed relative difference of numbers
    passed: Mapped[bool]
    blocking: Mapped[bool] = mapped_column(server_default=text("true"))
    error_message: Mapped[str | None]  # the query itself failed
    seconds: Mapped[float | None]
    checked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    plan: Mapped[PlanRow] = relationship(back_populates="validations")
