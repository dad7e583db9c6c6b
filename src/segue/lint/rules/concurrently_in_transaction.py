"""CONCURRENTLY inside a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import CreateIndex, DropObject, Reindex
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: CreateIndex | DropObject | Reindex, at: Place) -> Iterator[Finding]:
    """Find what the server refuses."""
    if not change.concurrent or not at.history.in_transaction:
        return
    yield at.find(
        change,
        "the server refuses it: CONCURRENTLY cannot be in a transaction",
        safe="a migration of its own, without a transaction around it: each tool has a word for that",
    )


RULE = Rule(
    name="concurrently-in-transaction",
    severity=Severity.ERROR,
    rows=(40,),
    on=(CreateIndex, DropObject, Reindex),
    condition="CREATE INDEX, DROP INDEX or REINDEX CONCURRENTLY while a transaction is open",
    effect="it fails (25001), and the migration with it",
    instead="run it by itself, outside a transaction",
    bad="BEGIN; CREATE INDEX CONCURRENTLY orders_by_day ON orders (day); COMMIT;",
    good="CREATE INDEX CONCURRENTLY orders_by_day ON orders (day);",
    look=look,
)
