"""Filling a new column of a large table: Segue beside the loop that applications use, and beside one big UPDATE."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._commands import timed_run
from benchmarks._rounds import Stage, Timing
from benchmarks._server import Server, server
from segue.errors import StepFailed

ROWS = 1_000_000
EXPRESSION = "lower(status) || ':' || customer_id"

# About 280 bytes a row with three indexes.
TABLE = """
create table orders (
    id bigint generated always as identity primary key,
    customer_id integer not null,
    status text not null,
    total numeric(12, 2) not null,
    note text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null
)
"""
FILL = """
insert into orders (customer_id, status, total, note, created_at, updated_at)
select
    1 + (n * 7919) %% 100000,
    (array['New', 'Paid', 'Packed', 'Shipped', 'Delivered', 'Returned'])[1 + n %% 6],
    (n %% 100000) / 7.0,
    repeat(md5(n::text), 5),
    timestamptz '2020-01-01 00:00:00+00' + n * interval '17 seconds',
    timestamptz '2020-01-01 00:00:00+00' + n * interval '19 seconds'
from generate_series(1::bigint, %s::bigint) as n
"""
INDEXES = (
    "create index orders_customer on orders (customer_id)",
    "create index orders_status on orders (status, created_at)",
)

PLAN = f"""\
plan: orders-tag
version: 1.0.0
description: Fill a column of every order
target_schema: public
strategy: online
steps:
  - name: fill
    kind: backfill
    table: orders
    set: {{tag: "{EXPRESSION}"}}
    where: tag IS NULL
"""

SELECT = "SELECT id FROM orders WHERE tag IS NULL LIMIT 1000"
UPDATE = f"UPDATE orders SET tag = {EXPRESSION} WHERE id IN "
ONE_UPDATE = f"UPDATE orders SET tag = {EXPRESSION} WHERE tag IS NULL"
WRONG = f"select count(*) from orders where tag is distinct from {EXPRESSION}"


class BackfillBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "plain_loop", "one_update")
    ratios = (("segue", "plain_loop"), ("segue", "one_update"))

    @contextlib.contextmanager
    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Stage]:
        """Start a server and fill the table."""
        rows = max(1, round(ROWS * scale))
        with server(folder / "target") as target:
            say(f"filling a table of {rows:,} rows")
            url = target.pristine()
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(TABLE)
                connection.execute(FILL.encode(), [rows])
                for index in INDEXES:
                    connection.execute(index.encode())
                connection.execute("alter table orders add column tag text")
                connection.execute("vacuum (freeze, analyze)")
            (folder / "plan.yaml").write_text(PLAN)
            yield _Stage(folder, target, rows)


@dataclass(slots=True)
class _Stage:
    folder: Path
    server: Server
    rows: int

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        with self.server.copy(f"round_{number}", ["orders"]) as url:
            size, before = _size(url), self.server.wal_position()
            timing = {"segue": self._segue, "plain_loop": _plain_loop, "one_update": _one_update}[contender](
                url, number
            )
            wal = self.server.wal_position() - before
            _check(url, contender)
            growth = _size(url) / size
        return Timing(
            timing.seconds,
            {**timing.values, f"wal_bytes_{contender}": wal, f"table_growth_{contender}": growth},
        )

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure what Segue costs when there is nothing to write but one row."""
        with self.server.copy(f"round_{number}", ["orders"]) as url:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("truncate orders")
                connection.execute(FILL.encode(), [1])
            timing = self._segue(url, number)
            _check(url, "segue")
        return {"one_row_seconds": timing.seconds}

    def _segue(self, url: str, number: int) -> Timing:
        return timed_run(self.folder, self.folder / "plan.yaml", url, number)


def _plain_loop(url: str, number: int) -> Timing:
    """Do as a data migration written with an ORM: fetch ids that need it, update them, commit, until none."""
    began = time.perf_counter()
    # An ORM writes the values into the statement, as this cursor does.
    with psycopg.connect(url, cursor_factory=psycopg.ClientCursor) as connection:
        while True:
            with connection.transaction():
                ids = [row[0] for row in connection.execute(SELECT)]
                if ids:
                    marks = ", ".join(["%s"] * len(ids))
                    connection.execute(f"{UPDATE}({marks})".encode(), ids)
            if not ids:
                break
    return Timing(time.perf_counter() - began)


def _one_update(url: str, number: int) -> Timing:
    """Do as a person types: one statement, one transaction, every row locked until its end."""
    began = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(ONE_UPDATE.encode())
    return Timing(time.perf_counter() - began)


def _size(url: str) -> int:
    """Return the bytes of the table with its indexes."""
    with psycopg.connect(url, autocommit=True) as connection:
        row: Any = connection.execute("select pg_total_relation_size('orders')").fetchone()
    return int(row[0])


def _check(url: str, contender: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        row: Any = connection.execute(WRONG.encode()).fetchone()
    if row[0]:
        raise StepFailed(f"{contender} left {row[0]:,} rows wrong")


BENCHMARK = BackfillBenchmark()
