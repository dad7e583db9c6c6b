"""A type whose values can never be taken away."""

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
    """Find new enums."""
    if change.verb == "CREATE ENUM":
        yield at.find(
            change,
            "values of an enum cannot be removed, nor put in another order",
            safe="a table of values, and a foreign key to it",
        )


RULE = Rule(
    name="enum-type",
    severity=Severity.INFO,
    rows=(66,),
    on=(Other,),
    condition="an enum is created",
    effect="its values can be added to and renamed, never removed or put in another order",
    instead="a table of values that others refer to, where values will go",
    bad="CREATE TYPE mood AS ENUM ('sad', 'calm');",
    good="CREATE TABLE moods (name text PRIMARY KEY);",
    look=look,
)
