"""A table without a primary key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import CreateTable, End
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: End, at: Place) -> Iterator[Finding]:
    """Find tables of this file that have no primary key at its end."""
    if not at.wanted.new_tables:
        return
    for item in at.history.before:
        if not isinstance(item, CreateTable) or item.temporary or item.filled or item.partition_of:
            continue
        if not at.new(item.table):
            continue
        table = at.history.table(item.table)
        if not table.columns or any(known.kind == "primary key" for known in table.constraints):
            continue
        yield at.find(
            change,
            f"{item.table} has no primary key: logical replication refuses its updates, and no row can be named",
            safe="id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
            tables=(item.table,),
            offset=item.offset,
        )


RULE = Rule(
    name="table-without-key",
    severity=Severity.INFO,
    rows=(81,),
    on=(End,),
    condition="a file creates a table and gives it no primary key",
    effect="logical replication refuses UPDATE and DELETE, and rows cannot be told apart",
    instead="a primary key",
    bad="CREATE TABLE items (name text);",
    good="CREATE TABLE items (id bigint PRIMARY KEY, name text);",
    look=look,
)
