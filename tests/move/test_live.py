"""Live moves: nothing lost by switches and reverses, the closed side stays closed, and crashes are found out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fix_standbys import Server
from fix_targets import until
from fix_wandering import Moved, made, rogue_writes, traffic


@pytest.fixture(params=["18-18", "15-18"])
def any_pair(request: pytest.FixtureRequest) -> Iterator[Moved]:
    """Give a move between two databases of one new server, and one between servers of two versions."""
    target: Server = request.getfixturevalue("moving_server")
    source: Server = target if request.param == "18-18" else request.getfixturevalue("moving_debian_server")
    with made(source, target) as moved:
        yield moved


def test_switches_and_reverses_under_traffic_lose_nothing(any_pair: Moved) -> None:
    with traffic(any_pair, seed=1) as seen:
        any_pair.begin()
        for turn in range(3):
            until(lambda mark=seen.acknowledged: seen.acknowledged > mark + 30)
            any_pair.turn()
            seen.live = any_pair.open
            assert rogue_writes(any_pair) == [], f"after turn {turn}"
    any_pair.level()
    assert seen.errors == []
    assert seen.wanted() == any_pair.content(any_pair.open) == any_pair.content(any_pair.closed)
