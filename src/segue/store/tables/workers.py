"""Workers: the processes that take work from the store."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, text
from sqlalchemy.orm import Mapped, mapped_column

from segue.model import lifecycles
from segue.store.tables.columns import Id, Json, Row, index, one_of


class WorkerRow(Row):
    """A process that takes work; it is dead when its heartbeat is old, whatever its status says."""

    __tablename__ = "workers"
    __table_args__ = (
        index("status", "heartbeat_at"),
        one_of("status", lifecycles.WORKER.words),
    )
    life = ("status", lifecycles.WORKER)

    id: Mapped[Id]
    name: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]  # of Segue
    queues: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))
    concurrency: Mapped[int] = mapped_column(server_default=text("1"))
    status: Mapped[str] = mapped_column(server_default="running")
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    stopped_at: Mapped[datetime | None]
    doing: Mapped[Json] = mapped_column(server_default=text("'[]'::jsonb"))  # what it works on: objects
