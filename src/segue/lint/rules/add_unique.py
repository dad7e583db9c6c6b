"""A unique constraint or primary key whose index is built at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AddConstraint, at: Place) -> Iterator[Finding]:
    """Find keys without an index that is there already."""
    item = change.constraint
    if item.kind not in ("unique", "primary key") or item.using_index:
        return
    if at.new(change.table) or at.history.table(change.table).partitioned:
        return
    kind = item.kind.upper()
    table = at.history.table(change.table)
    nullable = [column for column in item.columns if not table.proven(column)]
    columns = ", ".join(item.columns)
    yield at.find(
        change,
        f"an index is built over {change.table} while reads and writes wait",
        safe=f"CREATE UNIQUE INDEX CONCURRENTLY … ON {change.table} ({columns}); then ALTER TABLE {change.table} ADD "
        f"{kind} USING INDEX …",
        fix=at.forms.by_index(at.statement, change, nullable),
    )


RULE = Rule(
    name="add-unique",
    severity=Severity.ERROR,
    rows=(9, 28),
    on=(AddConstraint,),
    condition="UNIQUE or PRIMARY KEY is added to a table, by itself or with a new column, without USING INDEX",
    effect="the index is built under the lock of ALTER TABLE; reads and writes wait until that is done",
    instead="build the unique index CONCURRENTLY, then add the constraint USING INDEX",
    bad="ALTER TABLE orders ADD CONSTRAINT one_note UNIQUE (note);",
    good="ALTER TABLE orders ADD CONSTRAINT one_note UNIQUE USING INDEX orders_one_note;",
    look=look,
)
