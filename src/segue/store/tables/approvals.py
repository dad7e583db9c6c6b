"""Approvals: who allowed what, for which content of a plan."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from segue.model import lifecycles
from segue.store.tables.columns import Id, Row, index, one_of, refers


class ApprovalRow(Row):
    """A person's word that a plan, or one step of it, may run in an environment.

    It counts for the plan's content at that time only: `plan_hash` is compared before each use.
    """

    __tablename__ = "approvals"
    __table_args__ = (
        index("plan_id", "environment_id", "status"),
        one_of("status", lifecycles.APPROVAL.words),
    )
    life = ("status", lifecycles.APPROVAL)

    id: Mapped[Id]
    plan_id: Mapped[str] = mapped_column(refers("migration_plans.id", "CASCADE"))
    plan_hash: Mapped[str]
    environment_id: Mapped[str] = mapped_column(refers("environments.id", "CASCADE"))
    step_name: Mapped[str | None]  # null: the whole plan
    status: Mapped[str] = mapped_column(server_default="granted")
    approved_by: Mapped[str]
    reason: Mapped[str]
    approved_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    expires_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None]
    revoked_at: Mapped[datetime | None]
