"""Changing a column's type in a large idle table: Segue beside the blocking ALTER TABLE, and beside pg_repack."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._rewriting import Rewriting, rewritten
from benchmarks._rounds import Stage, Timing


class OnlineChangeBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "alter", "pg_repack")
    ratios = (
        ("segue", "alter"),
        ("segue", "pg_repack"),
        ("segue_verified", "alter"),
        ("wal_segue", "wal_alter"),
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
    facts: tuple[Any, ...] = ()

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        table = self.table
        with table.server.copy(f"round_{number}", ["orders"]) as url:
            self.facts = self.facts or table.facts(url)
            before = table.server.wal_position()
            if contender == "segue":
                timing, _ = table.segue(url, number)
            else:
                timing = {"alter": table.alter, "pg_repack": table.pg_repack}[contender](url, number)
            wal = table.server.wal_position() - before
            table.check(url, self.facts, contender)
        return Timing(timing.seconds, {**timing.values, f"wal_{contender}": wal}, timing.also)

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure nothing beside."""
        return {}


BENCHMARK = OnlineChangeBenchmark()
