"""A partition that is taken out while everybody waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import DetachPartition, DropObject
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: DetachPartition | DropObject, at: Place) -> Iterator[Finding]:
    """Find DETACH without CONCURRENTLY, and the drop of a partition."""
    if isinstance(change, DropObject):
        parent = at.history.table(change.table).partition_of if change.kind == "table" else ""
        if not parent or at.new(change.table) or at.new(parent):
            return
        partition, role, form = change.table, "parent of the partition", "drop-partition"
    elif change.concurrent or at.new(change.table):
        return
    else:
        parent, partition, role, form = change.table, change.partition, "table", change.form
    yield at.find(
        change,
        f"reads and writes of {parent} wait for this statement, and it for them, not only those of {partition}",
        safe=f"ALTER TABLE {parent} DETACH PARTITION {partition} CONCURRENTLY, outside a transaction; not with "
        "a default partition",
        tables=(parent, partition),
        form=form,
        role=role,
    )


RULE = Rule(
    name="detach-partition",
    severity=Severity.WARNING,
    rows=(51,),
    on=(DetachPartition, DropObject),
    condition="a partition is detached without CONCURRENTLY, or dropped",
    effect="reads and writes of the whole partitioned table wait for a moment, and as long as the statement waits for "
    "the queries that are running",
    instead="DETACH PARTITION … CONCURRENTLY, outside a transaction, then drop the table",
    bad="ALTER TABLE events DETACH PARTITION events_old;",
    good="ALTER TABLE events DETACH PARTITION events_old CONCURRENTLY;",
    look=look,
)
