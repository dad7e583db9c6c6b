"""An exclusion constraint on a table that is in use."""

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
    """Find exclusion constraints."""
    if change.constraint.kind != "exclude" or at.new(change.table):
        return
    yield at.find(
        change,
        f"its index is built over {change.table} while reads and writes wait; there is no way to build it beforehand",
        safe="a new table with the constraint, filled in batches, then a swap (`online-change` in a plan)",
    )


RULE = Rule(
    name="add-exclude",
    severity=Severity.ERROR,
    rows=(30,),
    on=(AddConstraint,),
    condition="an EXCLUDE constraint is added",
    effect="its index is built under the lock of ALTER TABLE; reads and writes wait until that is done",
    instead="an online change of the table, or a time without traffic",
    bad="ALTER TABLE orders ADD CONSTRAINT apart EXCLUDE (note WITH =);",
    good="ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0) NOT VALID;",
    look=look,
)
