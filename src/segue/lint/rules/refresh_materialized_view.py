"""A materialized view that nobody can read while it is refreshed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import plain
from segue.lint.rule import Rule
from segue.model.changes import Other
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: Other, at: Place) -> Iterator[Finding]:
    """Find REFRESH without CONCURRENTLY."""
    if change.verb != "REFRESH MATERIALIZED VIEW":
        return
    unique = any(
        plain(item.table) == plain(change.table) and item.unique and not item.partial and all(item.columns)
        for item in at.history.indexes.values()
    )
    empty = change.form.endswith("no-data")
    yield at.find(
        change,
        f"reads of {change.table} fail until it is filled again"
        if empty
        else f"reads of {change.table} wait until its query has run",
        safe=f"REFRESH MATERIALIZED VIEW CONCURRENTLY {change.table}, which needs a unique index on it",
        role="materialized view",
        fix=at.forms.concurrently(at.statement) if unique else None,
    )


RULE = Rule(
    name="refresh-materialized-view",
    severity=Severity.ERROR,
    rows=(57,),
    on=(Other,),
    condition="a materialized view is refreshed without CONCURRENTLY",
    effect="everybody who reads it waits until its query has run",
    instead="REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index",
    bad="REFRESH MATERIALIZED VIEW totals;",
    good="REFRESH MATERIALIZED VIEW CONCURRENTLY totals;",
    look=look,
)
