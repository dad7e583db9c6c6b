"""Executions of plans: their progress, their steps and their logs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Identity, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model import lifecycles
from segue.model.vocabulary import Direction, LogLevel, Mode
from segue.store.tables.columns import BigInt, Id, Json, Row, index, one_of, refers, unique

if TYPE_CHECKING:
    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.plans import PlanRow


class ExecutionRow(Row):
    """One run of a plan in an environment."""

    __tablename__ = "migration_executions"
    __table_args__ = (
        unique(
            "plan_id",
            "environment_id",
            "execution_number",
            name="migration_executions_plan_id_environment_id_execution_numbe_key",
        ),
        index("status", "started_at"),
        index("environment_id", "status"),
        one_of("execution_mode", Mode),
        one_of("direction", Direction),
        one_of("status", lifecycles.EXECUTION.words),
    )
    life = ("status", lifecycles.EXECUTION)

    id: Mapped[Id]
    plan_id: Mapped[str] = mapped_column(refers("migration_plans.id", "RESTRICT"))
    environment_id: Mapped[str] = mapped_column(refers("environments.id", "RESTRICT"))
    execution_number: Mapped[int]  # for retry tracking
    status: Mapped[str] = mapped_column(server_default="pending")
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    duration: Mapped[int | None]  # seconds
    steps_completed: Mapped[int] = mapped_column(server_default=text("0"))
    steps_total: Mapped[int]
    error_details: Mapped[Json | None]
    performance_metrics: Mapped[Json | None]
    executed_by: Mapped[str]
    execution_mode: Mapped[str]
    plan_hash: Mapped[str] = mapped_column(comment="segue: content hash of the plan that this execution runs")
    direction: Mapped[str] = mapped_column(
        server_default="forward", comment="segue: forward, or backward in a rollback"
    )
    current_step: Mapped[str | None] = mapped_column(comment="segue: name of the step that runs now")
    lease_owner: Mapped[str | None] = mapped_column(comment="segue: process that drives this execution")
    heartbeat_at: Mapped[datetime | None] = mapped_column(comment="segue: last sign of life of the lease's owner")
    fence: Mapped[BigInt | None] = mapped_column(comment="segue: number of the lease; grows with each takeover")
    pause_requested: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="segue: stop at the next boundary, to go on later"
    )
    cancel_requested: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="segue: stop at the next boundary for good"
    )
    window_until: Mapped[datetime | None] = mapped_column(comment="segue: end of the rollback window")
    handed_over: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="segue: workers drive it, whenever it is due"
    )
    waiting_for: Mapped[Json | None] = mapped_column(comment="segue: what a waiting execution waits for")
    due_at: Mapped[datetime | None] = mapped_column(
        comment="segue: when to look at a waiting execution again; null: when what it waits for happens"
    )
    after_execution: Mapped[str | None] = mapped_column(
        refers("migration_executions.id", "SET NULL"), comment="segue: execution that must be completed first"
    )
    options: Mapped[Json] = mapped_column(
        server_default=text("'{}'::jsonb"), comment="segue: what was asked for when it was started"
    )
    tuning: Mapped[Json] = mapped_column(
        server_default=text("'{}'::jsonb"), comment="segue: limits of its data work, which may change while it runs"
    )
    assessment: Mapped[Json | None] = mapped_column(comment="segue: what was measured and expected before it began")
    fenced_at: Mapped[datetime | None] = mapped_column(comment="segue: when the application was fenced off")
    fenced_until: Mapped[datetime | None] = mapped_column(comment="segue: when it must be let in again, come what may")

    plan: Mapped[PlanRow] = relationship(back_populates="executions")
    environment: Mapped[EnvironmentRow] = relationship(back_populates="executions")
    step_runs: Mapped[list[StepRunRow]] = relationship(
        back_populates="execution", passive_deletes="all", order_by="StepRunRow.step_number"
    )
    logs: Mapped[list[LogRow]] = relationship(back_populates="execution", passive_deletes="all", order_by="LogRow.id")


class StepRunRow(Row):
    """One step of an execution, in one direction."""

    __tablename__ = "migration_step_runs"
    __table_args__ = (
        unique("execution_id", "step_number", "direction"),
        index("execution_id", "status"),
        one_of("direction", Direction),
        one_of("status", lifecycles.STEP_RUN.words),
    )
    life = ("status", lifecycles.STEP_RUN)

    id: Mapped[Id]
    execution_id: Mapped[str] = mapped_column(refers("migration_executions.id", "CASCADE"))
    step_number: Mapped[int]
    step_name: Mapped[str]
    kind: Mapped[str]
    direction: Mapped[str] = mapped_column(server_default="forward")
    status: Mapped[str] = mapped_column(server_default="pending")
    attempt: Mapped[int] = mapped_column(server_default=text("0"))  # how often it was tried
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    error: Mapped[Json | None]
    detail: Mapped[Json | None]  # what the step's kind says of its work: rows, locks, waits

    execution: Mapped[ExecutionRow] = relationship(back_populates="step_runs")


class LogRow(Row):
    """One line of an execution's log; the ids follow the order of writing within one process."""

    __tablename__ = "migration_logs"
    __table_args__ = (
        index("execution_id", "id"),
        one_of("level", LogLevel),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    execution_id: Mapped[str] = mapped_column(refers("migration_executions.id", "CASCADE"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    level: Mapped[str] = mapped_column(server_default="info")
    action: Mapped[str]  # a word to search by, e.g. step-started
    step_name: Mapped[str | None]
    message: Mapped[str]  # a sentence for people
    detail: Mapped[Json | None]

    execution: Mapped[ExecutionRow] = relationship(back_populates="logs")
