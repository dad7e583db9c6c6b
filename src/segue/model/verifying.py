"""Two databases compared: what is asked, and what was found to differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: What a row may be on the second side.
MISSING, EXTRA, DIFFERENT = "missing", "extra", "different"


@dataclass(frozen=True, slots=True)
class VerifySpec:
    """What is compared. Tables are pairs of names, as SQL writes them; none: all that both sides have.

    `where`: SQL that both sides understand; `columns`: those to look at, None for all that both have; `jobs`: ranges
    at a time; `settle`: seconds for which rows that differ are looked at again, since they may be under way; `listed`:
    rows that are named at most, for each table; `range_rows`: how many the first range has.
    """

    tables: tuple[tuple[str, str], ...] = ()
    where: str | None = None
    columns: tuple[str, ...] | None = None
    jobs: int = 2
    settle: float = 2.0
    listed: int = 10_000
    range_rows: int = 100_000


@dataclass(frozen=True, slots=True)
class RowDifference:
    """A row that differs, by its key as texts. `columns`: those that differ, where both sides have the row."""

    key: tuple[str, ...]
    kind: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableVerdict:
    """What became of one pair of tables.

    `rows`: those of each side. `more`: rows that differ, at least, beside those that are listed. `texts`: columns that
    were compared by their text, and why. `alone`: columns that one side alone has. `note`: what else there is to say.
    """

    name: str
    other: str
    rows: tuple[int, int] = (0, 0)
    key: tuple[str, ...] = ()
    differences: tuple[RowDifference, ...] = ()
    more: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    alone: tuple[str, ...] = ()
    note: str = ""
    repaired: int = 0
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Return whether both hold the same rows in the same columns."""
        return not (self.differences or self.more or self.alone)
