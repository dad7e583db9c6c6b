"""A column of the type json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddColumn, CreateTable
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AddColumn | CreateTable, at: Place) -> Iterator[Finding]:
    """Find columns whose values cannot be compared."""
    if at.unasked(change):
        return
    columns = (change.column,) if isinstance(change, AddColumn) else change.columns
    for column in columns:
        if column.type == "json" and not column.array:
            yield at.find(
                change,
                f'"{column.name}" of {change.table}: json has no equality, so DISTINCT and UNION over whole rows '
                "fail from then on",
                safe=f'"{column.name}" jsonb',
            )


RULE = Rule(
    name="json-column",
    severity=Severity.WARNING,
    rows=(12,),
    on=(AddColumn, CreateTable),
    condition="a column of the type json is added",
    effect="queries that compare whole rows (SELECT DISTINCT *, UNION) fail, since json cannot be compared",
    instead="jsonb",
    bad="ALTER TABLE orders ADD COLUMN extra json;",
    good="ALTER TABLE orders ADD COLUMN extra jsonb;",
    look=look,
)
