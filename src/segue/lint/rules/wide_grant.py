"""Rights for everybody, or all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import Grant
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: Grant, at: Place) -> Iterator[Finding]:
    """Find grants to PUBLIC, of ALL, and those that can be passed on."""
    on = change.table or "it"
    if change.public:
        message = f"every role of the server, also those to come, gets rights on {on}"
    elif change.passed_on:
        message = f"who gets these rights on {on} can give them to others"
    elif change.all and change.table:
        message = f"ALL on {on} includes TRUNCATE, TRIGGER and REFERENCES"
    else:
        return
    yield at.find(change, message, safe="GRANT SELECT, INSERT, … to the roles that need them")


RULE = Rule(
    name="wide-grant",
    severity=Severity.INFO,
    rows=(67,),
    on=(Grant,),
    condition="GRANT to PUBLIC, of ALL, or WITH GRANT OPTION",
    effect="more roles can do more than the text names",
    instead="name the rights and the roles",
    bad="GRANT ALL ON orders TO PUBLIC;",
    good="GRANT SELECT, INSERT ON orders TO CURRENT_USER;",
    look=look,
)
