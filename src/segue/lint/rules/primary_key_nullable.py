"""A primary key from an index over columns that may hold NULL."""

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
    """Find keys whose columns the server has to read first."""
    item = change.constraint
    if item.kind != "primary key" or not item.using_index or at.new(change.table):
        return
    table = at.history.table(change.table)
    index = at.history.indexes.get(item.using_index.removeprefix("public."))
    columns = index.columns if index is not None else ()
    if columns and all(table.proven(column) for column in columns):
        return
    which = " and ".join(f'"{column}"' for column in columns if not table.proven(column)) or "each of its columns"
    yield at.find(
        change,
        f"unless {which} is NOT NULL already, {change.table} is read from end to end while reads and writes wait",
        safe="make the columns NOT NULL first, by a CHECK validated beforehand; then ADD PRIMARY KEY USING INDEX",
        fix=at.forms.proven_key(at.statement, change, [column for column in columns if not table.proven(column)]),
    )


RULE = Rule(
    name="primary-key-nullable",
    severity=Severity.WARNING,
    rows=(29,),
    on=(AddConstraint,),
    condition="PRIMARY KEY USING INDEX is added, and nothing in the file proves its columns NOT NULL",
    effect="columns that may hold NULL are made NOT NULL on the way: the table is read while reads and writes wait",
    instead="prove NOT NULL beforehand",
    before="CREATE UNIQUE INDEX keyless_id ON keyless (id);",
    bad="ALTER TABLE keyless ADD PRIMARY KEY USING INDEX keyless_id;",
    good="ALTER TABLE keyless ADD CONSTRAINT one_id UNIQUE USING INDEX keyless_id;",
    look=look,
)
