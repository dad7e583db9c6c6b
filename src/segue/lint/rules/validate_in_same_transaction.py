"""A constraint that is added NOT VALID and validated in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint, ValidateConstraint
from segue.model.findings import Severity
from segue.model.impact import Duration
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: ValidateConstraint, at: Place) -> Iterator[Finding]:
    """Find validations under the lock of the constraint's own addition."""
    if at.new(change.table) or not at.history.in_transaction:
        return
    for added in reversed(at.history.since_begin):
        if isinstance(added, AddConstraint) and (added.constraint.name or added.constraint.default_name) == change.name:
            break
    else:
        return
    waits = at.facts(added.form).lock().blocks
    yield replace(
        at.find(
            change,
            f"the lock of ADD CONSTRAINT is held while {change.table} is read from end to end: {waits} wait, as if it "
            "had been added without NOT VALID",
            safe="COMMIT before VALIDATE CONSTRAINT",
            form=added.form,
        ),
        duration=at.facts(change.form).duration if change.form else Duration.SCAN,
    )


RULE = Rule(
    name="validate-in-same-transaction",
    severity=Severity.ERROR,
    rows=(27,),
    on=(ValidateConstraint,),
    condition="a constraint is validated in the transaction that added it NOT VALID",
    effect="the lock of the addition is held while the table is read; what it blocks waits until that is done",
    instead="commit in between: validating by itself blocks neither reads nor writes",
    bad="BEGIN; ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0) NOT VALID; "
    "ALTER TABLE orders VALIDATE CONSTRAINT positive; COMMIT;",
    good="ALTER TABLE orders VALIDATE CONSTRAINT positive;",
    look=look,
)
