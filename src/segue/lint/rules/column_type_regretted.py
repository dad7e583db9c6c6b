"""Types that are changed later, when the table is large."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddColumn, CreateTable
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


_SMALL = frozenset({"int2", "int4", "serial", "serial4", "smallserial", "serial2"})
_REGRETTED = {
    "bpchar": ("char(n) is filled up with spaces", "text, with a CHECK of its length"),
    "timestamp": ("timestamp does not say which moment it was", "timestamptz"),
    "money": ("money takes its decimals from a setting of the server", "numeric"),
}


def look(change: AddColumn | CreateTable, at: Place) -> Iterator[Finding]:
    """Find small keys, and types that mean something else than people think."""
    if at.unasked(change):
        return
    new = isinstance(change, CreateTable)
    columns = change.columns if isinstance(change, CreateTable) else (change.column,)
    keys = {
        name
        for item in (change.constraints if isinstance(change, CreateTable) else ())
        if item.kind == "primary key" and len(item.columns) == 1
        for name in item.columns
    }
    for column in columns:
        if column.name in keys and column.type in _SMALL:
            why, instead = f"{column.type} runs out of numbers", "bigint GENERATED ALWAYS AS IDENTITY"
        elif column.type in _REGRETTED:
            why, instead = _REGRETTED[column.type]
        else:
            continue
        yield at.find(
            change,
            f'"{column.name}" of {change.table}: {why}; changed later, the whole table is written anew while all wait',
            safe=instead,
            tables=(change.table,) if new else None,
            form="create-table" if new else None,
        )


RULE = Rule(
    name="column-type-regretted",
    severity=Severity.INFO,
    rows=(80,),
    on=(AddColumn, CreateTable),
    condition="a new key is an int or smaller, or a new column is char(n), timestamp or money",
    effect="the type has to be changed some day, and then the whole table is written anew",
    instead="bigint identities, text, timestamptz, numeric",
    bad="CREATE TABLE items (id serial PRIMARY KEY);",
    good="CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);",
    look=look,
)
