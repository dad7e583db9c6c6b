"""Health checks and what they found."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model.vocabulary import Frequency, HealthCheckType, HealthOutcome, Severity
from segue.store.tables.columns import Id, Json, Row, index, one_of, refers


class HealthCheckRow(Row):
    """A query that is run again and again, and what it should give."""

    __tablename__ = "migration_health_checks"
    __table_args__ = (
        index("check_type", "is_active"),
        index("severity", "consecutive_failures"),
        one_of("check_type", HealthCheckType),
        one_of("frequency", Frequency),
        one_of("severity", Severity),
    )

    id: Mapped[Id]
    check_name: Mapped[str]
    check_type: Mapped[str]
    frequency: Mapped[str]
    query: Mapped[str]
    expected_result: Mapped[Json]
    tolerance_level: Mapped[float] = mapped_column(server_default=text("0.05"))  # 5% tolerance
    severity: Mapped[str]
    alert_threshold: Mapped[int] = mapped_column(server_default=text("1"))  # failures before alert
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    last_check: Mapped[datetime | None]
    consecutive_failures: Mapped[int] = mapped_column(server_default=text("0"))

    results: Mapped[list[HealthResultRow]] = relationship(back_populates="check", passive_deletes="all")


class HealthResultRow(Row):
    """What a health check found."""

    __tablename__ = "health_check_results"
    __table_args__ = (
        index("check_id", "status", "checked_at"),
        index("status", "checked_at"),
        one_of("status", HealthOutcome),
    )

    id: Mapped[Id]
    check_id: Mapped[str] = mapped_column(refers("migration_health_checks.id", "CASCADE"))
    status: Mapped[str]
    actual_result: Mapped[Json]
    variance: Mapped[float | None]  # difference from expected
    execution_time: Mapped[int]  # milliseconds
    migration_state: Mapped[str | None]
    system_load: Mapped[Json | None]
    error_message: Mapped[str | None]
    checked_at: Mapped[datetime] = mapped_column(server_default=func.now())

    check: Mapped[HealthCheckRow] = relationship(back_populates="results")
