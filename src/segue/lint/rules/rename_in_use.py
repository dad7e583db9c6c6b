"""A name that running code uses, changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import RenameObject
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding

_KINDS = {"table", "column", "view", "schema", "enum value", "type"}


def look(change: RenameObject, at: Place) -> Iterator[Finding]:
    """Find new names of what code names."""
    if change.kind not in _KINDS or (change.table and at.new(change.table)):
        return
    name = change.name or change.table
    if change.kind == "column":
        safe = f'add a column "{change.new}", kept up by a trigger, move the code, then drop "{name}"'
    elif change.kind in ("table", "view"):
        safe = f"in the same transaction CREATE VIEW {name} AS TABLE {change.new}; drop it when the code has moved"
    else:
        safe = "make a new one beside it, move the code, then drop the old one"
    yield at.find(
        change,
        f"code that runs now and names the {change.kind} {name} fails from the moment it is {change.new}",
        safe=safe,
    )


RULE = Rule(
    name="rename-in-use",
    severity=Severity.WARNING,
    rows=(17, 18),
    on=(RenameObject,),
    condition="a table, column, view, schema, type or enum value is renamed",
    effect="code that is running uses the old name until it is replaced, and fails",
    instead="expand and contract: both names for a while",
    bad="ALTER TABLE orders RENAME COLUMN note TO remark;",
    good="ALTER TABLE orders RENAME CONSTRAINT orders_pkey TO orders_key;",
    look=look,
)
