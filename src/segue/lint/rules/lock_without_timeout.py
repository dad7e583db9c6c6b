"""A strong lock that is waited for without end, or for long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import milliseconds
from segue.lint.rule import Rule
from segue.model.changes import (
    AddColumn,
    AddConstraint,
    AlterTable,
    AlterType,
    AttachPartition,
    CreateTrigger,
    DetachPartition,
    DropColumn,
    DropConstraint,
    DropNotNull,
    DropObject,
    Other,
    RenameObject,
    SetDefault,
    SetNotNull,
    Truncate,
)
from segue.model.findings import Fix, Severity
from segue.model.impact import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.changes import Change
    from segue.model.findings import Finding


_LONG = 60_000  # milliseconds
_ROLES = ("table", "view", "materialized view")


def look(change: Change, at: Place) -> Iterator[Finding]:
    """Find the first statement of a file that can wait long for a lock that others then wait for."""
    table = change.table
    if isinstance(change, DropObject) and change.kind in ("view", "materialized view"):
        table = change.name
    if not change.form or not table or at.new(table) or at.rule.name in at.history.told:
        return
    facts = at.facts(change.form)
    role = max(_ROLES, key=lambda item: facts.lock(item).rank)
    if facts.lock(role).rank < Lock.SHARE_ROW_EXCLUSIVE.rank:
        return
    value = at.history.setting("lock_timeout")
    limit = milliseconds(value)
    if 0 < limit <= _LONG:
        return
    at.history.told.add(at.rule.name)
    how = "without lock_timeout" if value is None else f"with lock_timeout = {value}"
    blocked = facts.lock(role).blocks
    yield at.find(
        change,
        f"{how} this waits for whoever uses {table}{f' for up to {limit / 1000:g} s' if limit else ' without end'}, "
        f"and all {blocked} of {table} that come later wait behind it",
        safe="SET lock_timeout = '3s' before the file's first lock, and try again when it runs out",
        role=role,
        tables=(table, *(item for item in change.tables if item != table)),
        fix=Fix((f"SET {'LOCAL ' * at.history.in_transaction}lock_timeout = '3s'", at.statement.sql)),
    )


RULE = Rule(
    name="lock-without-timeout",
    severity=Severity.WARNING,
    rows=(24, 58, 59, 60, 61, 63, 71, 72),
    on=(
        AddColumn,
        AddConstraint,
        AlterTable,
        AlterType,
        AttachPartition,
        CreateTrigger,
        DetachPartition,
        DropColumn,
        DropConstraint,
        DropNotNull,
        DropObject,
        Other,
        RenameObject,
        SetDefault,
        SetNotNull,
        Truncate,
    ),
    condition="a statement takes a strong lock, if for a moment, while lock_timeout is not set, 0, or over a minute",
    effect="it waits behind the longest query on the table, and everybody who comes later waits behind it",
    instead="SET lock_timeout to a few seconds first, and try again when it runs out",
    bad="CREATE TRIGGER stamp BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION stamp();",
    good="SET lock_timeout = '3s';\n"
    "CREATE TRIGGER stamp BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION stamp();",
    look=look,
)
