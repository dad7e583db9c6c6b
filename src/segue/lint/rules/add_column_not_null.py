"""A column without a value that must not be NULL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddColumn
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AddColumn, at: Place) -> Iterator[Finding]:
    """Find columns that the rows which are there could not have."""
    column = change.column
    if not column.not_null or column.filling or column.serial or column.identity or column.generated:
        return
    if at.new(change.table):
        return
    yield at.find(
        change,
        f'it fails if {change.table} has a row; and running code, whose INSERTs leave "{column.name}" out, fails from '
        "then on",
        safe=f'ADD COLUMN "{column.name}" nullable, fill it in batches, prove it with a CHECK, then SET NOT NULL',
    )


RULE = Rule(
    name="add-column-not-null",
    severity=Severity.ERROR,
    rows=(3,),
    on=(AddColumn,),
    condition="a column is added that is NOT NULL and has no default",
    effect="it is refused where there are rows; where there are none, code that does not know it can insert none",
    instead="add it nullable, or with a default; make it NOT NULL when everybody writes it",
    bad="ALTER TABLE orders ADD COLUMN rank int NOT NULL;",
    good="ALTER TABLE orders ADD COLUMN rank int NOT NULL DEFAULT 0;",
    look=look,
)
