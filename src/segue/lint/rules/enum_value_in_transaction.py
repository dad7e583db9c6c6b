"""A new value of an enum that its own transaction uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import (
    AddColumn,
    AddConstraint,
    AddEnumValue,
    CreateIndex,
    CreateTable,
    Other,
    SetDefault,
    WriteData,
)
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.changes import Change
    from segue.model.findings import Finding


def look(change: Change, at: Place) -> Iterator[Finding]:
    """Find uses of a value that the open transaction has added."""
    told = at.history.told
    if isinstance(change, AddEnumValue):
        told.add(at.rule.name)
        return
    if at.rule.name not in told or not at.history.in_transaction:
        return
    earlier = at.history.since_begin
    if any(isinstance(item, Other) and item.verb == "CREATE ENUM" for item in earlier):
        return  # values of a type that the transaction made may be used
    for item in earlier:
        if isinstance(item, AddEnumValue) and f"'{item.value}'" in at.statement.sql:
            yield at.find(
                change,
                f"the server refuses it: '{item.value}' of {item.type} may be used once the transaction that added it "
                "has ended",
                safe=f"ALTER TYPE {item.type} ADD VALUE '{item.value}' in a migration of its own, before this one",
            )
            return


RULE = Rule(
    name="enum-value-in-transaction",
    severity=Severity.ERROR,
    rows=(65,),
    on=(AddColumn, AddConstraint, AddEnumValue, CreateIndex, CreateTable, Other, SetDefault, WriteData),
    condition="a value is added to an enum and used in the same transaction",
    effect="the statement fails, and the migration with it",
    instead="add the value in a migration of its own",
    bad="BEGIN;\nALTER TYPE mood ADD VALUE 'calm';\nUPDATE people SET mood = 'calm' WHERE id = 1;\nCOMMIT;",
    good="ALTER TYPE mood ADD VALUE 'calm';\nUPDATE people SET mood = 'calm' WHERE id = 1;",
    look=look,
)
