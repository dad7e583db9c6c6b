"""An index that may be there, but broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import CreateIndex, DropObject
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: CreateIndex, at: Place) -> Iterator[Finding]:
    """Find builds that pass over an INVALID index of the same name."""
    if not (change.concurrent and change.if_not_exists and change.name):
        return
    dropped = (item for item in at.history.before if isinstance(item, DropObject) and item.kind == "index")
    if any(item.name == change.name for item in dropped):
        return
    yield at.find(
        change,
        f"if an earlier build of {change.name} failed, its INVALID index is there, and this does nothing",
        safe=f"DROP INDEX CONCURRENTLY IF EXISTS {change.name}; before it, or look at pg_index.indisvalid afterwards",
    )


RULE = Rule(
    name="index-if-not-exists",
    severity=Severity.WARNING,
    rows=(41,),
    on=(CreateIndex,),
    condition="CREATE INDEX CONCURRENTLY IF NOT EXISTS",
    effect="a build that was cut off leaves an INVALID index, which no query uses and each write keeps up; tried "
    "again, it is taken for the index",
    instead="drop what is left of an earlier try first",
    bad="CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_day ON orders (day);",
    good="DROP INDEX CONCURRENTLY IF EXISTS orders_by_day; CREATE INDEX CONCURRENTLY orders_by_day ON orders (day);",
    look=look,
)
