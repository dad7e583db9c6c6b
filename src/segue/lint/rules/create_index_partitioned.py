"""An index on a partitioned table."""

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
    """Find indexes that are built on all partitions in one statement."""
    if change.only or at.new(change.table) or not at.history.table(change.table).partitioned:
        return
    if change.concurrent:
        message = f"the server refuses CONCURRENTLY here: {change.table} is partitioned"
    else:
        message = f"writes to all partitions of {change.table} wait until the indexes of all of them are built"
    columns = ", ".join(column or "…" for column in change.columns)
    name = change.name or "…"
    yield at.find(
        change,
        message,
        safe=f"CREATE INDEX {name} ON ONLY {change.table} ({columns}); for each partition CREATE INDEX CONCURRENTLY …, "
        f"then ALTER INDEX {name} ATTACH PARTITION …",
        form="create-index-partitioned",
    )


RULE = Rule(
    name="create-index-partitioned",
    severity=Severity.ERROR,
    rows=(52,),
    on=(CreateIndex,),
    condition="an index is created on a partitioned table without ONLY",
    effect="writes to every partition wait until the indexes of all of them are built",
    instead="create it ON ONLY the partitioned table, concurrently on each partition, and attach those",
    before="CREATE TABLE events (id bigint, day date) PARTITION BY RANGE (day);",
    bad="CREATE INDEX events_by_id ON events (id);",
    good="CREATE INDEX events_by_id ON ONLY events (id);",
    look=look,
)
