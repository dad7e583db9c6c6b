"""The ledger: an append-only, hash-chained record of every change of state, and its head."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, FetchedValue, text
from sqlalchemy.orm import Mapped, mapped_column

from segue.store.tables.columns import BigInt, Json, Row, index


class LedgerRow(Row):
    """One entry. `id`, `at`, `previous_hash` and `hash` are the server's: a trigger sets them, whatever is given."""

    __tablename__ = "ledger"
    __table_args__ = (index("subject", "subject_id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, server_default=FetchedValue())
    at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    subject_id: Mapped[str]
    detail: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    previous_hash: Mapped[str] = mapped_column(server_default=FetchedValue())
    hash: Mapped[str] = mapped_column(server_default=FetchedValue())


class LedgerHeadRow(Row):
    """The one row that says where the chain ends: entries cut off its end are found by it."""

    __tablename__ = "ledger_head"
    __table_args__ = (CheckConstraint("one = 1", name="one"),)

    one: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default=text("1"))
    last_id: Mapped[BigInt]
    hash: Mapped[str]
