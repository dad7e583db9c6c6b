"""A column that is made NOT NULL while nothing proves that it holds no NULL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint, SetNotNull
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: SetNotNull | AddConstraint, at: Place) -> Iterator[Finding]:
    """Find columns that the server has to read to know."""
    table = at.history.table(change.table)
    if at.new(change.table) or table.partitioned:
        return
    if isinstance(change, AddConstraint):
        item = change.constraint
        if item.kind != "not null" or item.not_valid or change.inline:
            return
        column = item.columns[0] if item.columns else ""
    else:
        column = change.column
    if table.proven(column):
        return
    if at.version is not None and at.version >= 18:
        safe = (
            f"ALTER TABLE {change.table} ADD CONSTRAINT {column}_not_null NOT NULL {column} NOT VALID; in another "
            f"transaction ALTER TABLE {change.table} VALIDATE CONSTRAINT {column}_not_null"
        )
    else:
        safe = (
            f"ALTER TABLE {change.table} ADD CONSTRAINT {column}_there CHECK ({column} IS NOT NULL) NOT VALID; in "
            f"another transaction VALIDATE it; then SET NOT NULL, which reads nothing, and drop the check"
        )
    yield at.find(
        change,
        f'{change.table} is read from end to end for a NULL in "{column}" while reads and writes wait',
        safe=safe,
        fix=at.forms.not_null(at.statement, change, at.version),
    )


RULE = Rule(
    name="set-not-null-unproven",
    severity=Severity.ERROR,
    rows=(20,),
    on=(SetNotNull, AddConstraint),
    condition="a column is made NOT NULL, and no valid CHECK of the file proves that it is",
    effect="the table is read from end to end; reads and writes wait until that is done",
    instead="a CHECK that is NOT VALID first, validated in another transaction; from 18 on NOT NULL NOT VALID",
    bad="ALTER TABLE orders ALTER COLUMN amount SET NOT NULL;",
    good="ALTER TABLE orders ADD CONSTRAINT amount_there CHECK (amount IS NOT NULL) NOT VALID;",
    look=look,
)
