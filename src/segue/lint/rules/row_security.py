"""Rows that readers no longer see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import AlterTable, Other
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


_ACTIONS = ("EnableRowSecurity", "ForceRowSecurity")
_VERBS = ("CREATE POLICY", "ALTER POLICY")


def look(change: AlterTable | Other, at: Place) -> Iterator[Finding]:
    """Find row security that is switched on, and policies."""
    word = change.action if isinstance(change, AlterTable) else change.verb
    if (word not in _ACTIONS and word not in _VERBS) or at.new(change.table):
        return
    known = any(isinstance(item, Other) and item.verb == "CREATE POLICY" for item in at.history.before)
    if word == "EnableRowSecurity" and not known:
        what = f"whoever does not own {change.table} sees no row of it until there is a policy, and no error either"
    else:
        what = f"rows of {change.table} may be hidden from running code, without an error"
    yield at.find(
        change,
        f"{what}; reads and writes wait for a moment",
        safe="policies first, then ENABLE ROW LEVEL SECURITY; try them with SET ROLE before",
    )


RULE = Rule(
    name="row-security",
    severity=Severity.WARNING,
    rows=(62,),
    on=(AlterTable, Other),
    condition="row security is switched on for a table in use, or a policy is made or altered",
    effect="running code may read and write fewer rows, without an error",
    instead="make the policies first, and try them as the application's role",
    bad="ALTER TABLE orders ENABLE ROW LEVEL SECURITY;",
    good="ALTER TABLE orders NO FORCE ROW LEVEL SECURITY;",
    look=look,
)
