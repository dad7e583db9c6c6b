"""An extension that is created or updated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import Other
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: Other, at: Place) -> Iterator[Finding]:
    """Find CREATE and ALTER EXTENSION."""
    if change.verb in ("CREATE EXTENSION", "ALTER EXTENSION"):
        yield at.find(
            change,
            "the extension's own script runs, often as a superuser: what it changes and locks is not in this text",
            safe="by hand on all servers before this migration, tried on a copy",
        )


RULE = Rule(
    name="extension-script",
    severity=Severity.INFO,
    rows=(68,),
    on=(Other,),
    condition="an extension is created or updated",
    effect="its script runs with rights of its own; what it locks cannot be told, and a replica or copy may lack it",
    instead="install it on all servers beforehand, after a trial on a copy",
    bad="CREATE EXTENSION hstore;",
    good="CREATE TABLE moods (name text PRIMARY KEY);",
    look=look,
)
