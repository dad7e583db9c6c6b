"""Several long ALTER TABLE where one would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import plain
from segue.lint.rule import Rule
from segue.model.changes import AddConstraint, AlterType, SetNotNull
from segue.model.findings import Severity
from segue.model.impact import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


_LONG = (Duration.SCAN, Duration.REWRITE)


def look(change: AddConstraint | AlterType | SetNotNull, at: Place) -> Iterator[Finding]:
    """Find a long statement right after a long one on the same table."""
    last = at.history.before[-1] if at.history.before else None
    if not isinstance(last, AddConstraint | AlterType | SetNotNull) or at.new(change.table):
        return
    if plain(last.table) != plain(change.table) or not (last.form and change.form):
        return
    if at.facts(last.form).duration in _LONG and at.facts(change.form).duration in _LONG:
        yield at.find(
            change,
            f"{change.table} may be read or written anew once more, right after the statement before this one",
            safe=f"ALTER TABLE {change.table} …, …; both in one statement",
        )


RULE = Rule(
    name="read-twice",
    severity=Severity.INFO,
    rows=(76,),
    on=(AddConstraint, AlterType, SetNotNull),
    condition="two statements one after the other read or rewrite the same table",
    effect="the table is read or written twice, and its lock is waited for twice",
    instead="put both into one ALTER TABLE, or use the forms that read nothing under the lock",
    bad="ALTER TABLE orders ALTER COLUMN amount TYPE bigint;\nALTER TABLE orders ALTER COLUMN note TYPE char(9);",
    good="ALTER TABLE orders ALTER COLUMN amount TYPE bigint, ALTER COLUMN note TYPE char(9);",
    look=look,
)
