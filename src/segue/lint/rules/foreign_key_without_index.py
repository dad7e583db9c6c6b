"""A foreign key whose columns no index begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint, CreateTable, End
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.changes import Constraint
    from segue.model.findings import Finding


def look(change: End, at: Place) -> Iterator[Finding]:
    """Find keys of this file for which a deleted parent reads the whole table, as far as the files tell."""
    for item in at.history.before:
        if isinstance(item, CreateTable):
            constraints: tuple[Constraint, ...] = item.constraints
        elif isinstance(item, AddConstraint):
            constraints = (item.constraint,)
        else:
            continue
        if at.unasked(item):
            continue
        table = at.history.table(item.table)
        # Of a table that no file has created, the indexes are not known.
        if not table.whole or getattr(item, "temporary", False):
            continue
        for constraint in constraints:
            if (
                constraint.kind != "foreign key"
                or not constraint.columns
                or _served(at, table.name, constraint.columns)
            ):
                continue
            columns = ", ".join(constraint.columns)
            yield at.find(
                change,
                f"each DELETE and each changed key of {constraint.refers} reads all of {item.table} for ({columns})",
                safe=f"CREATE INDEX CONCURRENTLY … ON {item.table} ({columns})",
                tables=(item.table, constraint.refers),
                offset=item.offset,
            )


def _served(at: Place, table: str, columns: tuple[str, ...]) -> bool:
    """Return whether an index begins with these columns, in whatever order."""
    wanted = set(columns)
    known = [
        index.columns
        for index in at.history.indexes.values()
        if index.table.removeprefix("public.") == table and not index.partial
    ]
    known += [item.columns for item in at.history.table(table).constraints if item.kind in ("primary key", "unique")]
    return any(set(each[: len(wanted)]) == wanted for each in known)


RULE = Rule(
    name="foreign-key-without-index",
    severity=Severity.INFO,
    rows=(31,),
    on=(End,),
    condition="a foreign key of a table that the files create, and no index that begins with its columns",
    effect="deleting a row over there, or changing its key, reads this table from end to end, under locks of the row",
    instead="an index on the columns",
    bad="CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint REFERENCES orders);",
    good="CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint REFERENCES orders); "
    "CREATE INDEX items_order ON items (order_id);",
    look=look,
)
