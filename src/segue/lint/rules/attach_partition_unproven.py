"""A table with rows that becomes a partition and is read for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AttachPartition
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AttachPartition, at: Place) -> Iterator[Finding]:
    """Find ATTACH PARTITION of a table that no CHECK is known of."""
    if change.index or at.new(change.partition) or at.new(change.table):
        return
    known = at.history.table(change.partition).constraints
    if any(item.kind == "check" and item.enforced and not item.not_valid for item in known):
        return  # whether it proves the bounds is not in what was read of it
    yield at.find(
        change,
        f"{change.partition} is read from end to end while its reads and writes wait, unless a valid CHECK proves the "
        f"bounds; so is the default partition of {change.table}, if there is one",
        safe=f"ALTER TABLE {change.partition} ADD CONSTRAINT … CHECK (…) NOT VALID; VALIDATE …; then ATTACH; "
        "the same with the opposite on the default partition",
        tables=(change.partition, change.table),
        role="default partition" if change.default else "partition",
    )


RULE = Rule(
    name="attach-partition-unproven",
    severity=Severity.WARNING,
    rows=(50,),
    on=(AttachPartition,),
    condition="a table with rows is attached as a partition, and no CHECK is known that proves its bounds",
    effect="the table and the default partition are read from end to end; reads and writes of both wait",
    instead="add CHECKs that prove the bounds, NOT VALID, validate them, attach, and drop them",
    bad="ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",
    good="ALTER TABLE events_2026 ADD CONSTRAINT this_year "
    "CHECK (day >= '2026-01-01' AND day < '2027-01-01') NOT VALID;\n"
    "ALTER TABLE events_2026 VALIDATE CONSTRAINT this_year;\n"
    "ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",
    look=look,
)
