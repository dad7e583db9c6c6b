"""A NOT NULL column whose default goes while code runs that does not write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import SetDefault
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: SetDefault, at: Place) -> Iterator[Finding]:
    """Find columns that an INSERT has to name from then on."""
    if not change.dropped or at.new(change.table) or not at.history.table(change.table).proven(change.column):
        return
    yield at.find(
        change,
        f'"{change.column}" of {change.table} must not be NULL and has no default from then on: running code, whose '
        "INSERTs leave it out, fails",
        safe="keep the default until all code that runs writes the column",
    )


RULE = Rule(
    name="drop-default-not-null",
    severity=Severity.WARNING,
    rows=(22,),
    on=(SetDefault,),
    condition="the default of a NOT NULL column is dropped, as Django does right after it added the column",
    effect="code that runs now and does not know the column can insert no row",
    instead="keep the default (Django: db_default) until all code that runs writes the column",
    bad="ALTER TABLE orders ADD COLUMN seen boolean NOT NULL DEFAULT false;\n"
    "ALTER TABLE orders ALTER COLUMN seen DROP DEFAULT;",
    good="ALTER TABLE orders ADD COLUMN seen boolean NOT NULL DEFAULT false;",
    look=look,
)
