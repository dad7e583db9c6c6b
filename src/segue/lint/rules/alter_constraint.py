"""A foreign key that counts from now on, or no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AlterTable
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding

ENFORCED, NOT_ENFORCED = "alter-constraint-enforced", "alter-constraint-not-enforced"


def look(change: AlterTable, at: Place) -> Iterator[Finding]:
    """Find ALTER CONSTRAINT … [NOT] ENFORCED; what else it changes takes a moment."""
    if change.form not in (ENFORCED, NOT_ENFORCED) or at.facts(change.form).error or at.new(change.table):
        return
    item = at.history.table(change.table).constraint(change.name)
    parent = item.refers if item is not None else ""
    other = parent or "the table that it refers to"
    tables = (change.table, parent) if parent else (change.table,)
    if change.form == ENFORCED:
        yield at.find(
            change,
            f"{change.table} is read from end to end, and {other} for each of its rows, while reads and writes of "
            f"{change.table}, and writes to {other}, wait",
            safe=f"ALTER TABLE {change.table} DROP CONSTRAINT {change.name}; ALTER TABLE {change.table} ADD CONSTRAINT "
            f"{change.name} FOREIGN KEY … NOT VALID; in another transaction VALIDATE",
            tables=tables,
        )
    else:
        yield at.find(
            change,
            f"reads and writes of {other} wait too, until the transaction ends; and rows may refer to none then",
            safe="SET lock_timeout = '3s' first, in a transaction of its own",
            tables=tables,
            severity=Severity.WARNING,
        )


RULE = Rule(
    name="alter-constraint",
    severity=Severity.ERROR,
    rows=(33,),
    on=(AlterTable,),
    condition="a foreign key is made ENFORCED or NOT ENFORCED (from 18 on)",
    effect="ENFORCED reads both tables while reads and writes wait; NOT ENFORCED locks the other table against readers",
    instead="drop the foreign key and add it NOT VALID, then validate it",
    bad="ALTER TABLE orders ALTER CONSTRAINT of_customer ENFORCED;",
    good="ALTER TABLE orders ALTER CONSTRAINT of_customer DEFERRABLE;",
    look=look,
)
