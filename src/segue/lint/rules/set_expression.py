"""Another expression for a generated column."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AlterTable
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AlterTable, at: Place) -> Iterator[Finding]:
    """Find expressions that are worked out anew for every row."""
    if change.action != "SetExpression" or at.new(change.table):
        return
    known = at.history.table(change.table).columns.get(change.name)
    if known is not None and known.generated == "virtual":
        return
    yield at.find(
        change,
        f'{change.table} is rewritten while reads and writes wait: "{change.name}" is computed anew for each row',
        safe="a new column with the new expression, filled in batches; then move the code, and drop the old one",
    )


RULE = Rule(
    name="set-expression",
    severity=Severity.ERROR,
    rows=(23,),
    on=(AlterTable,),
    condition="a stored generated column gets another expression",
    effect="the table and its indexes are rewritten; reads and writes wait until that is done",
    instead="a new column beside it",
    bad="ALTER TABLE orders ALTER COLUMN twice SET EXPRESSION AS (amount * 3);",
    good="ALTER TABLE orders ALTER COLUMN amount SET DEFAULT 3;",
    look=look,
)
