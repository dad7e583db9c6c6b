"""A type change that leaves the rows as they are, but not the indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import is_utc, plain
from segue.lint.rule import Rule
from segue.model.changes import AlterType
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding

_STAMPS = {"timestamp", "timestamptz"}


def look(change: AlterType, at: Place) -> Iterator[Finding]:
    """Find changes of a collation, and of timestamps in UTC, on columns that an index orders."""
    if change.using or at.new(change.table):
        return
    table, name = at.history.table(change.table), change.column.name
    old = table.columns.get(name)
    if change.collation:
        why, form = "its order is another", "alter-type-collation-indexed"
    elif old is not None and {old.type, change.column.type} == _STAMPS and is_utc(at.history.setting("timezone")):
        why, form = "the server compares the two types otherwise", "alter-type-timestamptz-indexed-in-utc"
    else:
        return
    indexes = [
        item.name
        for item in at.history.indexes.values()
        if plain(item.table) == table.name and (name in item.columns or "" in item.columns)
    ]
    indexes += [
        item.name
        for item in table.constraints
        if item.kind in ("unique", "primary key", "exclude") and name in item.columns
    ]
    if not indexes and table.whole:
        return
    known = ", ".join(dict.fromkeys(name for name in indexes if name)) or "whatever index there is"
    yield at.find(
        change,
        f'{known} over "{name}" of {change.table} is built anew while reads and writes wait: {why}',
        safe=f"build the index CONCURRENTLY on a new column, or drop it before and build it CONCURRENTLY after, if "
        f"{change.table} can do without it for so long",
        form=form,
        severity=None if indexes else Severity.WARNING,
    )


RULE = Rule(
    name="alter-type-reindexed",
    severity=Severity.ERROR,
    rows=(14,),
    on=(AlterType,),
    condition="the collation of an indexed column is changed, or timestamp to timestamptz where TimeZone is UTC",
    effect="the rows stay as they are, but every index over the column is built anew; reads and writes wait",
    instead="drop the index before and build it CONCURRENTLY after, or change the column online",
    before="CREATE TABLE visits (page text);\nCREATE INDEX visits_by_page ON visits (page);",
    bad='ALTER TABLE visits ALTER COLUMN page TYPE text COLLATE "C";',
    good="ALTER TABLE visits ALTER COLUMN page TYPE varchar;",
    look=look,
)
