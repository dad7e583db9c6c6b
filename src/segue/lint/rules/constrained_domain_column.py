"""A column of a domain that has a constraint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddColumn, AlterType
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AddColumn | AlterType, at: Place) -> Iterator[Finding]:
    """Find columns for which the server looks at every row, though none has a value."""
    column = change.column
    domain = at.history.domain(column.type)
    if domain is None or not domain.constrained or column.array or at.new(change.table):
        return
    added = isinstance(change, AddColumn)
    even = ", even if all of them are NULL," if added else ""
    yield at.find(
        change,
        f"{change.table} and its indexes are rewritten while reads and writes wait: each value of "
        f'"{column.name}"{even} is checked against the domain {column.type}',
        safe=f'"{column.name}" of the plain type, with the constraint on {change.table}: ADD CONSTRAINT '
        "… CHECK (…) NOT VALID; in another transaction VALIDATE",
        form="add-column-constrained-domain" if added else "alter-type-to-constrained-domain",
    )


RULE = Rule(
    name="constrained-domain-column",
    severity=Severity.ERROR,
    rows=(7,),
    on=(AddColumn, AlterType),
    condition="a column is added, or changed to be, of a domain with a CHECK or NOT NULL",
    effect="the table and all its indexes are rewritten; reads and writes wait until that is done",
    instead="a column of the plain type, and a CHECK on the table, NOT VALID first",
    before="CREATE DOMAIN positive AS int CHECK (VALUE > 0);",
    bad="ALTER TABLE orders ADD COLUMN rank positive;",
    good="ALTER TABLE orders ADD COLUMN rank int;",
    look=look,
)
