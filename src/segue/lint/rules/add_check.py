"""A CHECK constraint that is proved at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AddConstraint, at: Place) -> Iterator[Finding]:
    """Find checks that every row is read for."""
    item = change.constraint
    if item.kind != "check" or item.not_valid or not item.enforced:
        return
    if at.new(change.table) or at.history.table(change.table).partitioned:
        return
    name = item.name or "…"
    also = ", though every row of the new column is the same" if change.inline else ""
    yield at.find(
        change,
        f"{change.table} is read from end to end while reads and writes wait{also}",
        safe=f"ALTER TABLE {change.table} ADD CONSTRAINT {name} CHECK (…) NOT VALID; then, in another transaction, "
        f"ALTER TABLE {change.table} VALIDATE CONSTRAINT {name}",
        fix=at.forms.later(at.statement, change),
    )


RULE = Rule(
    name="add-check",
    severity=Severity.ERROR,
    rows=(8, 25),
    on=(AddConstraint,),
    condition="a CHECK constraint is added to a table, by itself or with a new column, without NOT VALID",
    effect="the table is read from end to end; reads and writes wait until that is done",
    instead="add it NOT VALID, which holds for new rows at once, and validate it in another transaction",
    bad="ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0);",
    good="ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0) NOT VALID;",
    look=look,
)
