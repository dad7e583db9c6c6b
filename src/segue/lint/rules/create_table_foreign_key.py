"""A new table that refers to one in use."""

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
    """Find foreign keys of new tables, where nothing ends the wait for the parent."""
    if change.partition_of or change.temporary:
        return
    parents = [
        item.refers for item in change.constraints if item.refers not in ("", change.table) and not at.new(item.refers)
    ]
    if not parents or at.history.setting("lock_timeout") not in (None, "0"):
        return
    names = tuple(dict.fromkeys(parents))
    yield at.find(
        change,
        f"writes to {', '.join(names)} wait until the transaction ends, and behind this while it waits for theirs: the "
        "foreign key's triggers are made there",
        safe="SET lock_timeout = '3s' first; and commit at once",
        role="parent",
        tables=(*names, change.table),
    )


RULE = Rule(
    name="create-table-foreign-key",
    severity=Severity.WARNING,
    rows=(48,),
    on=(CreateTable,),
    condition="a new table refers to a table in use, and no lock_timeout is set",
    effect="writes to the table it refers to wait: for a moment, or as long as a transaction there is open",
    instead="set lock_timeout, and commit at once",
    bad="CREATE TABLE items (id bigint, order_id bigint REFERENCES orders);",
    good="SET lock_timeout = '3s';\nCREATE TABLE items (id bigint, order_id bigint REFERENCES orders);",
    look=look,
)
