"""Compares what a query gave with what it must give."""

from __future__ import annotations

import datetime as dt
import json
import math
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.model.plans import Expectation


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict: whether the answer is as expected, and what was expected and found."""

    passed: bool
    expected: Any
    actual: Any
    said: str

    def as_json(self, query: str, names: Sequence[str], seconds: float) -> dict[str, Any]:
        """Return the verdict as the store keeps it; `seconds` is how long the query took."""
        return {
            "query": query,
            "columns": list(names),
            "expected": self.expected,
            "actual": self.actual,
            "passed": self.passed,
            "error": None if self.passed else self.said,
            "seconds": round(seconds, 6),
        }


#: Rows of an answer that are looked at, where no more are expected.
SHOWN = 1000


def wanted(expectation: Expectation) -> int:
    """Return how many rows of the answer must be fetched: one more than expected, or a longer answer would pass."""
    return max(SHOWN, len(expectation.rows or []) + 1)


def meets(expectation: Expectation, rows: Sequence[Sequence[Any]]) -> Answer:
    """Compare a result with the expectation; numbers within its tolerance."""
    actual_rows = [[plain(value) for value in row] for row in rows]
    if "scalar" in expectation.model_fields_set:
        expected: Any = plain(expectation.scalar)
        if len(actual_rows) != 1 or len(actual_rows[0]) != 1:
            shape = f"{len(actual_rows)} rows" + (f" of {len(actual_rows[0])} columns" if actual_rows else "")
            return Answer(False, expected, actual_rows[:5], f"expected one value, found {shape}")
        actual: Any = actual_rows[0][0]
        equal = same(expected, actual, expectation.tolerance)
    elif "row" in expectation.model_fields_set:
        expected = [plain(value) for value in expectation.row or []]
        if len(actual_rows) != 1:
            return Answer(False, expected, actual_rows[:5], f"expected one row, found {len(actual_rows)}")
        actual = actual_rows[0]
        equal = _same_row(expected, actual, expectation.tolerance)
    else:
        expected = [[plain(value) for value in row] for row in expectation.rows or []]
        actual = actual_rows
        equal = len(expected) == len(actual) and all(
            _same_row(one, other, expectation.tolerance) for one, other in zip(expected, actual, strict=True)
        )
    words = f"found {_short(actual)}" + ("" if equal else f", expected {_short(expected)}")
    if expectation.tolerance:
        words += f" (tolerance {expectation.tolerance:.1%})"
    return Answer(equal, expected, actual, words)


def plain(value: Any) -> Any:
    """Return a value of the database as JSON can hold it."""
    if isinstance(value, Decimal | float) and not math.isfinite(value):
        # As PostgreSQL writes them: JSON has no such numbers, and the store would refuse the record.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dt.datetime | dt.date | dt.time | dt.timedelta | uuid.UUID):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def same(expected: Any, actual: Any, tolerance: float) -> bool:
    """Return whether two values are the same; numbers may differ by `tolerance` times the expected one."""
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, int | float) and isinstance(actual, int | float):
        return expected == actual or abs(actual - expected) <= tolerance * abs(expected)
    return bool(expected == actual)


def _same_row(expected: Sequence[Any], actual: Sequence[Any], tolerance: float) -> bool:
    return len(expected) == len(actual) and all(
        same(one, other, tolerance) for one, other in zip(expected, actual, strict=True)
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "…"
