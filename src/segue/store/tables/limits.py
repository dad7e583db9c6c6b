"""Limits: how much may run at a time, over all workers of the store."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from segue.store.tables.columns import Row


class LimitRow(Row):
    """One limit that all workers keep; without a row there is none."""

    __tablename__ = "limits"

    name: Mapped[str] = mapped_column(primary_key=True)  # executions, slots
    most: Mapped[int]
    set_by: Mapped[str]
    set_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
