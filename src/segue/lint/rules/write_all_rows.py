"""An UPDATE or DELETE of all rows in one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import WriteData
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: WriteData, at: Place) -> Iterator[Finding]:
    """Find writes without WHERE to a table that others use."""
    if change.verb not in ("UPDATE", "DELETE") or change.filtered or at.new(change.table):
        return
    yield at.find(
        change,
        f"every row of {change.table} is locked until the transaction ends, so other writers of them wait; the table "
        "grows by as much again, and replicas fall behind"
        if change.verb == "UPDATE"
        else f"every row of {change.table} is deleted, and locked until the transaction ends, so other writers wait",
        safe="in batches, each in its own transaction (`backfill` in a plan)",
    )


RULE = Rule(
    name="write-all-rows",
    severity=Severity.ERROR,
    rows=(78,),
    on=(WriteData,),
    condition="UPDATE or DELETE without WHERE",
    effect="all rows are locked until the end, dead rows fill the table, replicas lag",
    instead="batches of some thousand rows, each in its own transaction",
    bad="UPDATE orders SET state = 'new';",
    good="UPDATE orders SET state = 'new' WHERE id BETWEEN 1 AND 1000;",
    look=look,
)
