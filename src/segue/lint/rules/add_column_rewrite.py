"""A column whose values are worked out for every row at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddColumn
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AddColumn, at: Place) -> Iterator[Finding]:
    """Find serial, identity and stored generated columns."""
    column = change.column
    if at.new(change.table):
        return
    if column.serial or column.identity:
        what = "drawn from a sequence"
        safe = (
            f'ADD COLUMN "{column.name}" bigint; CREATE SEQUENCE …; ALTER COLUMN "{column.name}" SET DEFAULT nextval('
            "…); fill it in batches"
        )
    elif column.generated == "stored":
        what = "computed and stored"
        safe = f'ADD COLUMN "{column.name}" plain, kept up by a trigger, and fill it in batches'
        if at.version is not None and at.version >= 18:
            safe += "; or make it VIRTUAL, which stores nothing"
    else:
        return
    yield at.find(
        change,
        f"{change.table} and its indexes are rewritten while reads and writes wait: "
        f'"{column.name}" is {what} for each row',
        safe=safe,
    )


RULE = Rule(
    name="add-column-rewrite",
    severity=Severity.ERROR,
    rows=(4, 5, 6),
    on=(AddColumn,),
    condition="a serial, identity or stored generated column is added",
    effect="the table and its indexes are rewritten; reads and writes wait until that is done",
    instead="a plain column, filled in batches, with a default or a trigger for new rows",
    bad="ALTER TABLE orders ADD COLUMN n bigserial;",
    good="ALTER TABLE orders ADD COLUMN n bigint;",
    look=look,
)
