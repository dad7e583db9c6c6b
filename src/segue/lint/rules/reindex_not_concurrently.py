"""Indexes that are rebuilt while their table is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import Reindex
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: Reindex, at: Place) -> Iterator[Finding]:
    """Find REINDEX without CONCURRENTLY."""
    if change.concurrent or (change.table and at.new(change.table)):
        return
    yield at.find(
        change,
        f"writes wait while the indexes of {change.name} are built anew, and so do reads that would use them",
        safe=f"REINDEX {change.kind.upper()} CONCURRENTLY {change.name}",
        fix=at.forms.concurrently(at.statement),
    )


RULE = Rule(
    name="reindex-not-concurrently",
    severity=Severity.ERROR,
    rows=(39,),
    on=(Reindex,),
    condition="REINDEX without CONCURRENTLY",
    effect="writes to the table wait until its indexes are built anew, and so does every read that plans with them",
    instead="REINDEX … CONCURRENTLY, outside a transaction",
    bad="REINDEX TABLE orders;",
    good="REINDEX TABLE CONCURRENTLY orders;",
    look=look,
)
