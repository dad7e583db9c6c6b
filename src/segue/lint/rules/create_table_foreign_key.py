"""A new table that refers to one in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint, CreateTable
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.changes import Constraint
    from segue.model.findings import Finding


def look(change: CreateTable | AddConstraint, at: Place) -> Iterator[Finding]:
    """Find foreign keys of new tables, where nothing ends the wait for the parent."""
    if isinstance(change, CreateTable):
        if change.partition_of or change.temporary:
            return
        constraints: tuple[Constraint, ...] = change.constraints
    else:  # of a table that others use, add-foreign-key says more
        constraints = (change.constraint,) if at.new(change.table) else ()
    parents = [item.refers for item in constraints if item.refers not in ("", change.table) and not at.new(item.refers)]
    if not parents or at.history.setting("lock_timeout") not in (None, "0"):
        return
    # A transaction that has the lock already waits for it no more.
    told = at.history.told if at.history.in_transaction else set()
    names = tuple(name for name in dict.fromkeys(parents) if f"{at.rule.name} {name}" not in told)
    told.update(f"{at.rule.name} {name}" for name in names)
    if not names:
        return
    yield at.find(
        change,
        f"writes to {', '.join(names)} wait until the transaction ends, and behind this while it waits for theirs: the "
        "foreign key's triggers are made there",
        safe="SET lock_timeout = '3s' first; and commit at once",
        form="create-table-foreign-key",
        role="parent",
        tables=(*names, change.table),
    )


RULE = Rule(
    name="create-table-foreign-key",
    severity=Severity.WARNING,
    rows=(48,),
    on=(CreateTable, AddConstraint),
    condition="a new table refers to a table in use, and no lock_timeout is set",
    effect="writes to the table it refers to wait: for a moment, or as long as a transaction there is open",
    instead="set lock_timeout, and commit at once",
    bad="CREATE TABLE items (id bigint, order_id bigint REFERENCES orders);",
    good="SET lock_timeout = '3s';\nCREATE TABLE items (id bigint, order_id bigint REFERENCES orders);",
    look=look,
)
