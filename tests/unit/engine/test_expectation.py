"""What a query gave is compared with what it must give."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from segue.engine.expectation import meets, wanted
from segue.model.plans import Expectation


def expect(**given: Any) -> Expectation:
    return Expectation(query="SELECT", **given)


@pytest.mark.parametrize(
    ("expectation", "rows", "passed"),
    [
        (expect(scalar=0), [(0,)], True),
        (expect(scalar=0), [(1,)], False),
        (expect(scalar=0), [], False),
        (expect(scalar=0), [(0,), (0,)], False),
        (expect(scalar=0), [(0, 0)], False),
        (expect(scalar=None), [(None,)], True),
        (expect(scalar=None), [(0,)], False),
        (expect(scalar=True), [(True,)], True),
        (expect(scalar=1), [(True,)], False),
        (expect(scalar="1"), [(1,)], False),
        (expect(scalar=12.5), [(Decimal("12.50"),)], True),
        (expect(scalar=100, tolerance=0.05), [(105,)], True),
        (expect(scalar=100, tolerance=0.05), [(106,)], False),
        (expect(scalar=0, tolerance=0.5), [(1,)], False),
        (expect(scalar="2026-11-22"), [(dt.date(2026, 11, 22),)], True),
        (expect(row=[1, "a"]), [(1, "a")], True),
        (expect(row=[1, "a"]), [(1,)], False),
        (expect(row=[1, "a"]), [(1, "a"), (1, "a")], False),
        (expect(rows=[]), [], True),
        (expect(rows=[[1], [2]]), [(1,), (2,)], True),
        (expect(rows=[[1], [2]]), [(2,), (1,)], False),
        (expect(rows=[[[1, 2]]]), [([1, 2],)], True),
        (expect(scalar="NaN"), [(float("nan"),)], True),
        (expect(scalar="-Infinity"), [(Decimal("-Infinity"),)], True),
        (expect(scalar=1, tolerance=1), [(float("inf"),)], False),
    ],
)
def test_answer_meets_its_expectation(expectation: Expectation, rows: list[tuple[Any, ...]], passed: bool) -> None:
    assert meets(expectation, rows).passed is passed


def test_answer_says_what_was_found_and_expected() -> None:
    assert meets(expect(scalar=0), [(3,)]).said == "found 3, expected 0"


def test_one_row_more_than_expected_is_asked_for() -> None:
    assert wanted(expect(rows=[[1]] * 1000)) == 1001
    assert wanted(expect(scalar=1)) == 1000


def test_what_json_cannot_hold_is_kept_as_text() -> None:
    found = [(float("nan"), Decimal("Infinity"), [float("-inf")], {"a": float("nan")})]
    assert meets(expect(row=[]), found).actual == ["NaN", "Infinity", ["-Infinity"], {"a": "NaN"}]


def test_not_a_number_is_no_number() -> None:
    assert meets(expect(scalar=1), [(Decimal("NaN"),)]).passed is False
