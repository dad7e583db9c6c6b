"""The graph of steps: order, layers, circles, drawings."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from segue.planning import graph

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["c", "b"], "e": []}


def test_order_keeps_the_file_s_order_where_it_may() -> None:
    assert graph.order(DIAMOND) == ["a", "b", "c", "d", "e"]
    assert graph.order({"late": ["early"], "early": [], "other": []}) == ["early", "late", "other"]


def test_levels_hold_steps_that_need_nothing_of_each_other() -> None:
    assert graph.levels(DIAMOND) == [["a", "e"], ["b", "c"], ["d"]]
    assert graph.levels({}) == []


def test_cycle_is_named_from_its_first_step_to_itself() -> None:
    assert graph.cycle({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}) == ["a", "b", "c", "a"]
    assert graph.cycle(DIAMOND) == []
    with pytest.raises(ValueError, match="a → b → a"):
        graph.order({"a": ["b"], "b": ["a"]})


def test_long_chains_need_no_recursion() -> None:
    chain = {str(number): [str(number - 1)] if number else [] for number in range(3000)}
    assert graph.cycle(chain) == []
    assert graph.cycle({**chain, "0": ["2999"]})[0] == "0"


@given(some.dictionaries(some.integers(0, 9).map(str), some.lists(some.integers(0, 9).map(str), max_size=3)))
def test_order_puts_needs_first_or_there_is_a_cycle(needs: dict[str, list[str]]) -> None:
    needs = {step: [need for need in wanted if need in needs] for step, wanted in needs.items()}
    circle = graph.cycle(needs)
    if circle:
        assert all(after in needs[before] for before, after in pairwise(circle))
        return
    found = graph.order(needs)
    assert sorted(found) == sorted(needs)
    assert all(found.index(need) < found.index(step) for step, wanted in needs.items() for need in wanted)


def test_drawings_name_every_step() -> None:
    kinds = dict.fromkeys(DIAMOND, "sql")
    assert graph.text(DIAMOND, kinds).splitlines() == [
        " 1 │   1. a  sql",
        "   │   5. e  sql",
        " 2 │   2. b  sql  ← a",
        "   │   3. c  sql  ← a",
        " 3 │   4. d  sql  ← c, b",
    ]
    assert graph.text(DIAMOND, kinds, ascii_only=True).isascii()
    assert "s1 --> s2" in graph.mermaid(DIAMOND, kinds)
    assert '"a" -> "b";' in graph.dot(DIAMOND, kinds, "title")
