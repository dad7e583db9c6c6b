"""A column that is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import DropColumn
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: DropColumn, at: Place) -> Iterator[Finding]:
    """Find columns that running code may still name."""
    if at.new(change.table):
        return
    keys = [
        item for item in at.history.table(change.table).constraints if item.refers and change.column in item.columns
    ]
    parents = tuple(dict.fromkeys(item.refers for item in keys))
    also = f"; reads and writes of {', '.join(parents)}, which it refers to, wait too" if parents else ""
    cascade = ", with the views and keys that use it" if change.cascade else ""
    free = "; ".join(f"ALTER TABLE {change.table} DROP CONSTRAINT {item.name or '…'}" for item in keys)
    yield at.find(
        change,
        f'the values of "{change.column}" are gone for good{cascade}, and code that still names it fails{also}',
        safe=(f"{free}; then " if free else "") + "first let no code name the column, then drop it",
        tables=(change.table, *parents),
        form="drop-column-foreign-key" if parents else change.form,
    )


RULE = Rule(
    name="drop-column",
    severity=Severity.WARNING,
    rows=(19,),
    on=(DropColumn,),
    condition="a column is dropped",
    effect="its values are lost, and code that names it fails; a table that it refers to is locked too",
    instead="let the code forget it first; drop its foreign key by itself; drop it some days later",
    bad="ALTER TABLE orders DROP COLUMN note;",
    good="ALTER TABLE orders ALTER COLUMN note DROP NOT NULL;",
    look=look,
)
