"""Moves between different shapes under traffic: nothing lost, extra or wrong, there and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fix_targets import rows, until
from fix_unlike import Reshaped, Seen, people_traffic

Make = Callable[..., Reshaped]


def journal_holds(move: Reshaped, seen: Seen) -> None:
    """Compare what was acknowledged with what is there."""
    query = (
        "SELECT customer_id, full_name, email, p.bio FROM customers LEFT JOIN profiles p ON p.id = customer_id::text"
    )
    found = {row[0]: tuple(row[1:]) for row in rows(move.target, query)}
    wanted = seen.wanted()
    assert {k: found.get(k) for k in wanted} == wanted
    assert not seen.gone() & set(found)


def test_the_copy_has_the_targets_shape(reshape: Make) -> None:
    move = reshape()
    assert move.start() == {"public.customers": 300, "public.profiles": 300, "public.memos": 60}
    assert move.content("source") == move.content("target")
    assert any("legacy_flag" in note for note in move.notes) is False


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_nothing_is_lost_there_and_back_under_traffic(reshape: Make, seed: int) -> None:
    move = reshape()
    with people_traffic(move, seed) as seen, move.following():
        until(lambda: seen.acknowledged > 20)
        move.start()
        for to in ("target", "source", "target"):
            mark = seen.acknowledged
            until(lambda mark=mark: seen.acknowledged > mark + 60)
            move.turn(to)
            seen.live = to
        mark = seen.acknowledged
        until(lambda: seen.acknowledged > mark + 60)
    move.level()
    assert seen.errors == []
    journal_holds(move, seen)
    assert move.content("source") == move.content("target")
