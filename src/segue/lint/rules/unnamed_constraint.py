"""A constraint whose name is left to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding

_LONGEST = 63  # bytes that the server keeps of a name


def look(change: AddConstraint, at: Place) -> Iterator[Finding]:
    """Find constraints without a name, and names that are cut."""
    name = change.constraint.name
    if change.inline or change.constraint.using_index or at.new(change.table):
        return
    if not name:
        message = "the server chooses the name, perhaps not the same one everywhere: what drops or validates it guesses"
    elif len(name.encode()) == _LONGEST and _goes_on(at.statement.sql.lower().partition(name.lower())[2]):
        message = f"the server keeps {_LONGEST} bytes of the name, and says so in a notice only"
    else:
        return
    safe = f"ALTER TABLE {change.table} ADD CONSTRAINT name …"
    yield at.find(change, message, safe=safe, fix=at.forms.named(at.statement, change))


def _goes_on(rest: str) -> bool:
    """Return whether a name that was cut as the server cuts it goes on in the text."""
    return rest[:1].isalnum() or rest[:1] in ("_", "$")


RULE = Rule(
    name="unnamed-constraint",
    severity=Severity.INFO,
    rows=(36,),
    on=(AddConstraint,),
    condition="a constraint is added without a name, or with one of more than 63 bytes",
    effect="later migrations cannot name it with certainty",
    instead="name it",
    bad="ALTER TABLE orders ADD CHECK (amount > 0) NOT VALID;",
    good="ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0) NOT VALID;",
    look=look,
)
