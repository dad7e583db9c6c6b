"""A table that is dropped."""

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
    """Find tables that others may still use, and the tables that wait with them."""
    if change.kind != "table" or at.new(change.table):
        return
    known = at.history.table(change.table).constraints
    parents = tuple(dict.fromkeys(item.refers for item in known if item.refers))
    free = "; ".join(f"ALTER TABLE {change.table} DROP CONSTRAINT {item.name or '…'}" for item in known if item.refers)
    also = f"; reads and writes of {', '.join(parents)}, which it refers to, wait too" if parents else ""
    yield at.find(
        change,
        f"{change.table} and its rows are gone for good, and code that still names it fails{also}",
        safe=f"{free + '; then ' if free else ''}ALTER TABLE {change.table} RENAME TO …_old; drop it later",
        tables=(change.table, *parents),
        form="drop-table-foreign-key" if parents else change.form,
    )


RULE = Rule(
    name="drop-table",
    severity=Severity.WARNING,
    rows=(45,),
    on=(DropObject,),
    condition="a table is dropped that the file has not created",
    effect="its rows are lost, code that names it fails, and each table that it refers to is locked against everybody "
    "until the transaction ends",
    instead="drop its foreign keys one by one with a short lock_timeout, rename it, and drop it some days later",
    bad="DROP TABLE orders;",
    good="ALTER TABLE orders RENAME TO orders_old;",
    look=look,
)
