"""Limits as people write them: read, kept, put on top of each other, and refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from segue.model.throttling import Budget, ThrottleSettings, settings_of
from segue.rows.latency import number


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("p95=10ms", Budget("p95", 10)),
        ("avg = 0.5 s", Budget("avg", 500)),
        ("MAX=1.5ms", Budget("max", 1.5)),
    ],
)
def test_a_budget_is_a_statistic_and_a_time(text: str, budget: Budget) -> None:
    assert Budget.of(text) == budget
    assert Budget.of(str(budget)) == budget


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"latency_budget": "10ms"}, "is not a latency budget"),
        ({"latency_budget": "p95=10"}, "does not say its unit; write for example p95=10ms"),
        ({"latency_budget": "p42=10ms"}, "there is p50, p95, p99, avg, max"),
        ({"latency_budget": "p95=0ms"}, "more than nothing"),
        ({"latency_url": "file:///etc/passwd"}, "begins with http:// or https://"),
        ({"latency_url": "http://"}, "names a host"),
        ({"latency_url": "http://ada:secret@shop/latency"}, "may not hold a password"),
        ({"latency_url": "http://a/", "latency_probe": "SELECT 1"}, "not from both"),
        ({"latency_probe": " "}, "a latency probe is a SELECT"),
        ({"replica_lag": "soon"}, '"soon" is not a size; write for example 64MB'),
        ({"replica_delay": "far"}, "is not a duration"),
        ({"lock_waiters": "1.5"}, "is not a number of sessions"),
        ({"duty": "150%"}, "from 1% to 100%"),
        ({"workers": 0}, "workers: "),
        ({"wal": "1MB"}, '"wal" is no limit; there is latency-budget,'),
    ],
)
def test_what_is_no_limit_is_refused_in_words(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        settings_of(values)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_limits_are_kept_as_values_that_make_the_same_again() -> None:
    words = {"replica_lag": "64MB", "replica_delay": "1m 30s", "wal_rate": "50MB/s", "duty": "50%", "lock_waiters": "7"}
    settings = settings_of({**words, "slot_backlog": "none", "latency_budget": "p99=20ms"})
    assert settings.given == {
        "latency_budget": "p99=20ms",
        "replica_lag": 64_000_000,
        "replica_delay": 90.0,
        "slot_backlog": "none",
        "wal_rate": 50_000_000,
        "lock_waiters": 7,
        "duty": 0.5,
    }
    assert settings_of(settings.given) == settings


def test_a_level_covers_the_one_below_and_one_source_of_latency_another() -> None:
    below = settings_of({"latency_probe": "SELECT 1", "latency_budget": "p95=10ms", "workers": 4})
    above = settings_of({"latency_url": "http://shop/latency", "workers": 2})
    assert above.over(below).given == {
        "latency_budget": "p95=10ms",
        "latency_url": "http://shop/latency",
        "workers": 2,
    }


def test_a_limit_is_built_in_asked_for_or_turned_off() -> None:
    settings = settings_of({"lock_waiters": 5, "replica_lag": "none"})
    assert (settings.limit("lock_waiters").value, settings.limit("lock_waiters").asked) == (5, True)
    assert (settings.limit("replica_lag").value, settings.limit("replica_lag").off) == (None, True)
    assert (ThrottleSettings().limit("replica_delay").value, ThrottleSettings().limit("replica_delay").asked) == (
        10,
        False,
    )
    assert settings_of({"latency_budget": "none"}).budget is None


@pytest.mark.parametrize(("text", "value"), [("12.5", 12.5), (" 3\n", 3), ('{"p50": 1, "p95": 14.2}', 14.2)])
def test_an_answer_is_a_number_or_says_it_under_its_kind(text: str, value: float) -> None:
    assert number(text, "p95", "http://shop/") == value


@pytest.mark.parametrize("text", ["", "fast", "-1", "NaN", "1e999", "true", "null", '"12"', "[1]", '{"p95": null}'])
def test_an_answer_that_is_no_time_is_none(text: str) -> None:
    with pytest.raises(Exception, match="answers no number of milliseconds"):
        number(text, "p95", "http://shop/")


def test_an_answer_without_the_statistic_says_what_it_has() -> None:
    with pytest.raises(Exception, match='does not say "p95", but "p50", "p99"'):
        number('{"p50": 1, "p99": 2}', "p95", "http://shop/")
