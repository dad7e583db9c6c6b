"""A DROP that takes along what the text does not name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import DropColumn, DropConstraint, DropObject, Other
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


#: Whose lock is the one that matters, by the form.
_ROLES = {"drop-type-cascade": "type user", "drop-domain-cascade": "domain user"}


def look(change: DropObject | DropColumn | DropConstraint | Other, at: Place) -> Iterator[Finding]:
    """Find DROP … CASCADE, and the drop of a whole database."""
    if isinstance(change, Other):
        if change.verb == "DROPDB":
            yield at.find(change, "the database is gone with everything in it", safe="by hand, after a backup")
        return
    if not change.cascade or (change.table and at.new(change.table)):
        return
    if isinstance(change, DropObject):
        what = f"{change.kind} {change.name}"
    else:
        what = f"{change.column if isinstance(change, DropColumn) else change.name} of {change.table}"
    yield at.find(
        change,
        f"CASCADE drops whatever depends on {what}, on this server and today: columns, views, foreign keys; "
        "reads and writes of every table concerned wait",
        safe="name what is to go, one DROP for each, without CASCADE",
        role=_ROLES.get(change.form, "table"),
    )


RULE = Rule(
    name="drop-cascade",
    severity=Severity.ERROR,
    rows=(46,),
    on=(DropObject, DropColumn, DropConstraint, Other),
    condition="something is dropped with CASCADE, or a database is",
    effect="objects that the text does not name are dropped along, and each table they belong to is locked",
    instead="drop each thing by its name, so that the statement fails where something else depends on it",
    bad="DROP TYPE mood CASCADE;",
    good="DROP TYPE mood;",
    look=look,
)
