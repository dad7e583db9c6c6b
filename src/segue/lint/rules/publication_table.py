"""A table that joins or leaves a publication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import Other
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: Other, at: Place) -> Iterator[Finding]:
    """Find tables named by CREATE or ALTER PUBLICATION."""
    if change.verb not in ("CREATE PUBLICATION", "ALTER PUBLICATION") or not change.table or at.new(change.table):
        return
    yield at.find(
        change,
        f"this waits for VACUUM, CREATE INDEX CONCURRENTLY and VALIDATE of {change.table}, and they for it; reads and "
        "writes do not notice",
        safe="run it while no index is built and nothing validated on the table, with a lock_timeout",
    )


RULE = Rule(
    name="publication-table",
    severity=Severity.INFO,
    rows=(64,),
    on=(Other,),
    condition="a table in use is put into a publication or taken out of it",
    effect="the statement and what else maintains the table wait for each other",
    instead="run one after the other, with a lock_timeout",
    bad="ALTER PUBLICATION feed ADD TABLE orders;",
    good="CREATE PUBLICATION feed;",
    look=look,
)
