"""A table that is packed while everybody waits."""

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
    """Find VACUUM FULL and CLUSTER."""
    if change.verb not in ("VACUUM FULL", "CLUSTER") or at.new(change.table):
        return
    table = change.table or "every table"
    yield at.find(
        change,
        f"{table} is written anew with its indexes; reads and writes wait until that is done",
        safe=f"VACUUM {change.table}".rstrip() + ", which nobody waits for; to give space back, pg_repack",
    )


RULE = Rule(
    name="vacuum-full",
    severity=Severity.ERROR,
    rows=(56,),
    on=(Other,),
    condition="VACUUM FULL or CLUSTER",
    effect="the table and its indexes are written anew; reads and writes wait until that is done",
    instead="VACUUM, or pg_repack where the space has to be given back",
    bad="VACUUM FULL orders;",
    good="VACUUM orders;",
    look=look,
)
