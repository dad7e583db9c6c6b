"""An index that is dropped while its table is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import DropObject
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: DropObject, at: Place) -> Iterator[Finding]:
    """Find indexes that are not dropped CONCURRENTLY."""
    if change.kind != "index" or change.concurrent:
        return
    index = at.history.indexes.get(change.name.removeprefix("public."))
    if index is not None and (at.new(index.table) or at.history.table(index.table).partitioned):
        return
    table = index.table if index is not None else ""
    yield at.find(
        change,
        f"reads and writes of {table or 'its table'} wait, for whatever statement the lock itself has to wait for",
        safe=f"DROP INDEX CONCURRENTLY {change.name}",
        tables=(table,) if table else (),
        fix=at.forms.concurrently(at.statement),
    )


RULE = Rule(
    name="drop-index",
    severity=Severity.WARNING,
    rows=(38,),
    on=(DropObject,),
    condition="an index is dropped without CONCURRENTLY",
    effect="the table is locked against everybody; behind a long statement on it, everybody else queues",
    instead="DROP INDEX CONCURRENTLY, outside a transaction",
    bad="DROP INDEX orders_by_day;",
    good="DROP INDEX CONCURRENTLY orders_by_day;",
    look=look,
)
