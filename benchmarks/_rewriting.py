"""A large table on Debian's PostgreSQL 15, and what rewrites it: Segue, ALTER TABLE, pg_repack."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._commands import command, environ
from benchmarks._rounds import Timing
from benchmarks._server import Server, run_child, server
from segue.errors import ConfigurationError, StepFailed

BINARIES = Path("/usr/lib/postgresql/15/bin")
ROWS = 5_000_000

# About 280 bytes a row, a document in each, and two secondary indexes.
TABLE = """
create table orders (
    id bigint primary key,
    customer_id integer not null,
    status text not null,
    total numeric(12, 2) not null,
    details jsonb not null,
    note text,
    created_at timestamptz not null,
    version integer not null default 0
)
"""
FILL = """
insert into orders
select n, 1 + (n * 7919) %% 100000,
    (array['new', 'paid', 'packed', 'shipped', 'delivered', 'returned'])[1 + n %% 6],
    (n %% 100000) / 7.0,
    jsonb_build_object('items', n %% 9, 'gift', n %% 3 = 0, 'channel', 'web-' || n %% 7, 'trace', md5(n::text)),
    case when n %% 4 = 0 then null else repeat(md5(n::text), 2) end,
    timestamptz '2020-01-01 00:00:00+00' + n * interval '17 seconds'
from generate_series(%s::bigint, %s::bigint) as n
"""
INDEXES = (
    "create index orders_customer on orders (customer_id)",
    "create index orders_status on orders (status, created_at)",
)
ALTER = "ALTER COLUMN customer_id TYPE bigint"
FACTS = """
select count(*), sum(customer_id)::bigint, sum(pg_catalog.hashtextextended(o.details::text || coalesce(o.note, ''), 0))
from orders as o
"""


@contextlib.contextmanager
def rewritten(folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Rewriting]:
    """Start a server of Debian's PostgreSQL 15 with the table in it."""
    _need()
    rows = max(1000, round(ROWS * scale))
    with server(folder / "target", bin_dir=BINARIES) as target:
        say(f"filling a table of {rows:,} rows")
        url = target.pristine()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create extension pg_repack")
            connection.execute(TABLE)
            for begin in range(1, rows + 1, 1_000_000):
                connection.execute(FILL.encode(), [begin, min(rows, begin + 999_999)])
            for index in INDEXES:
                connection.execute(index.encode())
            connection.execute("vacuum (freeze, analyze)")
        yield Rewriting(folder, target, rows)


def _need() -> None:
    missing = [name for name in ("postgres", "pg_repack", "pgbench") if not (BINARIES / name).exists()]
    if missing:
        raise ConfigurationError(
            f"this benchmark needs Debian's PostgreSQL 15 with {', '.join(missing)}",
            hint="apt-get install postgresql-15 postgresql-15-repack",
        )


@dataclass(slots=True)
class Rewriting:
    """The server with its table, and the ways to rewrite it."""

    folder: Path
    server: Server
    rows: int

    def alter(self, url: str, number: int) -> Timing:
        """Change the type as a person does: the table is locked until it is rewritten."""
        began = time.perf_counter()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE orders {ALTER}".encode())
        return Timing(time.perf_counter() - began)

    def pg_repack(self, url: str, number: int) -> Timing:
        """Rewrite the table as it is, which is all that pg_repack can do."""
        info = psycopg.conninfo.conninfo_to_dict(url)
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        given = {names[name]: str(value) for name, value in info.items() if name in names}
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("SEGUE_", "PG"))}
        began = time.perf_counter()
        with (self.folder / "repack.log").open("ab") as log:
            ended = run_child(
                [
                    str(BINARIES / "pg_repack"),
                    "--table",
                    "public.orders",
                    "--no-kill-backend",
                    "--dbname",
                    given["PGDATABASE"],
                ],
                {**mine, **given},
                log,
                log,
            )
        seconds = time.perf_counter() - began
        if ended.code:
            raise StepFailed(f"pg_repack ended with exit code {ended.code}", details=[_end(self.folder / "repack.log")])
        return Timing(seconds)

    def segue(self, url: str, number: int, *options: str) -> tuple[Timing, dict[str, Any]]:
        """Change the type as a user does: `segue change start` as a process, verified, with a way back.

        `seconds` are without the phase that compares; `segue_verified` is all of it.
        """
        environment = f"round-{number}"
        command(self.folder, ["env", "add", environment, "--type", "test", "--url-stdin"], url)
        log = self.folder / "segue.log"
        with (self.folder / "segue.json").open("w+b") as out, log.open("ab") as err:
            began = time.perf_counter()
            ended = run_child(
                [
                    *(sys.executable, "-m", "segue", "change", "start", "orders", ALTER),
                    *("--env", environment, "--strategy", "shadow-table", "--json", *options),
                ],
                environ(self.folder),
                out,
                err,
            )
            seconds = time.perf_counter() - began
            out.seek(0)
            said = out.read().decode(errors="replace")
        if ended.code:
            raise StepFailed(f"segue change ended with exit code {ended.code}", details=[said[-2000:], _end(log)])
        answer = json.loads(said)
        (step,) = answer["steps"]
        phases = [(name, float(begin), float(end)) for name, begin, end in step["detail"]["phases"]]
        comparing = sum(end - begin for name, begin, end in phases if name == "verifying")
        values = {"peak_memory_mb": ended.memory_mb}
        for name, begin, end in phases:
            values[f"segue_{name.replace('-', '_')}_seconds"] = end - begin
        return Timing(seconds - comparing, values, {"segue_verified": seconds}), step

    def check(self, url: str, before: tuple[Any, ...], contender: str) -> None:
        """Raise when the table is not what it has to be."""
        with psycopg.connect(url, autocommit=True) as connection:
            after: Any = connection.execute(FACTS.encode()).fetchone()
            kind: Any = connection.execute(
                "select format_type(atttypid, atttypmod) from pg_attribute "
                "where attrelid = 'orders'::regclass and attname = 'customer_id'"
            ).fetchone()
            indexes: Any = connection.execute(
                "select count(*) from pg_index where indrelid = 'orders'::regclass and indisvalid"
            ).fetchone()
        wanted = "integer" if contender == "pg_repack" else "bigint"
        if tuple(after) != before or kind[0] != wanted or indexes[0] != 1 + len(INDEXES):
            raise StepFailed(f"{contender} left the table wrong: {before} became {after}, {kind[0]}, {indexes[0]}")

    def facts(self, url: str) -> tuple[Any, ...]:
        """Return what must be the same afterwards."""
        with psycopg.connect(url, autocommit=True) as connection:
            row: Any = connection.execute(FACTS.encode()).fetchone()
        return tuple(row)


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
