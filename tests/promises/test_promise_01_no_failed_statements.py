"""Promise 1, no failed statements: a maintenance window is announced, budgeted, and met by `segue_fence` alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from fix_shops import Shops
from fix_storefront import Shop, work
from fix_targets import Background, Traffic, rows, run_sql, traffic, until, value

from segue.errors import LockNotGranted, SafelyUndone

TABLES = (
    "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL DEFAULT 0)",
    "CREATE TABLE moves (id bigint PRIMARY KEY, account int NOT NULL REFERENCES accounts, amount int NOT NULL)",
    "INSERT INTO accounts SELECT g FROM generate_series(0, 9) g",
    "INSERT INTO moves SELECT -g, g % 10, 0 FROM generate_series(1, 3000) g",
)

# What cannot be done beside writers without a copy of the table: every row is written anew, under one lock.
PLAN = """
plan: wider
version: 1.0.0
description: Amounts get room, while nobody writes
strategy: maintenance-window
maintenance_window: 1
steps:
  - name: rewrite
    kind: sql
    sql: ALTER TABLE moves ALTER COLUMN amount TYPE numeric
    reverse: ALTER TABLE moves ALTER COLUMN amount TYPE int
  - name: touch-all
    kind: backfill
    table: moves
    set: {amount: amount + 0}
    reverse: {set: {amount: amount + 0}}
    batch: {size: 500, max: 500}
  - name: same-sum
    kind: validate
    query: SELECT (SELECT sum(amount) FROM moves) = (SELECT sum(balance) FROM accounts)
    scalar: true
"""

#: Plans for which four seconds do not suffice: one statement, many chunks.
TOO_LONG = {
    "a statement": PLAN.replace("sql: ALTER TABLE", "sql: SELECT pg_sleep(60); ALTER TABLE").replace(
        "    reverse: ALTER", "    reverse:\n      - ''\n      - ALTER"
    ),
    "a backfill": PLAN.replace("size: 500, max: 500}", "size: 50, max: 50}\n    pause: 1s"),
}


class Journal:
    """Clients that book moves on accounts, and what was acknowledged to them: the oracle."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.booked: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def client(self, number: int) -> Callable[[psycopg.Connection[Any], int], None]:
        """Return what one client does, again and again: two tables in one transaction."""
        chance = random.Random(number)

        def book(connection: psycopg.Connection[Any], turn: int) -> None:
            key, account, amount = (number + 1) * 1_000_000 + turn, chance.randrange(10), chance.randrange(100)
            with connection.transaction():
                connection.execute("INSERT INTO moves VALUES (%s, %s, %s)", [key, account, amount])
                connection.execute("UPDATE accounts SET balance = balance + %s WHERE id = %s", [amount, account])
            with self._lock:
                self.booked[key] = (account, amount)

        return book

    def check(self) -> None:
        """Require that what was acknowledged is there, once, and nothing else."""
        found = {key: (account, int(amount)) for key, account, amount in rows(self.url, "TABLE moves") if key > 0}
        assert found == self.booked
        assert value(self.url, "SELECT sum(balance) FROM accounts") == sum(a for _, a in self.booked.values())


@pytest.fixture
def shop(shops: Shops, debian_database: str) -> Journal:
    run_sql(debian_database, *TABLES)
    shops.open("shop", debian_database)
    return Journal(debian_database)


def open_for_business(running: Traffic, shop: Journal) -> None:
    for number in range(4):
        running.add(shop.url, shop.client(number))
    until(lambda: running.done > 50)


def states(errors: list[psycopg.Error]) -> set[tuple[str | None, str | None]]:
    return {(error.sqlstate, error.diag.constraint_name) for error in errors}


FENCED = {("40001", "segue_fence")}


def test_a_window_costs_the_application_nothing_but_announced_refusals(shops: Shops, shop: Journal) -> None:
    with traffic() as running:
        open_for_business(running, shop)
        shops.run(shops.add(PLAN))
        refused, done = len(running.errors), running.done
        until(lambda: running.done > done + 50)
        assert len(running.errors) == refused, "nobody is refused once the window is over"
    assert states(running.errors) == FENCED
    shop.check()
    assert value(shop.url, "SELECT count(*) FROM pg_trigger WHERE tgname = 'segue_fence'") == 0
    status = shops.status()
    assert (status["status"], status["fenced_at"], status["fenced_until"]) == ("completed", None, None)
    (closed,), (opened,) = shops.ledger("fence-closed"), shops.ledger("fence-opened")
    assert opened["closed_at"] == closed["closed_at"]
    assert 0 < opened["seconds"] < 60
    assert status["metrics"]["write_stop_s"] == pytest.approx(opened["seconds"], abs=0.001)


def test_nothing_is_written_while_the_window_lasts(shops: Shops, shop: Journal) -> None:
    """Not by who began before it, not by who begins in it: the sum is the same for as long as the fence is closed."""
    watched: list[tuple[bool, int]] = []
    with traffic() as running:
        open_for_business(running, shop)
        slowly = shops.add(PLAN.replace("    kind: backfill", "    kind: backfill\n    pause: 100ms"))
        work = Background(lambda: shops.run(slowly))
        fenced = "SELECT coalesce((SELECT state = 'closed' FROM segue.fence), false)"
        until(lambda: value(shop.url, "SELECT to_regclass('segue.fence') IS NOT NULL") and value(shop.url, fenced))
        # One statement, so one snapshot, taken once its locks are held: an older one would see a rewritten table empty.
        look = "SELECT state = 'closed', (SELECT count(*) FROM moves) FROM segue.fence"
        while work.is_alive():
            watched += rows(shop.url, look)
            time.sleep(0.02)
        work.result()
    during = {count for closed, count in watched if closed}
    assert len([closed for closed, _ in watched if closed]) > 5
    assert len(during) == 1
    shop.check()


@pytest.mark.parametrize("what", TOO_LONG)
def test_a_window_that_does_not_suffice_is_undone_and_opened(
    shops: Shops, shop: Journal, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("segue.planning.strategies.MINUTE", 4.0)
    before = rows(shop.url, "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'moves'::regclass")
    with traffic() as running:
        open_for_business(running, shop)
        with pytest.raises(SafelyUndone) as caught:
            shops.run(shops.add(TOO_LONG[what]))
        refused, done = len(running.errors), running.done
        until(lambda: running.done > done + 50)
        assert len(running.errors) == refused
    assert caught.value.exit_code == 4
    assert states(running.errors) == FENCED
    shop.check()
    assert shops.status()["status"] == "rolled-back"
    # Neither the statement nor the chunks, each of which takes a minute, came to their end.
    assert shops.ledger("fence-opened")[0]["seconds"] < 50
    after = rows(shop.url, "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'moves'::regclass")
    assert after == before


def test_a_window_that_never_closed_undoes_nothing(shops: Shops, shop: Journal) -> None:
    text = PLAN.replace("maintenance_window: 1", "maintenance_window: 1\nfence: {lock_timeout: 300ms}")
    with psycopg.connect(shop.url) as writer:
        writer.execute("UPDATE accounts SET balance = balance WHERE id = 1")
        with pytest.raises(LockNotGranted, match="fencing off"):
            shops.run(shops.add(text))
        writer.execute("UPDATE moves SET amount = amount WHERE id = -1")
        writer.rollback()
    assert shops.ledger("fence-closed") == []
    assert shops.status()["fenced_until"] is None
    shops.run("wider")
    assert shops.status()["status"] == "completed"


def test_a_rollback_keeps_the_application_out_too(shops: Shops, shop: Journal) -> None:
    shops.run(shops.add(PLAN))
    with traffic() as running:
        open_for_business(running, shop)
        shops.rollback()
        done = running.done
        until(lambda: running.done > done + 50)
    assert states(running.errors) == FENCED
    shop.check()
    assert len(shops.ledger("fence-opened")) == 2
    assert value(shop.url, "SELECT count(*) FROM pg_trigger WHERE tgname = 'segue_fence'") == 0


STOREFRONT = """
plan: quiet-orders
version: 1.0.0
description: An index and a rewrite of orders, while the whole storefront is kept out
strategy: maintenance-window
maintenance_window: 10
steps:
  - {name: index, kind: sql, sql: CREATE INDEX orders_notes ON orders (notes), reverse: DROP INDEX orders_notes}
  - {name: rewrite, kind: backfill, table: orders, set: {notes: notes}, reverse: {set: {notes: notes}}}
  - {name: latch, kind: wait, condition: {query: SELECT count(*) FROM latch.released, scalar: 1}, every: 200ms}
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_whole_storefront_comes_through_a_window(shops: Shops, new_shop: Shop) -> None:
    """Many clients, tables, partitions and triggers; every acknowledged change is compared with the database."""
    shops.open("shop", new_shop.url)
    plan = shops.add(STOREFRONT)
    run_sql(new_shop.url, "CREATE SCHEMA latch", "CREATE TABLE latch.released (id int)")
    runs: list[Background] = []

    def meanwhile() -> None:
        if not runs:
            runs.append(Background(lambda: shops.run(plan)))
            until(lambda: new_shop.tail().fenced > 10, 60)
            run_sql(new_shop.url, "INSERT INTO latch.released VALUES (1)")
            runs[0].result()

    tail = work(new_shop, 3, meanwhile)
    assert tail.errors == []
    verdict = new_shop.judge()
    assert verdict.ok, verdict.details
    assert verdict.fenced == tail.fenced
    assert value(new_shop.url, "SELECT count(*) FROM pg_trigger WHERE tgname = 'segue_fence'") == 0
