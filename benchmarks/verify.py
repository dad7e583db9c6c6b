"""Comparing two equal tables of five million rows in two databases: Segue beside reladiff.

Both look at the same columns: once those whose values the server can hash (`segue`, `reladiff`), once those that are
compared by their text (`segue_text`, `reladiff_text`), and once two tables of which ten rows differ (`segue_ten`,
`reladiff_ten`), which each has to name.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks._commands import command, environ, libpq
from benchmarks._rounds import Stage, Timing
from benchmarks._server import run_child, server
from segue.errors import ConfigurationError, StepFailed

ROWS = 5_000_000
JOBS = "2"
PEER = "reladiff[postgresql]==0.6.0"
KEY = "id"
HASHED = ("customer_id", "status", "note", "placed", "version")
AS_TEXT = ("total", "created_at", "weight")
TABLE = """
create table orders (
    id bigint primary key,
    customer_id integer not null,
    status text not null,
    note text,
    placed date not null,
    version integer not null,
    total numeric(12, 2) not null,
    created_at timestamptz not null,
    weight double precision not null
)
"""
FILL = """
insert into orders
select n, 1 + (n * 7919) %% 100000,
    (array['new', 'paid', 'packed', 'shipped', 'delivered', 'returned'])[1 + n %% 6],
    case when n %% 4 = 0 then null else repeat(md5(n::text), 2) end,
    date '2020-01-01' + (n %% 2000)::integer, 0, (n %% 100000) / 7.0,
    timestamptz '2020-01-01 00:00:00+00' + n * interval '17 seconds', n / 3.0
from generate_series(%s::bigint, %s::bigint) as n
"""


class VerifyBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "reladiff", "segue_text", "reladiff_text", "segue_ten", "reladiff_ten")
    ratios = (("segue", "reladiff"), ("segue_text", "reladiff_text"), ("segue_ten", "reladiff_ten"))

    @contextlib.contextmanager
    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Stage]:
        """Install the peer, start a server, and make three databases: two are equal, in the third ten rows differ."""
        say("installing reladiff")
        peer = _peer(folder / "peer")
        rows = max(1000, round(ROWS * scale))
        with server(folder / "target") as target:
            say(f"filling a table of {rows:,} rows")
            url = target.pristine()
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(TABLE)
                for begin in range(1, rows + 1, 1_000_000):
                    connection.execute(FILL.encode(), [begin, min(rows, begin + 999_999)])
                connection.execute("vacuum (freeze, analyze)")
            with (
                target.copy("a", ["orders"]) as a,
                target.copy("b", ["orders"]) as b,
                target.copy("c", ["orders"]) as c,
            ):
                different = {1 + part * (rows - 1) // 9 for part in range(10)}
                with psycopg.connect(c, autocommit=True) as connection:
                    connection.execute("update orders set version = 1 where id = any(%s)", [list(different)])
                for name, place in {"a": a, "b": b, "c": c}.items():
                    command(folder, ["env", "add", name, "--type", "test", "--url-stdin"], place)
                yield _Stage(folder, peer, {"a": a, "b": b, "c": c}, different, rows)


@dataclass(slots=True)
class _Stage:
    folder: Path
    peer: Path
    urls: Mapping[str, str]
    different: set[int]
    rows: int

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        tool, _, case = contender.partition("_")
        columns = AS_TEXT if case == "text" else HASHED
        other = "c" if case == "ten" else "b"
        return (self._segue if tool == "segue" else self._reladiff)(columns, other)

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure nothing beside."""
        return {}

    def _segue(self, columns: tuple[str, ...], other: str) -> Timing:
        chosen = [word for column in columns for word in ("--column", column)]
        words = [sys.executable, "-m", "segue", "verify", "a", other, "--table", "orders", "--jobs", JOBS, "--json"]
        seconds, memory, said = self._run([*words, *chosen], {0, 1})
        found = {int(row["key"][0]) for table in json.loads(said)["tables"] for row in table["differences"]}
        self._check("segue", found, other)
        return Timing(seconds, {"peak_memory_mb": memory})

    def _reladiff(self, columns: tuple[str, ...], other: str) -> Timing:
        chosen = [word for column in columns for word in ("-c", column)]
        # It knows no sockets in a URL, but libpq, on which it stands, knows them from its variables.
        places = [f"postgresql:///{name}" for name in ("a", other)]
        words = [str(self.peer), places[0], "orders", places[1], "orders", "-k", KEY, "-j", JOBS]
        seconds, memory, said = self._run([*words, *chosen], {0}, {**libpq(self.urls["a"]), "COLUMNS": "1000"})
        # A line is a sign and the values of a row, the key first; its JSON is none where there are dates.
        found = {int(line[2:].split(",")[0]) for line in said.splitlines()}
        self._check("reladiff", found, other)
        return Timing(seconds, {"peak_memory_mb_reladiff": memory})

    def _run(
        self, words: list[str], good: set[int], given: Mapping[str, str] | None = None
    ) -> tuple[float, float, str]:
        out, err = self.folder / "verify.out", self.folder / "verify.err"
        with out.open("wb") as said, err.open("wb") as complained:
            began = time.perf_counter()
            ended = run_child(words, {**environ(self.folder), **(given or {})}, said, complained)
            seconds = time.perf_counter() - began
        complaint = err.read_text(errors="replace")[-2000:]
        # The peer exits with 0 when it could not even connect.
        if ended.code not in good or "ERROR" in complaint:
            raise StepFailed(f"{Path(words[0]).name} ended with exit code {ended.code}", details=[complaint])
        return seconds, ended.memory_mb, out.read_text()

    def _check(self, tool: str, found: set[int], other: str) -> None:
        expected = self.different if other == "c" else set()
        if found != expected:
            raise StepFailed(f"{tool} found {len(found)} rows that differ, not {len(expected)}")


def _peer(folder: Path) -> Path:
    """Install the peer where nothing of ours is, and return its command."""
    venv.create(folder, with_pip=True)
    words = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", PEER]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(
            "reladiff could not be installed", details=[done.stderr.strip()[-1000:]], hint="pip needs its index"
        )
    return folder / "bin" / "reladiff"


BENCHMARK = VerifyBenchmark()
