"""A type change of a column that a foreign key ties to another table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AlterType
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AlterType, at: Place) -> Iterator[Finding]:
    """Find columns on either side of a foreign key."""
    if at.new(change.table):
        return
    name = change.column.name
    table = at.history.table(change.table)
    parents = [item.refers for item in table.constraints if item.refers and name in item.columns]
    children = [
        other.name
        for other in at.history.tables.values()
        for item in other.constraints
        if item.refers.removeprefix("public.") == table.name and (name in item.referred or not item.referred)
    ]
    others = tuple(dict.fromkeys(item for item in (*parents, *children) if item.removeprefix("public.") != table.name))
    if not others:
        return
    yield at.find(
        change,
        f'"{name}" is part of a foreign key: {change.table} and {", ".join(others)} are locked together, and read '
        "again to prove it, while reads and writes of both wait",
        safe="a new column on each side, filled in batches, with its own foreign key NOT VALID; or one online change "
        "of both (`online-change` with `keys: true`)",
        form="alter-type-foreign-key" if parents else "alter-type-referenced",
        tables=(change.table, *others),
    )


RULE = Rule(
    name="alter-type-of-key",
    severity=Severity.ERROR,
    rows=(16,),
    on=(AlterType,),
    condition="the type of a column changes that is on either side of a foreign key",
    effect="the foreign key is proved anew: both tables are locked against everybody, and read",
    instead="expand and contract on both sides, or one online change of both",
    before="CREATE TABLE orders (customer_id int CONSTRAINT of_customer REFERENCES customers);",
    bad="ALTER TABLE orders ALTER COLUMN customer_id TYPE bigint;",
    good="ALTER TABLE orders ALTER COLUMN note TYPE text;",
    look=look,
)
