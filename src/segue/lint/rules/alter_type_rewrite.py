"""A type change for which the table is rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import is_utc
from segue.lint.rule import Rule
from segue.model.changes import AlterType
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.changes import Column
    from segue.model.findings import Finding

#: From which to which the stored form stays as it is.
_FREE = frozenset(
    {("varchar", "text"), ("text", "varchar"), ("cidr", "inet"), ("varchar", "varchar"), ("text", "text")}
)


def look(change: AlterType, at: Place) -> Iterator[Finding]:
    """Find type changes that are not known to be free."""
    if at.new(change.table):
        return
    old = at.history.table(change.table).columns.get(change.column.name)
    domain = at.history.domain(change.column.type)
    if domain is not None and not change.using:
        if domain.constrained or (old is not None and free(old, domain.base)):
            return  # constrained-domain-column has looked at the one, and nothing is to be done for the other
    elif old is not None and not change.using and {old.type, change.column.type} == {"timestamp", "timestamptz"}:
        if is_utc(at.history.setting("timezone")):
            return
    elif not change.using and (free(old, change.column) if old else _free_from_anything(change.column)):
        return
    column = f'"{change.column.name}" of {change.table}'
    if old is None:
        message = f"{change.table} is rewritten while reads and writes wait, unless the old type of {column} is like it"
    else:
        message = f"{change.table} is rewritten while reads and writes wait: {column} changes from {old.type}"
    yield at.find(
        change,
        message,
        safe="change the type online (`online-change` in a plan), or add a new column, fill it in batches, and swap",
        severity=Severity.ERROR if old or change.using else Severity.WARNING,
    )


def free(old: Column, new: Column) -> bool:
    """Return whether every stored value is one of the new type as it is, and need not be checked."""
    if old.array != new.array:
        return False
    if old.type == new.type:
        if old.modifiers == new.modifiers or not new.modifiers:
            return True
        if new.type == "varchar":
            return bool(old.modifiers) and new.modifiers[0] >= old.modifiers[0]
        if new.type == "numeric" and old.modifiers:
            old_scale, new_scale = (item.modifiers[1:] or (0,) for item in (old, new))
            return new.modifiers[0] >= old.modifiers[0] and old_scale == new_scale
        return False
    return (old.type, new.type) in _FREE and not new.modifiers


def _free_from_anything(new: Column) -> bool:
    # Nearly always from varchar; what else becomes text (int, date) is written with USING.
    return new.type == "text" and not new.array


RULE = Rule(
    name="alter-type-rewrite",
    severity=Severity.ERROR,
    rows=(13, 15),
    on=(AlterType,),
    condition="a column's type is changed to one that is stored otherwise, or with USING",
    effect="the table and its indexes are rewritten; reads and writes wait until that is done",
    instead="an online change, or a new column that a trigger keeps up while the old rows are copied in batches",
    bad="ALTER TABLE orders ALTER COLUMN amount TYPE bigint;",
    good="ALTER TABLE orders ALTER COLUMN note TYPE text;",
    look=look,
)
