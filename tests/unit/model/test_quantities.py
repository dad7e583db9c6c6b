"""Durations, sizes and counts as people write them."""

from __future__ import annotations

import pytest

from segue.model import quantities


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h 30m", 5400), ("1d", 86400), ("2min", 120), ("7", 7), (0.5, 0.5)],
)
def test_duration_is_read(text: str | float, seconds: float) -> None:
    assert quantities.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "-1s", "1h,2m", "m5", True, -1, float("inf"), float("nan")])
def test_what_is_no_duration_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        quantities.seconds(text)


@pytest.mark.parametrize(("seconds", "text"), [(0.012, "12 ms"), (3.24, "3.2 s"), (250, "4 m 10 s"), (7500, "2 h 5 m")])
def test_duration_is_written(seconds: float, text: str) -> None:
    assert quantities.duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(12, "12 B"), (812_000, "812 kB"), (1_300_000_000, "1.3 GB")])
def test_size_is_written(size: float, text: str) -> None:
    assert quantities.size(size) == text
