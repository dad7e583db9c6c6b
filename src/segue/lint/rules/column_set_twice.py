"""A column that one UPDATE sets twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import WriteData
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: WriteData, at: Place) -> Iterator[Finding]:
    """Find SET lists with a column in them twice."""
    if change.twice:
        yield at.find(change, f'the server refuses it: "{change.twice}" is set twice', safe="set it once")


RULE = Rule(
    name="column-set-twice",
    severity=Severity.ERROR,
    rows=(79,),
    on=(WriteData,),
    condition="an UPDATE sets a column twice",
    effect="the statement fails, and the migration with it",
    instead="set it once",
    bad="UPDATE orders SET note = 'a', note = 'b' WHERE id = 1;",
    good="UPDATE orders SET note = 'a' WHERE id = 1;",
    look=look,
)
