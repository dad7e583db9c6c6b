"""A constraint that is dropped, and the tables that wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import DropConstraint
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: DropConstraint, at: Place) -> Iterator[Finding]:
    """Find foreign keys, whose parents are locked as well, and keys that others refer to."""
    if at.new(change.table):
        return
    item = at.history.table(change.table).constraint(change.name)
    if item is not None and item.refers:
        yield at.find(
            change,
            f"reads and writes of {item.refers} wait too, until the transaction ends",
            safe="drop it in a transaction of its own, with a short lock_timeout",
            form="drop-foreign-key",
            tables=(change.table, item.refers),
        )
    elif change.cascade:
        yield at.find(
            change,
            f"CASCADE drops every foreign key that refers to {change.name}, whatever table it is of",
            safe="drop those foreign keys by name first, then the constraint without CASCADE",
        )


RULE = Rule(
    name="drop-constraint",
    severity=Severity.WARNING,
    rows=(32,),
    on=(DropConstraint,),
    condition="a foreign key is dropped, or a constraint with CASCADE",
    effect="the table that a foreign key refers to is locked as well; CASCADE drops what nobody named",
    instead="a transaction of its own with a short lock_timeout; name what is dropped",
    before="CREATE TABLE orders (customer_id bigint CONSTRAINT of_customer REFERENCES customers);",
    bad="ALTER TABLE orders DROP CONSTRAINT of_customer;",
    good="ALTER TABLE orders DROP CONSTRAINT positive;",
    look=look,
)
