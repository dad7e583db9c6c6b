"""A partition that is created in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import CreateTable
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: CreateTable, at: Place) -> Iterator[Finding]:
    """Find CREATE TABLE … PARTITION OF a table that others use."""
    parent = change.partition_of
    if not parent or at.new(parent):
        return
    yield at.find(
        change,
        f"reads and writes of {parent} wait for this statement, and it for them; a default partition is read from end "
        "to end meanwhile",
        safe=f"CREATE TABLE {change.table} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS); "
        f"ALTER TABLE {parent} ATTACH PARTITION {change.table} …",
        tables=(parent, change.table),
        fix=at.forms.attached(at.statement, change),
    )


RULE = Rule(
    name="create-partition-of",
    severity=Severity.WARNING,
    rows=(49,),
    on=(CreateTable,),
    condition="a partition is created with PARTITION OF a table that is in use",
    effect="reads and writes of the whole partitioned table wait, as long as its default partition takes to be read",
    instead="create the table by itself and attach it: nobody waits for that but who uses the default partition",
    bad="CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",
    good="CREATE TABLE events_2026 (id bigint, day date NOT NULL);\n"
    "ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",
    look=look,
)
