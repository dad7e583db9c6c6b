"""A table that is emptied at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import Truncate
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: Truncate, at: Place) -> Iterator[Finding]:
    """Find TRUNCATE of a table that others use."""
    if at.new(change.table):
        return
    also = ", and so are all tables that refer to it" if change.cascade else ""
    yield at.find(
        change,
        f"{change.table} is emptied for good{also}; reads and writes wait until the transaction ends",
        safe=f"rows of {change.table} deleted in batches",
        severity=Severity.ERROR if change.cascade else Severity.WARNING,
    )


RULE = Rule(
    name="truncate-table",
    severity=Severity.WARNING,
    rows=(47,),
    on=(Truncate,),
    condition="a table is truncated that the file has not created",
    effect="all its rows are lost; reads and writes wait; with CASCADE this goes for every table that refers to it",
    instead="delete the rows in batches",
    bad="TRUNCATE customers CASCADE;",
    good="DELETE FROM orders WHERE id < 1000;",
    look=look,
)
