"""A constraint of a domain, for which every table that has it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.history import plain
from segue.lint.rule import Rule
from segue.model.changes import AlterDomain, CreateDomain
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding

_READING = ("add constraint", "set not null", "validate constraint")


def look(change: AlterDomain, at: Place) -> Iterator[Finding]:
    """Find what is proved of every column of the domain."""
    if change.action not in _READING or change.not_valid:
        return
    users = tuple(
        table.name
        for table in at.history.tables.values()
        if any(plain(column.type) == plain(change.name) for column in table.columns.values())
    )
    old = tuple(name for name in users if not at.new(name))
    before = at.history.before
    if not old and (users or any(isinstance(item, CreateDomain) and item.name == change.name for item in before)):
        return  # nobody but tables of this file has it
    which = ", ".join(old) or f"every table with a column of {change.name}"
    add = change.action == "add constraint"
    yield at.find(
        change,
        f"{which} is read from end to end while writes wait",
        safe="with NOT VALID it holds for new values at once and reads nothing; VALIDATE CONSTRAINT at a quiet time"
        if add
        else "at a quiet time, with a lock_timeout; or a CHECK on each table, NOT VALID first, which nobody waits for",
        role="domain user",
        tables=old,
        severity=Severity.WARNING if change.action == "validate constraint" else None,
    )


RULE = Rule(
    name="alter-domain",
    severity=Severity.ERROR,
    rows=(34,),
    on=(AlterDomain,),
    condition="a domain gets a CHECK without NOT VALID, or NOT NULL, or its constraint is validated",
    effect="every table with a column of it is read from end to end, in turn; writes to all of them wait until the end",
    instead="add it NOT VALID; or put the constraint on the tables, where validating stops nobody",
    bad="ALTER DOMAIN small ADD CONSTRAINT positive CHECK (VALUE > 0);",
    good="ALTER DOMAIN small ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID;",
    look=look,
)
