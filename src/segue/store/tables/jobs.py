"""Data migration jobs, their batches and the rows that failed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model import lifecycles
from segue.model.vocabulary import RowErrorType
from segue.store.tables.columns import BigInt, Id, Json, Row, index, one_of, refers, unique


class JobRow(Row):
    """A data migration job; a backfill is one whose target is its source."""

    __tablename__ = "data_migration_jobs"
    __table_args__ = (
        index("status", "started_at"),
        index("migration_plan_id"),
        index("execution_id", "step_name"),
        one_of("status", lifecycles.JOB.words),
    )
    life = ("status", lifecycles.JOB)

    id: Mapped[Id]
    job_name: Mapped[str] = mapped_column(unique=True)
    migration_plan_id: Mapped[str]
    source_table: Mapped[str]
    target_table: Mapped[str]
    batch_size: Mapped[int] = mapped_column(server_default=text("1000"))
    parallel_workers: Mapped[int] = mapped_column(server_default=text("1"))
    throttle_ms: Mapped[int] = mapped_column(server_default=text("0"))
    transformation_script: Mapped[str | None]
    filter_condition: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="pending")
    progress_percent: Mapped[float] = mapped_column(server_default=text("0"))
    total_rows: Mapped[BigInt | None]
    processed_rows: Mapped[BigInt] = mapped_column(server_default=text("0"))
    successful_rows: Mapped[BigInt] = mapped_column(server_default=text("0"))
    failed_rows: Mapped[BigInt] = mapped_column(server_default=text("0"))
    skipped_rows: Mapped[BigInt] = mapped_column(server_default=text("0"))
    rows_per_second: Mapped[float | None]
    avg_batch_time: Mapped[float | None]  # milliseconds
    max_retries: Mapped[int] = mapped_column(server_default=text("3"))
    current_retry: Mapped[int] = mapped_column(server_default=text("0"))
    continue_on_error: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    estimated_completion: Mapped[datetime | None]
    execution_id: Mapped[str | None] = mapped_column(
        refers("migration_executions.id", "CASCADE"), comment="segue: the execution that this job belongs to"
    )
    step_name: Mapped[str | None] = mapped_column(comment="segue: the step that this job belongs to")
    kind: Mapped[str] = mapped_column(server_default="backfill", comment="segue: the step kind that runs this job")
    params: Mapped[Json] = mapped_column(
        server_default=text("'{}'::jsonb"), comment="segue: the step as the plan says it"
    )

    batches: Mapped[list[BatchRow]] = relationship(
        back_populates="job", passive_deletes="all", order_by="BatchRow.batch_number"
    )
    errors: Mapped[list[JobErrorRow]] = relationship(back_populates="job", passive_deletes="all")


class BatchRow(Row):
    """One batch of a job."""

    __tablename__ = "data_migration_batches"
    __table_args__ = (
        unique("job_id", "batch_number"),
        index("job_id", "status"),
        index("status", "started_at"),
        one_of("status", lifecycles.BATCH.words),
    )
    life = ("status", lifecycles.BATCH)

    id: Mapped[Id]
    job_id: Mapped[str] = mapped_column(refers("data_migration_jobs.id", "CASCADE"))
    batch_number: Mapped[int]
    start_key: Mapped[str | None]
    end_key: Mapped[str | None]
    row_count: Mapped[int]
    status: Mapped[str] = mapped_column(server_default="pending")
    worker_id: Mapped[str | None]
    execution_time: Mapped[int | None]  # milliseconds
    retry_count: Mapped[int] = mapped_column(server_default=text("0"))
    processed_rows: Mapped[int] = mapped_column(server_default=text("0"))
    successful_rows: Mapped[int] = mapped_column(server_default=text("0"))
    failed_rows: Mapped[int] = mapped_column(server_default=text("0"))
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]

    job: Mapped[JobRow] = relationship(back_populates="batches")


class JobErrorRow(Row):
    """A row that a job could not migrate."""

    __tablename__ = "data_migration_errors"
    __table_args__ = (
        index("job_id", "error_type"),
        index("is_resolved", "occurred_at"),
        one_of("error_type", RowErrorType),
    )

    id: Mapped[Id]
    job_id: Mapped[str] = mapped_column(refers("data_migration_jobs.id", "CASCADE"))
    batch_number: Mapped[int | None]
    row_key: Mapped[str | None]
    error_type: Mapped[str]
    error_message: Mapped[str]
    stack_trace: Mapped[str | None]
    source_data: Mapped[Json | None]
    target_data: Mapped[Json | None]
    is_resolved: Mapped[bool] = mapped_column(server_default=text("false"))
    resolution: Mapped[str | None]
    resolved_by: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.now())

    job: Mapped[JobRow] = relationship(back_populates="errors")
