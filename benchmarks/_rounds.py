"""Times the contenders of a benchmark in turns and sums up: medians, ranges, ratios."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Timing:
    """What one contender took once: `seconds` of wall time, and numbers beside by name.

    `also`: seconds of contenders that are parts of the same run, or the whole of it.
    """

    seconds: float
    values: Mapping[str, float] = field(default_factory=dict)
    also: Mapping[str, float] = field(default_factory=dict)


class Stage(Protocol):
    """A benchmark that is set up: its servers run and its data is there."""

    #: How many rows (or other pieces) one contender works through.
    rows: int

    def time(self, contender: str, number: int) -> Timing:
        """Restore the data, let one contender work on it, check its work, and say how long the work took.

        `number` grows with each call. Raises when the work is wrong: a fast wrong answer is no measurement.
        """
        ...

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure once a round what is no contest; numbers by name."""
        ...


class Benchmark(Protocol):
    """Something to measure."""

    #: The first is the one that the others are judged against.
    contenders: Sequence[str]
    #: Which times to divide, or which values: (a, b) gives "a/b".
    ratios: Sequence[tuple[str, str]]

    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> AbstractContextManager[Stage]:
        """Set up in a private folder; leaving stops everything that was started."""
        ...


@dataclass(slots=True)
class Result:
    """What was measured; times in seconds by contender, in the order of the rounds."""

    name: str
    rounds: int
    rows: int
    ratios: Sequence[tuple[str, str]]
    seconds: dict[str, list[float]]
    values: dict[str, float]
    #: Every number beside, in the order of the rounds.
    all_values: Mapping[str, list[float]] = field(default_factory=dict)

    def ratio(self, a: str, b: str) -> float:
        """Return the median of `a` by the median of `b`, times or values."""
        return median(self._all(a)) / median(self._all(b))

    def _all(self, name: str) -> list[float]:
        return self.seconds[name] if name in self.seconds else self.all_values[name]

    def as_json(self) -> dict[str, Any]:
        """Return the one object that `--json` prints."""
        return {
            "segue": 1,
            "name": self.name,
            "rounds": self.rounds,
            "results": {
                name: {
                    "seconds": [round(one, 4) for one in times],
                    "median": round(median(times), 4),
                    "rows_per_s": round(self.rows / median(times), 1),
                }
                for name, times in self.seconds.items()
            },
            "ratios": {f"{a}/{b}": round(self.ratio(a, b), 4) for a, b in self.ratios},
            "values": {name: round(value, 3) for name, value in self.values.items()},
        }

    def as_text(self) -> str:
        """Return tables for people."""
        width = max(len(name) for name in [*self.seconds, *self.values, *(f"{a}/{b}" for a, b in self.ratios)])
        lines = [f"{self.name}: {self.rows:,} rows, {self.rounds} rounds", ""]
        lines.append(f"{'':<{width}}  {'median s':>9}  {'range s':>15}  {'rows/s':>9}")
        for name, times in self.seconds.items():
            middle = median(times)
            spread = f"{min(times):.2f} to {max(times):.2f}"
            lines.append(f"{name:<{width}}  {middle:>9.2f}  {spread:>15}  {self.rows / middle:>9,.0f}")
        lines += ["", f"{'':<{width}}  {'ratio':>9}  {'range':>15}"]
        for a, b in self.ratios:
            # Within a round both ran under the same conditions, so the range is that of the rounds' own ratios.
            single = [x / y for x, y in zip(self._all(a), self._all(b), strict=True)]
            spread = f"{min(single):.2f} to {max(single):.2f}"
            lines.append(f"{f'{a}/{b}':<{width}}  {self.ratio(a, b):>9.2f}  {spread:>15}")
        lines.append("")
        lines += [f"{name:<{width}}  {value:>15,.2f}" for name, value in self.values.items()]
        return "\n".join(lines)


def measure(
    benchmark: Benchmark, name: str, folder: Path, *, rounds: int, scale: float, say: Callable[[str], None]
) -> Result:
    """Run a benchmark: in each round every contender once, in an order that moves on by one from round to round.

    Values are medians over the rounds, but of those that begin with `peak_` the largest counts.
    """
    seconds: dict[str, list[float]] = {contender: [] for contender in benchmark.contenders}
    values: dict[str, list[float]] = defaultdict(list)
    number = 0
    with benchmark.open(folder, scale, say) as stage:
        for round_ in range(rounds):
            # Whoever always came first would always find the machine as the last one left it.
            shift = round_ % len(benchmark.contenders)
            for contender in [*benchmark.contenders[shift:], *benchmark.contenders[:shift]]:
                number += 1
                timing = stage.time(contender, number)
                seconds[contender].append(timing.seconds)
                for key, value in timing.values.items():
                    values[key].append(value)
                for key, value in timing.also.items():
                    seconds.setdefault(key, []).append(value)
                say(f"round {round_ + 1} of {rounds}: {contender} {timing.seconds:.2f} s")
            number += 1
            for key, value in stage.beside(number).items():
                values[key].append(value)
        rows = stage.rows
    return Result(
        name=name,
        rounds=rounds,
        rows=rows,
        ratios=benchmark.ratios,
        seconds=seconds,
        values={key: max(all_) if key.startswith("peak_") else median(all_) for key, all_ in sorted(values.items())},
        all_values=values,
    )
