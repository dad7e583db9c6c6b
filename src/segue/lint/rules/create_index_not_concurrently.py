"""An index that is built while writes wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import CreateIndex
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: CreateIndex, at: Place) -> Iterator[Finding]:
    """Find an index build on a table that others use."""
    if change.concurrent or change.only or at.new(change.table) or at.history.table(change.table).partitioned:
        return
    yield at.find(
        change,
        f"writes to {change.table} wait until the index is built",
        fix=at.forms.concurrently(at.statement),
    )


RULE = Rule(
    name="create-index-not-concurrently",
    severity=Severity.ERROR,
    rows=(37,),
    on=(CreateIndex,),
    condition="an index is built without CONCURRENTLY on a table that is in use",
    effect="every INSERT, UPDATE and DELETE waits until the build ends",
    instead="CREATE INDEX CONCURRENTLY, outside a transaction",
    bad="CREATE INDEX orders_by_note ON orders (note);",
    good="CREATE INDEX CONCURRENTLY orders_by_note ON orders (note);",
    look=look,
)
