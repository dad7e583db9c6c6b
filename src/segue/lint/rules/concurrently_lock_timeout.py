"""A build that gives up at the first old transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import milliseconds
from segue.lint.rule import Rule
from segue.model.changes import CreateIndex, DropObject, Reindex
from segue.model.findings import Fix, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding

_LEAST = 60_000.0  # milliseconds


def look(change: CreateIndex | DropObject | Reindex, at: Place) -> Iterator[Finding]:
    """Find CONCURRENTLY under a short lock_timeout."""
    if not change.concurrent or at.history.in_transaction:
        return
    value = at.history.setting("lock_timeout")
    if not 0 < milliseconds(value) < _LEAST:
        return
    yield at.find(
        change,
        f"with lock_timeout = {value} it fails as soon as a transaction is older, and leaves an INVALID index",
        safe="SET lock_timeout = 0 before it: nobody waits behind it",
        fix=Fix(("SET lock_timeout = 0", at.statement.sql, f"SET lock_timeout = '{value}'")),
    )


RULE = Rule(
    name="concurrently-lock-timeout",
    severity=Severity.WARNING,
    rows=(42,),
    on=(CreateIndex, DropObject, Reindex),
    condition="CREATE INDEX, DROP INDEX or REINDEX CONCURRENTLY with a lock_timeout under a minute",
    effect="it waits for each older transaction as for a lock; the time-out ends it, and what it has built is INVALID",
    instead="no lock_timeout for this statement",
    bad="SET lock_timeout = '3s'; CREATE INDEX CONCURRENTLY orders_by_day ON orders (day);",
    good="SET lock_timeout = 0; CREATE INDEX CONCURRENTLY orders_by_day ON orders (day);",
    look=look,
)
