"""What hangs on a table moves with its name: found, cloned, swapped, and swapped back."""

from __future__ import annotations

from collections.abc import Callable

from fix_swapping import Hanging

from segue.databases.postgresql.online import dependents, parity

Hang = Callable[..., Hanging]


def test_everything_is_known_and_comes_along(hanging: Hang) -> None:
    change = hanging()
    assert dependents.refusals(change.found) == []
    change.dress()
    assert parity.compare(change.connection, change.change, change.member) == []
    change.swap()
    assert parity.compare_after(change.connection, change.change) == []
    change.swap("backward")
    assert parity.compare_after(change.connection, change.change, "backward") == []
