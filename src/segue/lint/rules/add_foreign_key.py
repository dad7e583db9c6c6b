"""A foreign key that is proved at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AddConstraint
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: AddConstraint, at: Place) -> Iterator[Finding]:
    """Find foreign keys that both tables are read for, and those that come with a new column."""
    item = change.constraint
    if item.kind != "foreign key" or item.not_valid or not item.enforced:
        return
    if at.new(change.table) or at.history.table(change.table).partitioned:
        return
    name = item.name or "…"
    safe = (
        f"ALTER TABLE {change.table} ADD CONSTRAINT {name} FOREIGN KEY ({', '.join(item.columns)}) REFERENCES "
        f"{item.refers} NOT VALID; then, in another transaction, ALTER TABLE {change.table} VALIDATE CONSTRAINT {name}"
    )
    alone = at.new(item.refers) or item.refers.removeprefix("public.") == change.table.removeprefix("public.")
    if alone and change.inline and change.form != "add-column-references-default":
        return  # nothing is looked up, and nobody else waits
    if alone:
        message = f"{change.table} is read from end to end while writes to it wait"
    elif not change.inline:
        message = f"both are read from end to end while writes to {change.table} and to {item.refers} wait"
    elif change.form == "add-column-references-default":
        message = (
            f"both are read from end to end while reads and writes of {change.table}, and writes to {item.refers}, wait"
        )
    else:
        # Every row has NULL: nothing is looked up, but the lock is there until the transaction ends.
        yield at.find(
            change,
            f"writes to {item.refers} wait too, until the transaction ends",
            safe=f"add the column by itself, then {safe}",
            fix=at.forms.later(at.statement, change),
            severity=Severity.WARNING,
        )
        return
    yield at.find(change, message, safe=safe, fix=at.forms.later(at.statement, change))


RULE = Rule(
    name="add-foreign-key",
    severity=Severity.ERROR,
    rows=(10, 11, 26),
    on=(AddConstraint,),
    condition="a foreign key is added to a table, by itself or with a new column, without NOT VALID",
    effect="both tables are read; writes to both wait until that is done, and with a new column reads of the one too",
    instead="add it NOT VALID, which holds for new rows at once, and validate it in another transaction",
    bad="ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers;",
    good="ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers NOT VALID;",
    look=look,
)
