"""The ledger: append to it, and prove that nobody has changed what was written.

Each entry's hash covers its content and the hash of the entry before, computed by a trigger in the server, so that no
insert can leave it out. `verify` computes the hashes again on this side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, insert, text
from sqlalchemy.orm import Session, SessionTransaction

from segue.store.tables.ledger import LedgerRow

_QUEUE = "segue.ledger"

_CANONICAL = """
    SELECT id, previous_hash, hash, jsonb_build_array(
        previous_hash, id, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        actor, action, subject, subject_id, detail
    )::text AS content
    FROM segue_store.ledger ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """Where the ledger is not what was written: the entry's id, and what is wrong there."""

    id: int
    reason: str


def append(
    session: Session,
    *,
    actor: str,
    action: str,
    subject: str,
    subject_id: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write an entry with the session's transaction: it is there if and only if the transaction commits.

    `subject` is the record's table (`migration_plans`, `environments` …), `subject_id` its id, `action` a word: what
    happened to it. The entry is sent just before the commit, not now: entries wait for one another, and so nobody
    waits longer than a commit takes.
    """
    entry = {
        "actor": actor,
        "action": action,
        "subject": subject,
        "subject_id": subject_id,
        "detail": dict(detail or {}),
    }
    transaction = session.get_nested_transaction() or session.get_transaction() or session.begin()
    session.info.setdefault(_QUEUE, []).append((transaction, entry))


@event.listens_for(Session, "before_commit")
def _send(session: Session) -> None:
    queue = session.info.get(_QUEUE)
    if not queue:
        return
    # The session's other work first: so the chain's lock is the last that a transaction takes, and none deadlocks.
    session.flush()
    savepoint = session.get_nested_transaction()
    if savepoint is not None:
        # It may still be undone with what surrounds it: from now on its entries share that fate.
        session.info[_QUEUE] = [(savepoint.parent if owner is savepoint else owner, entry) for owner, entry in queue]
        return
    del session.info[_QUEUE]
    # A process that is stopped before its commit would keep everybody from the chain; the server ends its session.
    session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10s'"))
    session.execute(insert(LedgerRow), [entry for _, entry in queue])


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, ended: SessionTransaction) -> None:
    queue = session.info.get(_QUEUE, ())
    if ended.parent is None:
        session.info.pop(_QUEUE, None)
    elif ended.nested:
        session.info[_QUEUE] = [item for item in queue if item[0] is not ended]


def verify(session: Session) -> list[Problem]:
    """Return where the ledger was tampered with, the first entry first; empty when nobody did.

    Finds entries that were altered, removed (also from the end), inserted, or put in another order. Who may write
    every table of the store can write a whole new chain: keep `head` elsewhere to find that too.
    """
    problems: list[Problem] = []
    head_id, head_hash = head(session)
    last_id, last_hash = 0, "0" * 64
    rows = session.execute(text(_CANONICAL), execution_options={"yield_per": 1000})
    for row in rows:
        if row.id < 1:
            problems.append(Problem(row.id, f"entry {row.id} does not belong to the ledger"))
            continue
        if row.id != last_id + 1:
            problems.append(Problem(last_id + 1, _missing(last_id + 1, row.id - 1)))
        elif row.previous_hash != last_hash:
            problems.append(Problem(row.id, f"entry {row.id} does not follow from the entry before it"))
        if hashlib.sha256(row.content.encode()).hexdigest() != row.hash:
            problems.append(Problem(row.id, f"entry {row.id} was altered"))
        elif row.id == head_id and row.hash != head_hash:
            problems.append(Problem(row.id, f"entry {row.id} is not the one that the head of the ledger names"))
        last_id, last_hash = row.id, row.hash
    if last_id < head_id:
        problems.append(Problem(last_id + 1, _missing(last_id + 1, head_id)))
    # Entries that came while this read ran are in the chain, and the head has moved with them.
    elif last_id > head(session)[0]:
        problems.append(Problem(head_id + 1, f"entry {head_id + 1} stands after the head of the ledger"))
    return problems


def head(session: Session) -> tuple[int, str]:
    """Return the id and the hash of the last entry; (0, zeros) when there is none."""
    row = session.execute(text("SELECT last_id, hash FROM segue_store.ledger_head")).one_or_none()
    return (int(row.last_id), str(row.hash)) if row is not None else (0, "0" * 64)


def _missing(first: int, last: int) -> str:
    return f"entry {first} is missing" if first == last else f"entries {first} to {last} are missing"
