"""Bringing a copy up to date with what was written meanwhile: Segue's key log beside the server's own subscription."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql

from benchmarks._commands import command, environ
from benchmarks._rewriting import FACTS, FILL, INDEXES, TABLE
from benchmarks._rounds import Stage, Timing
from benchmarks._server import Server, run_child, server
from segue.errors import StepFailed

ROWS = 1_000_000
#: Changes for each row of the table.
SHARE = 0.4
#: Changes in a transaction: seven updates, two inserts and a delete.
EACH = 10
DONE = -1

# Keys are spread over the table and mostly touched once: what is touched twice costs the key log nothing.
_CHURN = """
create procedure churn(rows bigint, transactions bigint) language plpgsql as $$
begin
    for n in 1..transactions loop
        update orders set status = 'paid', total = total + 1, version = version + 1
        where id in (select 1 + abs(hashint8extended(n * 10 + j, 7)) % rows from generate_series(1, 7) as j);
        insert into orders
        select rows + n * 2 + j, j, 'new', n / 7.0, jsonb_build_object('trace', md5(n::text)), null, now(), 0
        from generate_series(0, 1) as j;
        delete from orders where id = 1 + abs(hashint8extended(n * 10, 8)) % rows;
        commit;
    end loop;
end
$$
"""
_SHAPE = "tables:\n  orders:\n    from: orders\n"


class ApplyBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "native_apply")
    ratios = (("segue", "native_apply"),)

    @contextlib.contextmanager
    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Stage]:
        """Start a server and fill the table: a key and two more indexes."""
        rows = max(1000, round(ROWS * scale))
        with server(folder / "target") as target:
            say(f"filling a table of {rows:,} rows")
            with psycopg.connect(target.pristine(), autocommit=True) as connection:
                connection.execute(TABLE)
                for begin in range(1, rows + 1, 1_000_000):
                    connection.execute(FILL.encode(), [begin, min(rows, begin + 999_999)])
                for index in INDEXES:
                    connection.execute(index.encode())
                connection.execute(_CHURN.encode())
            yield _Stage(folder, target, rows)


@dataclass(slots=True)
class _Stage:
    folder: Path
    server: Server
    filled: int

    @property
    def rows(self) -> int:
        """Return how many rows are changed."""
        return round(self.filled * SHARE) // EACH * EACH

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        apply = {"segue": self._segue, "native_apply": self._native}[contender]
        with (
            self.server.copy(f"source_{number}", ["orders"]) as source,
            self.server.copy(f"target_{number}", ["orders"]) as target,
        ):
            timing = apply(source, target, number)
            found = []
            for url in (source, target):
                with psycopg.connect(url) as connection:
                    found.append(connection.execute(FACTS.encode()).fetchone())
            if found[0] != found[1]:
                raise StepFailed(f"{contender} left the copy wrong: {found[1]}, not {found[0]}")
        return timing

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure nothing beside."""
        return {}

    def _segue(self, source: str, target: str, number: int) -> Timing:
        """Follow as a user does, until nothing is left; the copy is not timed."""
        _do(target, "truncate orders")
        for name, place in ((f"from-{number}", source), (f"to-{number}", target)):
            command(self.folder, ["env", "add", name, "--type", "test", "--url-stdin"], place)
        move, shape = f"m{number}", self.folder / "shape.yaml"
        shape.write_text(_SHAPE)
        create = ["create", move, "--from", f"from-{number}", "--to", f"to-{number}", "--shape", str(shape)]
        command(self.folder, ["move", *create], "")
        command(self.folder, ["move", "start", move], "")
        written = self._write(source, target)
        log = self.folder / "follow.log"
        before = self.server.wal_position()
        began = time.perf_counter()
        with log.open("wb") as out:
            words = [sys.executable, "-m", "segue", "move", "follow", move, "--once"]
            ended = run_child(words, environ(self.folder), out, out)
        seconds = time.perf_counter() - began
        if ended.code:
            raise StepFailed("segue did not apply", details=[log.read_text(errors="replace")[-2000:]])
        values = {"peak_memory_mb": ended.memory_mb, "wal_bytes_segue": self.server.wal_position() - before}
        return Timing(seconds, {**values, "write_seconds_segue": written})

    def _native(self, source: str, target: str, number: int) -> Timing:
        """Let the server apply, with its own settings."""
        slot = f"slot_{number}"
        _do(source, "create publication p for table orders")
        _do(source, f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        parts: dict[str, Any] = conninfo.conninfo_to_dict(source)
        with psycopg.connect(target, autocommit=True) as connection:
            made = sql.SQL(
                "create subscription {} connection {} publication p with "
                "(copy_data = false, create_slot = false, enabled = false, slot_name = {})"
            ).format(sql.Identifier(slot), sql.Literal(conninfo.make_conninfo("", **parts)), sql.Identifier(slot))
            connection.execute(made)
            try:
                written = self._write(source, target)
                before = self.server.wal_position()
                began = time.perf_counter()
                connection.execute(sql.SQL("alter subscription {} enable").format(sql.Identifier(slot)))
                while not connection.execute("select from orders where id = %s", [DONE]).rowcount:
                    time.sleep(0.005)
                seconds = time.perf_counter() - began
                wal = self.server.wal_position() - before
            finally:
                connection.execute(sql.SQL("drop subscription {}").format(sql.Identifier(slot)))
        return Timing(seconds, {"wal_bytes_native_apply": wal, "write_seconds_native_apply": written})

    def _write(self, source: str, target: str) -> float:
        """Change rows, the last of which is the one called DONE; return the seconds."""
        began = time.perf_counter()
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute("set synchronous_commit = off")
            connection.execute("call churn(%s, %s)", [self.filled, self.rows // EACH])
            connection.execute("set synchronous_commit = on")
            connection.execute(f"insert into orders values ({DONE}, 1, 'done', 1, '{{}}', null, now())".encode())
        seconds = time.perf_counter() - began
        for url in (source, target):
            _do(url, "vacuum (analyze) orders")
        _do(target, "checkpoint")
        os.sync()
        return seconds


def _do(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


BENCHMARK = ApplyBenchmark()
