"""Transactions that do not begin and end where the text seems to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.lint.rule import Rule
from segue.model.changes import End, Transaction
from segue.model.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.rule import Place
    from segue.model.findings import Finding


def look(change: End | Transaction, at: Place) -> Iterator[Finding]:
    """Find BEGIN in a transaction, COMMIT outside of one, and one that is never ended."""
    inside = at.history.in_transaction
    if isinstance(change, End):
        own = [item.verb for item in at.history.before if isinstance(item, Transaction)]
        verbs = [verb for verb in own if verb in ("begin", "commit", "rollback", "prepare")]
        if inside and verbs and verbs[-1] == "begin":
            yield at.find(change, "the transaction is not ended: all of it is taken back", safe="COMMIT")
    elif change.verb == "begin" and inside:
        yield at.find(
            change,
            "a transaction is open already: this does nothing, and the next COMMIT ends that one",
            safe="no BEGIN here",
        )
    elif change.verb == "commit" and not inside:
        yield at.find(
            change,
            "no transaction is open: what came before was done statement by statement",
            safe="BEGIN first, or no COMMIT",
        )


RULE = Rule(
    name="transaction-unbalanced",
    severity=Severity.WARNING,
    rows=(77,),
    on=(End, Transaction),
    condition="BEGIN in an open transaction, COMMIT without one, or no COMMIT at the end",
    effect="what looks like all or nothing is not, or nothing stays",
    instead="one BEGIN and one COMMIT, or neither where the tool opens the transaction",
    bad="BEGIN;\nUPDATE orders SET note = '' WHERE id = 1;",
    good="BEGIN;\nUPDATE orders SET note = '' WHERE id = 1;\nCOMMIT;",
    look=look,
)
