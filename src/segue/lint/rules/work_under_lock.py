"""Long work in a transaction that already holds a strong lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import plain
from segue.lint.rule import Rule
from segue.model.changes import (
    AddColumn,
    AddConstraint,
    AlterTable,
    AlterType,
    CreateIndex,
    CreateTrigger,
    DropColumn,
    DropConstraint,
    DropObject,
    RenameObject,
    SetNotNull,
    WriteData,
)
from segue.model.findings import Severity
from segue.model.impact import Duration, Lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.changes import Change
    from segue.model.findings import Finding


_LONG = (Duration.SCAN, Duration.REWRITE, Duration.INDEX_BUILD, Duration.DATA)


def look(change: Change, at: Place) -> Iterator[Finding]:
    """Find long statements, and locks on other tables, after a strong lock."""
    if not at.history.held or not change.form or not change.table or at.new(change.table):
        return
    facts = at.facts(change.form)
    long = facts.duration in _LONG and not _short(change, at)
    if not long and (facts.lock() is not Lock.ACCESS_EXCLUSIVE or at.rule.name in at.history.told):
        return
    strong = Lock.SHARE_ROW_EXCLUSIVE.rank
    held = [name for name, lock in at.history.held.items() if lock.rank >= strong and not at.new(name)]
    if not held:
        return
    names = ", ".join(held[:3]) + (" and others" if len(held) > 3 else "")
    if long:
        blocked = max((at.history.held[name] for name in held), key=lambda lock: lock.rank).blocks
        yield at.find(
            change,
            f"{blocked} of {names} wait until this is done as well: the transaction has locked it before, and keeps "
            "its lock to the end",
            safe="COMMIT first, this in a transaction of its own",
        )
    elif plain(change.table) not in held:
        at.history.told.add(at.rule.name)
        yield at.find(
            change,
            f"{names} stays locked while this waits for {change.table}; whoever uses them in the other order ends in a "
            "deadlock",
            safe="one transaction for each table",
            severity=Severity.INFO,
        )


def _short(change: Change, at: Place) -> bool:
    if isinstance(change, WriteData):
        return change.verb == "INSERT"  # a row or two, mostly
    if isinstance(change, SetNotNull):
        return at.history.table(change.table).proven(change.column)
    return isinstance(change, AlterType)  # alter-type-rewrite knows which are long


RULE = Rule(
    name="work-under-lock",
    severity=Severity.WARNING,
    rows=(74, 75),
    on=(
        AddColumn,
        AddConstraint,
        AlterTable,
        AlterType,
        CreateIndex,
        CreateTrigger,
        DropColumn,
        DropConstraint,
        DropObject,
        RenameObject,
        SetNotNull,
        WriteData,
    ),
    condition="a transaction that holds a strong lock reads or writes a whole table, or locks another one",
    effect="reads and writes of the table that it locked first wait for all of it; two such transactions may deadlock",
    instead="end the transaction after each strong lock",
    bad="BEGIN;\nALTER TABLE orders ADD COLUMN seen boolean;\nUPDATE orders SET seen = false WHERE id < 1000;\nCOMMIT;",
    good="ALTER TABLE orders ADD COLUMN seen boolean;\nUPDATE orders SET seen = false WHERE id < 1000;",
    look=look,
)
