"""A column whose default is computed for each row."""

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
    """Find a default that the table has to be rewritten for."""
    column = change.column
    if column.filling not in ("volatile", "unknown") or at.new(change.table):
        return
    volatile = column.filling == "volatile"
    yield at.find(
        change,
        f'adding "{column.name}" rewrites {change.table} and its indexes while reads and writes wait'
        + (
            f": {column.calls}() gives another value for each row" if volatile else f", if {column.calls}() is volatile"
        ),
        safe=f"ALTER TABLE {change.table} ADD COLUMN {column.name} …; ALTER TABLE {change.table} ALTER COLUMN "
        f"{column.name} SET DEFAULT {column.calls}(); then fill the old rows in batches",
        severity=Severity.ERROR if volatile else Severity.WARNING,
    )


RULE = Rule(
    name="add-column-volatile-default",
    severity=Severity.ERROR,
    rows=(1, 2),
    on=(AddColumn,),
    condition="a column is added whose default is computed for each row",
    effect="the table and all its indexes are rewritten; reads and writes wait until that is done",
    instead="add the column without a default, set the default, and fill the old rows in batches",
    bad="ALTER TABLE orders ADD COLUMN token uuid DEFAULT gen_random_uuid();",
    good="ALTER TABLE orders ADD COLUMN token uuid;\n"
    "ALTER TABLE orders ALTER COLUMN token SET DEFAULT gen_random_uuid();",
    look=look,
)
