"""Test suites, their tests, runs and results."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from segue.model import lifecycles
from segue.model.vocabulary import DataSetSize, SuiteTestCategory, SuiteTestOutcome
from segue.store.tables.columns import BigInt, Id, Json, Row, index, one_of, refers, unique


class SuiteRow(Row):
    """A suite of tests of a plan."""

    __tablename__ = "migration_test_suites"
    __table_args__ = (
        index("status", "last_run"),
        one_of("data_set_size", DataSetSize),
        one_of("status", lifecycles.SUITE.words),
    )
    life = ("status", lifecycles.SUITE)

    id: Mapped[Id]
    suite_name: Mapped[str] = mapped_column(unique=True)
    migration_plan_id: Mapped[str]
    test_environment: Mapped[str]
    data_set_size: Mapped[str]
    functional_tests: Mapped[bool] = mapped_column(server_default=text("true"))
    performance_tests: Mapped[bool] = mapped_column(server_default=text("true"))
    integrity_tests: Mapped[bool] = mapped_column(server_default=text("true"))
    rollback_tests: Mapped[bool] = mapped_column(server_default=text("true"))
    success_criteria: Mapped[Json]
    status: Mapped[str] = mapped_column(server_default="pending")
    last_run: Mapped[datetime | None]

    tests: Mapped[list[SuiteTestRow]] = relationship(back_populates="suite", passive_deletes="all")
    executions: Mapped[list[SuiteRunRow]] = relationship(back_populates="suite", passive_deletes="all")


class SuiteTestRow(Row):
    """One test of a suite."""

    __tablename__ = "migration_tests"
    __table_args__ = (
        unique("suite_id", "test_name"),
        index("suite_id", "category"),
        one_of("category", SuiteTestCategory),
    )

    id: Mapped[Id]
    suite_id: Mapped[str] = mapped_column(refers("migration_test_suites.id", "CASCADE"))
    test_name: Mapped[str]
    category: Mapped[str]
    description: Mapped[str]
    test_query: Mapped[str]
    expected_result: Mapped[Json]
    timeout_seconds: Mapped[int] = mapped_column(server_default=text("300"))
    is_blocking: Mapped[bool] = mapped_column(server_default=text("true"))
    max_execution_time: Mapped[int | None]  # milliseconds
    min_throughput: Mapped[float | None]  # operations per second

    suite: Mapped[SuiteRow] = relationship(back_populates="tests")


class SuiteRunRow(Row):
    """One run of a suite."""

    __tablename__ = "test_executions"
    __table_args__ = (
        unique("suite_id", "execution_number"),
        index("status", "started_at"),
        one_of("status", lifecycles.SUITE_RUN.words),
    )
    life = ("status", lifecycles.SUITE_RUN)

    id: Mapped[Id]
    suite_id: Mapped[str] = mapped_column(refers("migration_test_suites.id", "CASCADE"))
    execution_number: Mapped[int]
    status: Mapped[str]
    tests_total: Mapped[int]
    tests_passed: Mapped[int] = mapped_column(server_default=text("0"))
    tests_failed: Mapped[int] = mapped_column(server_default=text("0"))
    tests_skipped: Mapped[int] = mapped_column(server_default=text("0"))
    total_duration: Mapped[int | None]  # milliseconds
    avg_test_time: Mapped[float | None]  # milliseconds
    environment_snapshot: Mapped[Json | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    completed_at: Mapped[datetime | None]

    suite: Mapped[SuiteRow] = relationship(back_populates="executions")
    results: Mapped[list[SuiteResultRow]] = relationship(back_populates="execution", passive_deletes="all")


class SuiteResultRow(Row):
    """How one test ended in a run."""

    __tablename__ = "test_results"
    __table_args__ = (
        index("execution_id", "status"),
        one_of("status", SuiteTestOutcome),
    )

    id: Mapped[Id]
    execution_id: Mapped[str] = mapped_column(refers("test_executions.id", "CASCADE"))
    test_name: Mapped[str]
    status: Mapped[str]
    actual_result: Mapped[Json | None]
    execution_time: Mapped[int]  # milliseconds
    memory_usage: Mapped[BigInt | None]
    error_message: Mapped[str | None]
    stack_trace: Mapped[str | None]
    screenshots: Mapped[Json | None]
    logs: Mapped[Json | None]

    execution: Mapped[SuiteRunRow] = relationship(back_populates="results")
