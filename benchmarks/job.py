"""Writing the rows of a large table, transformed, into another one: Segue beside one big INSERT … SELECT."""

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

ROWS = 4_000_000

TABLES = (
    "create table orders (id bigint primary key, customer_id integer not null, status text not null, "
    "total numeric(12, 2) not null, note text not null, created_at timestamptz not null)",
    "create table sales (id bigint primary key, customer_id integer not null, state text not null, "
    "cents bigint not null check (cents >= 0), note text not null, day date not null)",
    "create index sales_customer on sales (customer_id)",
)
FILL = """
insert into orders
select n, 1 + (n * 7919) %% 100000, (array['New', 'Paid', 'Packed', 'Shipped', 'Delivered', 'Returned'])[1 + n %% 6],
    (n %% 100000) / 7.0, repeat(md5(n::text), 3), timestamptz '2020-01-01 00:00:00+00' + n * interval '17 seconds'
from generate_series(1::bigint, %s::bigint) as n
"""
SET = {"state": "lower(status)", "cents": "(total * 100)::bigint", "day": "(created_at at time zone 'UTC')::date"}
PLAN = """\
plan: PLAN
version: 1.0.0
description: Write every order to the sales
steps:
  - name: job
    kind: data-job
    source: orders
    target: sales
    workers: WORKERS
    set:
"""
SELECT = f"select id, customer_id, {SET['state']}, {SET['cents']}, note, {SET['day']} from orders"
WRONG = f"select count(*) from ({SELECT} except select * from sales) as r"


class JobBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "segue_two_workers", "insert_select")
    ratios = (("segue", "insert_select"), ("segue_two_workers", "insert_select"))

    @contextlib.contextmanager
    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Stage]:
        """Start a server and fill the source."""
        rows = max(1, round(ROWS * scale))
        with server(folder / "target") as target:
            say(f"filling a table of {rows:,} rows")
            with psycopg.connect(target.pristine(), autocommit=True) as connection:
                for table in TABLES:
                    connection.execute(table.encode())
                connection.execute(FILL.encode(), [rows])
                connection.execute("vacuum (freeze, analyze)")
            for name, workers in (("segue", 1), ("segue_two_workers", 2)):
                text = PLAN.replace("PLAN", name).replace("WORKERS", str(workers))
                lines = "".join(f'      {column}: "{expression}"\n' for column, expression in SET.items())
                (folder / f"{name}.yaml").write_text(text + lines)
            yield _Stage(folder, target, rows)


@dataclass(slots=True)
class _Stage:
    folder: Path
    server: Server
    rows: int

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        with self.server.copy(f"round_{number}", ["orders"]) as url:
            before = self.server.wal_position()
            if contender == "insert_select":
                timing = _insert_select(url)
            else:
                timing = timed_run(self.folder, self.folder / f"{contender}.yaml", url, number)
            wal = self.server.wal_position() - before
            _check(url, contender, self.rows)
        # Memory and the step's time are of one worker, as the first ratio is.
        beside = timing.values if contender == "segue" else {}
        return Timing(timing.seconds, {**beside, f"wal_bytes_{contender}": wal})

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure what Segue costs when there is nothing to write."""
        with self.server.copy(f"round_{number}", []) as url:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("truncate orders")
            return {"no_row_seconds": timed_run(self.folder, self.folder / "segue.yaml", url, number).seconds}


def _insert_select(url: str) -> Timing:
    """Do as a person types: one statement, one transaction, nothing to go on from after a failure."""
    began = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"insert into sales {SELECT}".encode())
    return Timing(time.perf_counter() - began)


def _check(url: str, contender: str, rows: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        found: Any = connection.execute("select count(*) from sales").fetchone()
        wrong: Any = connection.execute(WRONG.encode()).fetchone()
    if found[0] != rows or wrong[0]:
        raise StepFailed(f"{contender} wrote {found[0]:,} of {rows:,} rows, and {wrong[0]:,} are missing or wrong")


BENCHMARK = JobBenchmark()
