"""Whatever is left out of a clone or of a swap is told."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator

import psycopg
import pytest
from fix_swapping import Hanging

from segue.databases.postgresql.online import dependents, parity

Hang = Callable[..., Hanging]

#: Statements that do nothing for this table: no default privileges took effect on the shadow, sequences fit already.
IDLE = ("REVOKE ALL ON", "GRANT CREATE", "ANALYZE", "check_function_bodies", "DROP POLICY IF", "DROP TRIGGER IF")
IDLE += ("DROP RULE IF", "DROP STATISTICS IF")


def kinds(statements: list[str], every: bool) -> Iterator[int]:
    """Yield the numbers of statements to leave out: one of each kind, or every one."""
    seen = set()
    for number, text in enumerate(statements):
        words = re.sub(r"'[^']*'|\"(\"\"|[^\"])*\"|\\d+|\\([^)]*\\)", "", text)
        kind = " ".join(words.split())
        if not any(word in text for word in IDLE) and (every or kind not in seen):
            seen.add(kind)
            yield number


def told(change: Hanging, act: Callable[[], Iterable[str]]) -> bool:
    """Return whether parity, or the server itself, complains of what is done; and take it back."""
    try:
        with change.connection.transaction(force_rollback=True):
            return bool(list(act()))
    except psycopg.Error:
        return True


def missed_in_clone(change: Hanging, every: bool) -> list[str]:
    change.make()
    member, blueprint = change.member, change.change
    statements = dependents.before(member, blueprint)

    def without(number: int) -> list[str]:
        change.run(*statements[:number], *statements[number + 1 :])
        return parity.compare(change.connection, blueprint, member)

    wanted = kinds(statements, every)
    missed = [statements[number] for number in wanted if not told(change, functools.partial(without, number))]
    with change.connection.transaction():
        change.run(*statements)
    assert parity.compare(change.connection, blueprint, member) == []
    return missed


def missed_in_swap(change: Hanging, every: bool, direction: str) -> list[str]:
    statements = change.swapping(direction)
    blueprint = change.change

    def without(number: int) -> list[str]:
        # What setval() did is not taken back, but for a sequence that the same transaction began anew.
        coming = blueprint.new_schema if direction == "forward" else blueprint.old_schema
        change.run(f"alter sequence {coming}.orders_number_seq restart")
        change.run(*statements[:number], *statements[number + 1 :])
        lines = parity.compare_after(change.connection, blueprint, direction)
        # Foreign keys are validated after the swap.
        return [line for line in lines if "validated is False" not in line]

    with change.connection.transaction(force_rollback=True):
        assert without(len(statements)) == []
    wanted = kinds(statements, every)
    return [statements[number] for number in wanted if not told(change, functools.partial(without, number))]


def test_whatever_is_left_out_of_a_clone_is_told(hanging_here: Hang) -> None:
    assert missed_in_clone(hanging_here(), every=False) == []


def test_whatever_is_left_out_of_a_swap_is_told(hanging_here: Hang) -> None:
    change = hanging_here()
    change.dress()
    assert missed_in_swap(change, every=False, direction="forward") == []


@pytest.mark.slow
def test_every_single_statement_of_a_clone_matters(hanging: Hang) -> None:
    assert missed_in_clone(hanging(), every=True) == []


@pytest.mark.slow
def test_every_single_statement_of_a_swap_matters_both_ways(hanging: Hang) -> None:
    change = hanging()
    change.dress()
    assert missed_in_swap(change, every=True, direction="forward") == []
    change.swap()
    assert missed_in_swap(change, every=True, direction="backward") == []
