"""The same change while an application works: what its transactions feel, beside pg_repack."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._rewriting import BINARIES, Rewriting, rewritten
from benchmarks._rounds import Stage, Timing
from segue.errors import StepFailed

#: The application's 95th percentile, which Segue is asked to keep.
OPTIONS = ("--latency-budget", "p95=10ms")
RATE = 500
CLIENTS = 4
#: How long the application works alone before and after.
ALONE_SECONDS = 20.0
AFTER_SECONDS = 5.0

SCRIPT = """\
\\set id random(1, {rows})
BEGIN;
SELECT id, status, total, details FROM orders WHERE id = :id;
UPDATE orders SET version = version + 1, status = 'seen' WHERE id = :id;
COMMIT;
"""
#: What the application changes is left out of the comparison.
FACTS = """
select count(*), sum(customer_id)::bigint, sum(pg_catalog.hashtextextended(o.details::text || coalesce(o.note, ''), 0)),
    sum(version)::bigint
from orders as o
"""


class OnlineChangeLoadBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "pg_repack")
    ratios = (
        ("segue", "pg_repack"),
        ("p95_during", "p95_before"),
        ("p95_segue", "p95_pg_repack"),
        ("p99_segue", "p99_pg_repack"),
    )

    @contextlib.contextmanager
    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Stage]:
        """Start a server and fill the table."""
        with rewritten(folder, scale, say) as table:
            yield _Stage(table, table.rows)


@dataclass(slots=True)
class _Stage:
    table: Rewriting
    rows: int

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        table = self.table
        with table.server.copy(f"round_{number}", ["orders"]) as url:
            facts = _facts(url)
            with _Traffic(table.folder / f"traffic-{number}", url, self.rows) as traffic:
                traffic.alone(ALONE_SECONDS)
                began = time.time()
                phases: Sequence[Sequence[Any]] = ()
                values: dict[str, float] = {}
                if contender == "segue":
                    timing, step = table.segue(url, number, *OPTIONS)
                    phases = step["detail"]["phases"]
                    values["swap_lock_ms"] = values["peak_swap_lock_ms"] = float(step["detail"]["swap_lock_ms"])
                else:
                    timing = table.pg_repack(url, number)
                ended = time.time()
                traffic.alone(AFTER_SECONDS)
            after = _facts(url)
            acknowledged = len(traffic.latencies(0, float("inf")))
            # Each transaction adds one to the versions; the last lines of the log may not have been written.
            if after[:3] != facts[:3] or after[3] - facts[3] < acknowledged:
                raise StepFailed(
                    f"{contender} lost something: {facts} became {after} after {acknowledged} transactions"
                )
        before = traffic.latencies(began - ALONE_SECONDS + 2, began)
        during = traffic.latencies(began, ended)
        for name, at in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            values[f"{name}_{contender}_before"] = _at(before, at)
            values[f"{name}_{contender}"] = _at(during, at)
            if contender == "segue":
                values[f"{name}_before"], values[f"{name}_during"] = _at(before, at), _at(during, at)
                for phase, begin, end in phases:
                    seen = traffic.latencies(float(begin), float(end))
                    if seen:
                        values[f"{name}_while_{str(phase).replace('-', '_')}"] = _at(seen, at)
        values[f"max_{contender}"] = max(during, default=0.0)
        values[f"tps_{contender}"] = len(during) / (ended - began)
        values[f"peak_errors_{contender}"] = traffic.errors
        if contender == "segue":
            values["peak_errors"] = values["errors"] = traffic.errors
        return Timing(ended - began, {**timing.values, **values}, timing.also)

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure nothing beside."""
        return {}


class _Traffic:
    """pgbench, at a fixed rate; latency counts from when a transaction was due."""

    def __init__(self, folder: Path, url: str, rows: int) -> None:
        folder.mkdir()
        self._folder = folder
        (folder / "script.sql").write_text(SCRIPT.format(rows=rows))
        info = psycopg.conninfo.conninfo_to_dict(url)
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        given = {names[name]: str(value) for name, value in info.items() if name in names}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            **given,
        }
        self._found: list[tuple[float, float]] | None = None

    def __enter__(self) -> _Traffic:
        self._log = (self._folder / "pgbench.log").open("w+b")
        self._process = subprocess.Popen(
            [
                *(str(BINARIES / "pgbench"), "--no-vacuum", "--file", str(self._folder / "script.sql")),
                *("--client", str(CLIENTS), "--jobs", "2", "--rate", str(RATE), "--time", "86400"),
                *("--log", "--log-prefix", str(self._folder / "latency")),
            ],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._log.close()

    def alone(self, seconds: float) -> None:
        """Let the application work for so long; raises when it has stopped."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise StepFailed("pgbench stopped", details=[(self._folder / "pgbench.log").read_text()[-2000:]])
            time.sleep(0.1)

    @property
    def errors(self) -> int:
        """Return how many statements failed, by what pgbench said."""
        return (self._folder / "pgbench.log").read_text(errors="replace").count("ERROR")

    def latencies(self, begin: float, end: float) -> list[float]:
        """Return the latencies in milliseconds of what ended between two moments, sorted."""
        if self._found is None:
            self._found = []
            for file in self._folder.glob("latency.*"):
                for line in file.read_text(errors="replace").splitlines():
                    words = line.split()
                    if len(words) >= 6 and words[2].isdigit():
                        self._found.append((int(words[4]) + int(words[5]) / 1e6, int(words[2]) / 1000))
        return sorted(latency for at, latency in self._found if begin <= at < end)


def _facts(url: str) -> tuple[Any, ...]:
    with psycopg.connect(url, autocommit=True) as connection:
        row: Any = connection.execute(FACTS.encode()).fetchone()
    return tuple(row)


def _at(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


BENCHMARK = OnlineChangeLoadBenchmark()
