"""Handing out batches: Segue's labourers in two processes beside two that claim rows with SKIP LOCKED and no more."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._rounds import Stage, Timing
from benchmarks._server import Server, server
from segue.databases.postgresql import DATABASE
from segue.errors import StepFailed
from segue.ports import FORWARD, Batch, EffectKey, Pace, Patience
from segue.steps.backfill import STEP, BackfillParams

BATCHES = 10_000
PROCESSES = 2

# One row, behind all the ranges that are handed out: in none of them is anything to write.
TABLE = "create table nearly_empty (id bigint primary key, n integer not null default 0)"
ROW = "insert into nearly_empty (id) values (1000000000)"
KEYS = 10
PARAMS: dict[str, Any] = {"name": "fill", "table": "nearly_empty", "set": {"n": "n + 1"}}
KEY = EffectKey("bench", "bench", "", "fill", FORWARD, 0)

JOBS = (
    "create table job (id integer primary key, state text not null default 'pending', owner text, "
    "claimed_at timestamptz, done_at timestamptz)",
    "create index job_pending on job (id) where state = 'pending'",
)


class DispatchBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "segue_one_by_one", "bare_loop")
    ratios = (("segue", "bare_loop"), ("segue_one_by_one", "bare_loop"))

    @contextlib.contextmanager
    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Stage]:
        """Start a server and make what is handed out."""
        batches = max(PROCESSES, round(BATCHES * scale))
        with server(folder / "target") as target:
            with psycopg.connect(target.pristine(), autocommit=True) as connection:
                for statement in (TABLE, ROW, *JOBS):
                    connection.execute(statement.encode())
                connection.execute("insert into job (id) select generate_series(1, %s)", [batches])
            yield _Stage(target, batches)


@dataclass(slots=True)
class _Stage:
    server: Server
    rows: int

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        with self.server.copy(f"round_{number}", ["job", "nearly_empty"]) as url:
            return self._bare_loop(url) if contender == "bare_loop" else self._segue(url, contender)

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure nothing else."""
        return {}

    def _segue(self, url: str, contender: str) -> Timing:
        # With chunks that may not have more keys than a batch, no two batches are written together.
        batch = {"size": KEYS, **({"max": KEYS} if contender == "segue_one_by_one" else {})}
        params = {**PARAMS, "batch": batch}
        target = DATABASE.open_target(url, execution=KEY.execution, holder="bench", schema="public")
        try:
            board = STEP.shared(BackfillParams(**params), target, KEY, Patience(60, 3600)).work.board
            board.open(Pace())
            board.offer([_empty(number) for number in range(1, self.rows + 1)])
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("vacuum (analyze)")
                connection.execute("checkpoint")
            words = {"key": asdict(KEY), "fence": target.fence, "schema": "public", "params": params}
            timing = _race(contender, url, json.dumps(words), self.rows)
            board.close(ended=True)
        finally:
            target.close()
        _check(url, "select count(*), count(distinct batch) from segue.chunk", self.rows)
        _check(url, "select count(*), count(*) from segue.batch where state = 'done' and token = 1", self.rows)
        return timing

    def _bare_loop(self, url: str) -> Timing:
        timing = _race("bare_loop", url, "", self.rows)
        _check(url, "select count(*), count(done_at) from job where state = 'done'", self.rows)
        return timing


def _empty(number: int) -> Batch:
    after = (str((number - 1) * KEYS),) if number > 1 else None
    return Batch(number, after, (str(number * KEYS),), KEYS, size=KEYS)


def _race(contender: str, url: str, words: str, batches: int) -> Timing:
    """Start the processes, wait until all stand ready, and time them from the signal until the last has ended."""
    started: list[subprocess.Popen[str]] = []
    try:
        for number in range(1, PROCESSES + 1):
            command = [sys.executable, "-m", "benchmarks._dispatching", contender, url, f"labourer {number}", words]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.append(process)
        for process in started:
            if _line(process) != "ready":
                raise StepFailed(f"a process of {contender} did not begin")
        began = time.perf_counter()
        for process in started:
            print(file=process.stdin, flush=True)
        shares = [int(_line(process) or 0) for process in started]
        seconds = time.perf_counter() - began
    finally:
        for process in started:
            process.kill()
            process.communicate()
    if sum(shares) != batches:
        raise StepFailed(f"{contender} did {sum(shares):,} of {batches:,} batches")
    return Timing(seconds, {f"least_share_{contender}": min(shares) / batches})


def _line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip() if process.stdout is not None else ""


def _check(url: str, query: str, wanted: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        row: Any = connection.execute(query.encode()).fetchone()
    if row != (wanted, wanted):
        raise StepFailed(f"of {wanted:,} batches the target shows {row[0]:,} and {row[1]:,}")


BENCHMARK = DispatchBenchmark()
