"""A constraint or a type that all partitions are read for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint, AlterType, SetNotNull
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


_FORMS = {"check": "add-check", "foreign key": "add-foreign-key", "unique": "add-unique", "primary key": "add-unique"}


def look(change: AddConstraint | AlterType | SetNotNull, at: Place) -> Iterator[Finding]:
    """Find constraints and types of a partitioned table."""
    if at.new(change.table) or not at.history.table(change.table).partitioned:
        return
    if isinstance(change, AlterType):
        yield at.find(
            change,
            f"all partitions of {change.table} are locked at once, and written anew if the type is not alike",
            safe=_ONLINE,
        )
        return
    if isinstance(change, SetNotNull):
        form, safe = (
            "set-not-null-partitioned",
            "CHECK (… IS NOT NULL) NOT VALID, VALIDATE, then SET NOT NULL, partition by partition, the table last",
        )
    else:
        item = change.constraint
        known = _FORMS.get(item.kind)
        if known is None or item.using_index:
            return
        form = f"{known}{'-not-valid' if item.not_valid else ''}-partitioned"
        safe = "the constraint on each partition, NOT VALID, then VALIDATE; the partitioned table last"
        if item.kind in ("unique", "primary key"):
            safe = "the index ON ONLY the table, CREATE UNIQUE INDEX CONCURRENTLY on each partition, then attach them"
        if at.facts(form).error:
            yield at.find(
                change,
                f"this server refuses it: {change.table} is partitioned, which needs version 18",
                safe="the constraint on each partition, NOT VALID, then VALIDATE",
                severity=Severity.ERROR,
            )
            return
        if item.not_valid:
            return
    waits = at.facts(form).lock().blocks
    yield at.find(
        change,
        f"all partitions of {change.table} are read from end to end in one statement while {waits} wait",
        safe=safe,
        form=form,
    )


_ONLINE = "a new partitioned table with the new type, filled in batches, then a swap"
RULE = Rule(
    name="constraint-on-partitioned",
    severity=Severity.ERROR,
    rows=(53, 54),
    on=(AddConstraint, AlterType, SetNotNull),
    condition="a constraint is added to a partitioned table, or a column's type changed",
    effect="all partitions are locked together, and read or written anew one after the other; before version 18 a "
    "NOT VALID foreign key is refused",
    instead="go partition by partition, the partitioned table last",
    before="CREATE TABLE events (id bigint, day date) PARTITION BY RANGE (day);",
    bad="ALTER TABLE events ADD CONSTRAINT positive CHECK (id > 0);",
    good="ALTER TABLE events_old ADD CONSTRAINT positive CHECK (id > 0) NOT VALID;",
    look=look,
)
