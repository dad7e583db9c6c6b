"""Copying a large table with its indexes into another database: Segue beside pgcopydb, and pg_dump with pg_restore."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql

from benchmarks._commands import command, environ, libpq
from benchmarks._rewriting import BINARIES, FACTS, FILL, INDEXES, TABLE
from benchmarks._rounds import Stage, Timing
from benchmarks._server import Server, run_child, server
from segue.errors import ConfigurationError, StepFailed

ROWS = 5_000_000
JOBS = "2"


class CopyBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "pgcopydb", "pg_dump_restore")
    ratios = (("segue", "pgcopydb"), ("segue", "pg_dump_restore"))

    @contextlib.contextmanager
    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Stage]:
        """Start a server of Debian's PostgreSQL 15 and fill the table: a key and two more indexes."""
        if shutil.which("pgcopydb") is None or not (BINARIES / "postgres").exists():
            raise ConfigurationError(
                "this benchmark needs Debian's PostgreSQL 15 and pgcopydb",
                hint="apt-get install postgresql-15 pgcopydb",
            )
        rows = max(1000, round(ROWS * scale))
        with server(folder / "target", bin_dir=BINARIES) as target:
            say(f"filling a table of {rows:,} rows")
            url = target.pristine()
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(TABLE)
                for begin in range(1, rows + 1, 1_000_000):
                    connection.execute(FILL.encode(), [begin, min(rows, begin + 999_999)])
                for index in INDEXES:
                    connection.execute(index.encode())
                connection.execute("vacuum (freeze, analyze)")
                facts: Any = connection.execute(FACTS.encode()).fetchone()
                size: Any = connection.execute("select pg_table_size('orders')").fetchone()
            say(f"the table has {size[0] / 1e6:,.0f} MB")
            yield _Stage(folder, target, url, rows, tuple(facts))


@dataclass(slots=True)
class _Stage:
    folder: Path
    server: Server
    source: str
    rows: int
    facts: tuple[Any, ...]

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        name = f"round_{number}"
        with self._empty(name) as url:
            before = self.server.wal_position()
            copy = {"segue": self._segue, "pgcopydb": self._pgcopydb, "pg_dump_restore": self._dump}[contender]
            seconds, values = copy(url, number)
            wal = self.server.wal_position() - before
            self._check(url, contender)
        return Timing(seconds, {**values, f"wal_bytes_{contender}": wal})

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure nothing beside."""
        return {}

    @contextlib.contextmanager
    def _empty(self, name: str) -> Iterator[str]:
        """Give an empty database, with nothing left to be written to disk from what was before."""
        identifier = sql.Identifier(name)
        with psycopg.connect(self.server.cluster.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(identifier))
            connection.execute("checkpoint")
        os.sync()
        try:
            yield self.server.cluster.url(name)
        finally:
            with psycopg.connect(self.server.cluster.url("postgres"), autocommit=True) as connection:
                connection.execute(sql.SQL("drop database {} with (force)").format(identifier))

    def _segue(self, url: str, number: int) -> tuple[float, dict[str, float]]:
        """Copy as a user does, in one process that counts the rows on both sides too; naming the move is not timed."""
        for name, place in ((f"from-{number}", self.source), (f"to-{number}", url)):
            command(self.folder, ["env", "add", name, "--type", "test", "--url-stdin"], place)
        move = f"m{number}"
        create = ["create", move, "--from", f"from-{number}", "--to", f"to-{number}", "-t", "orders"]
        command(self.folder, ["move", *create, "--schema", "--once"], "")
        began = time.perf_counter()
        used = self._run(
            [sys.executable, "-m", "segue", "move", "start", move, "--workers", JOBS], environ(self.folder)
        )
        return time.perf_counter() - began, {"peak_memory_mb": used}

    def _pgcopydb(self, url: str, number: int) -> tuple[float, dict[str, float]]:
        place = self.folder / f"pgcopydb-{number}"
        words = ["--table-jobs", JOBS, "--index-jobs", JOBS, "--split-tables-larger-than", "256MB"]
        given = {"PGCOPYDB_SOURCE_PGURI": self.source, "PGCOPYDB_TARGET_PGURI": url}
        began = time.perf_counter()
        self._run(["pgcopydb", "clone", *words, "--no-acl", "--no-owner", "--dir", str(place)], self._tools(given))
        seconds = time.perf_counter() - began
        shutil.rmtree(place, ignore_errors=True)
        return seconds, {}

    def _dump(self, url: str, number: int) -> tuple[float, dict[str, float]]:
        place = self.folder / f"dump-{number}"
        began = time.perf_counter()
        self._run(
            [str(BINARIES / "pg_dump"), "-Fd", "-Z0", "-j", JOBS, "-f", str(place)],
            self._tools(libpq(self.source)),
        )
        restore = [str(BINARIES / "pg_restore"), "-j", JOBS, "-d", str(conninfo.conninfo_to_dict(url)["dbname"])]
        self._run([*restore, str(place)], self._tools(libpq(url)))
        seconds = time.perf_counter() - began
        shutil.rmtree(place, ignore_errors=True)
        return seconds, {}

    def _tools(self, given: Mapping[str, str]) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("SEGUE_", "PG"))}
        return {**mine, "PATH": f"{BINARIES}:{mine.get('PATH', '')}", "PGOPTIONS": "", **given}

    def _run(self, words: list[str], environment: dict[str, str]) -> float:
        log = self.folder / "copy.log"
        with log.open("wb") as out:
            ended = run_child(words, environment, out, out)
        if ended.code:
            said = log.read_text(errors="replace")[-2000:]
            raise StepFailed(f"{words[0]} ended with exit code {ended.code}", details=[said])
        return ended.memory_mb

    def _check(self, url: str, contender: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            after: Any = connection.execute(FACTS.encode()).fetchone()
            indexes: Any = connection.execute(
                "select count(*) from pg_index where indrelid = 'orders'::regclass and indisvalid"
            ).fetchone()
            left: Any = connection.execute("select count(*) from pg_namespace where nspname like 'segue%'").fetchone()
        if tuple(after) != self.facts or indexes[0] != 1 + len(INDEXES) or left[0]:
            raise StepFailed(f"{contender} left the table wrong: {after}, {indexes[0]} indexes, {left[0]} schemas")


BENCHMARK = CopyBenchmark()
