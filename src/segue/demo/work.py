"""One transaction of the storefront's application: its statements, and what will be true once it is acknowledged."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection, sql

from segue.demo.journal import COUNTERS, MUTABLE

#: The shop's own accounts.
BANK = 1
REVENUE = range(2, 18)


@dataclass
class Order:
    """What a client remembers of one of its orders."""

    id: int
    total: int
    status: str
    notes: str | None
    lines: list[tuple[int, int]]  # inventory id, quantity
    payment: int | None = None
    revenue: int = 2


@dataclass
class Shopper:
    """What a client remembers of one of its customers: nobody else changes it, so it must read back the same."""

    id: int
    address: int
    wallet: int
    balance: int
    cart: int
    row: dict[str, Any]
    items: dict[int, tuple[int, int]] = field(default_factory=dict)  # cart item id -> (variant, quantity)
    waiting: deque[Order] = field(default_factory=lambda: deque(maxlen=3))  # to be paid
    paid: deque[Order] = field(default_factory=lambda: deque(maxlen=3))  # to be shipped or refunded


@dataclass(frozen=True)
class Basket:
    """What is about to be ordered."""

    items: list[int]  # of the cart
    lines: list[tuple[int, int, int]]  # variant, quantity, price in cents
    notes: str | None
    stock: list[tuple[int, int]]  # inventory id, quantity; by id

    @property
    def total(self) -> int:
        """Return the sum in cents."""
        return sum(quantity * price for _, quantity, price in self.lines)


class RollBackOnPurpose(Exception):
    """The application changed its mind."""


class Work:
    """One transaction: its statements, and what will be true once it is acknowledged."""

    def __init__(self, connection: AsyncConnection, reference: str) -> None:
        self._connection = connection
        self.reference = reference
        self.changes: list[list[Any]] = []
        self.wrong: list[str] = []
        self._parts = 0

    def name(self) -> str:
        """Return an identifier made by the client, never used before."""
        self._parts += 1
        return f"{self.reference}.{self._parts}"

    async def insert(self, table: str, key: str = "id", /, **values: Any) -> Any:
        """Insert one row and return its key."""
        names = list(values)
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING {}").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(sql.Placeholder() * len(names)),
            sql.Identifier(key),
        )
        row = await self.one(statement, [_parameter(value) for value in values.values()])
        self.changes.append(["+", table, str(row[0]), {key: row[0], **values}])
        return row[0]

    async def update(self, table: str, key: Any, key_column: str = "id", /, **values: Any) -> None:
        """Set columns of one row that is the client's own."""
        assert set(values) <= set(MUTABLE[table]), values  # noqa: S101 - the oracle relies on it
        names = list(values)
        statement = sql.SQL("UPDATE {} SET {} WHERE {} = %s").format(
            sql.Identifier(table),
            sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in names),
            sql.Identifier(key_column),
        )
        done = await self._connection.execute(statement, [*map(_parameter, values.values()), key])
        if done.rowcount != 1:
            self.wrong.append(f"{table} {key}: {done.rowcount} rows updated instead of 1")
        self.changes.append(["=", table, str(key), values])

    async def delete(self, table: str, key: Any) -> None:
        """Delete one row that is the client's own."""
        statement = sql.SQL("DELETE FROM {} WHERE id = %s").format(sql.Identifier(table))
        done = await self._connection.execute(statement, [key])
        if done.rowcount != 1:
            self.wrong.append(f"{table} {key}: {done.rowcount} rows deleted instead of 1")
        self.changes.append(["-", table, str(key), {}])

    async def add(self, table: str, key: int, amount: int, *, column: str, key_column: str = "id") -> bool:
        """Add to a number in one statement; returns False, with nothing done, if it would fall below zero."""
        assert column in COUNTERS[table]  # noqa: S101 - the oracle relies on it
        statement = sql.SQL("UPDATE {0} SET {1} = {1} + %s WHERE {2} = %s AND (%s >= 0 OR {1} + %s >= 0)").format(
            sql.Identifier(table), sql.Identifier(column), sql.Identifier(key_column)
        )
        floor = amount if table != "accounts" or key > REVENUE[-1] else 0  # the shop's own accounts may go below
        done = await self._connection.execute(statement, [amount, key, floor, amount])
        if done.rowcount != 1:
            return False
        self.changes.append(["~", table, str(key), {column: amount}])
        return True

    async def book(self, description: str, *sides: tuple[int, int]) -> None:
        """Book amounts on accounts, double entry: the client's wallets before the shop's accounts, those by number."""
        transaction = await self.insert(
            "accounting_transactions", reference=self.name(), description=description, booked_at=moment()
        )
        for account, amount in sorted(sides, key=lambda side: (side[0] in (BANK, *REVENUE), side[0])):
            await self.insert(
                "accounting_entries",
                reference=self.name(),
                transaction_id=transaction,
                account_id=account,
                amount_cents=amount,
            )
            if not await self.add("accounts", account, amount, column="balance_cents"):
                self.wrong.append(f"accounts {account}: cannot add {amount}")

    async def one(self, statement: Any, values: Sequence[Any] = ()) -> Any:
        """Return the single row of a query."""
        cursor = await self._connection.execute(statement, values)
        return await cursor.fetchone()

    async def all(self, statement: Any, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query."""
        cursor = await self._connection.execute(statement, values)
        return await cursor.fetchall()

    async def savepoint(self, name: str) -> None:
        """Set a savepoint."""
        await self._connection.execute(sql.SQL("SAVEPOINT {}").format(sql.Identifier(name)))

    async def back_to(self, name: str, changes: int) -> None:
        """Undo what was done since the savepoint, when so many changes had been made."""
        await self._connection.execute(sql.SQL("ROLLBACK TO SAVEPOINT {}").format(sql.Identifier(name)))
        del self.changes[changes:]


#: What one transaction does; it returns what to remember once it is acknowledged.
Action = Callable[[Work], Awaitable[Callable[[], None] | None]]


def moment() -> str:
    """Return the present moment as a timestamptz that reads back the same."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _parameter(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value
