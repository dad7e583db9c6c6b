"""A DROP that takes along what the text does not name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import plain
from segue.lint.rule import Rule
from segue.model.changes import DropColumn, DropObject, Other
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


#: Whose lock is the one that matters, by the form.
_ROLES = {"drop-type-cascade": "type user", "drop-domain-cascade": "domain user"}


def look(change: DropObject | DropColumn | Other, at: Place) -> Iterator[Finding]:
    """Find DROP … CASCADE, and the drop of a whole database."""
    if isinstance(change, Other):
        if change.verb == "DROPDB":
            yield at.find(change, "the database is gone with everything in it", safe="by hand, after a backup")
        return
    if not change.cascade or (change.table and at.new(change.table)):
        return
    if isinstance(change, DropColumn) and at.history.table(change.table).whole and not _referred(change, at):
        return  # drop-column says it
    what = f"{change.kind} {change.name}" if isinstance(change, DropObject) else f"{change.column} of {change.table}"
    yield at.find(
        change,
        f"CASCADE drops whatever depends on {what}, on this server and today: columns, views, foreign keys; "
        "reads and writes of every table concerned wait",
        safe="name what is to go, one DROP for each, without CASCADE",
        role=_ROLES.get(change.form, "table"),
    )


def _referred(change: DropColumn, at: Place) -> bool:
    """Return whether a foreign key of another table refers to the column."""
    table = plain(change.table)
    return any(
        plain(item.refers) == table and (not item.referred or change.column in item.referred)
        for other in at.history.tables.values()
        for item in other.constraints
        if item.refers and other.name != table
    )


RULE = Rule(
    name="drop-cascade",
    severity=Severity.ERROR,
    rows=(46,),
    on=(DropObject, DropColumn, Other),
    condition="something is dropped with CASCADE, or a database is",
    effect="objects that the text does not name are dropped along, and each table they belong to is locked",
    instead="drop each thing by its name, so that the statement fails where something else depends on it",
    bad="DROP TYPE mood CASCADE;",
    good="DROP TYPE mood;",
    look=look,
)
