"""A column that may hold NULL from now on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import DropNotNull
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: DropNotNull, at: Place) -> Iterator[Finding]:
    """Find columns whose readers may not expect NULL."""
    if at.new(change.table):
        return
    yield at.find(
        change,
        f'code that reads "{change.column}" of {change.table} may not expect NULL, and a way back has to prove '
        "that there is none",
        safe="first let every reader expect NULL",
    )


RULE = Rule(
    name="drop-not-null",
    severity=Severity.INFO,
    rows=(21,),
    on=(DropNotNull,),
    condition="NOT NULL is dropped",
    effect="nobody waits, but code that reads the column meets NULLs that it has never seen",
    instead="the readers first",
    bad="ALTER TABLE orders ALTER COLUMN day DROP NOT NULL;",
    good="ALTER TABLE orders ALTER COLUMN day SET DEFAULT '2026-01-01';",
    look=look,
)
