"""The ledger holds what was written, in order, and shows when somebody has changed it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from segue.store import Store, ledger
from segue.store.tables.ledger import LedgerRow
from segue.store.tables.plans import PlanRow


def write(store: Store, count: int, actor: str = "ada") -> None:
    for number in range(count):
        with store.session() as session:
            ledger.append(
                session,
                actor=actor,
                action="created",
                subject="plan",
                subject_id=f"p{number}",
                detail={"number": number, "amount": 1.10, "text": 'é "quoted" \\ ☃\n', "none": None},
            )


def problems(store: Store) -> list[ledger.Problem]:
    with store.session() as session:
        return ledger.verify(session)


def test_an_empty_ledger_is_whole(store: Store) -> None:
    assert problems(store) == []


def test_entries_are_numbered_and_chained(store: Store) -> None:
    write(store, 5)
    with store.session() as session:
        rows = session.scalars(select(LedgerRow).order_by(LedgerRow.id)).all()
        assert [row.id for row in rows] == [1, 2, 3, 4, 5]
        assert [row.previous_hash for row in rows] == ["0" * 64, *[row.hash for row in rows[:-1]]]
        assert [row.at for row in rows] == sorted(row.at for row in rows)
        assert ledger.head(session) == (5, rows[-1].hash)
    assert problems(store) == []


def test_several_entries_of_one_transaction_keep_their_order(store: Store) -> None:
    with store.session() as session:
        for action in ("one", "two", "three"):
            ledger.append(session, actor="ada", action=action, subject="plan", subject_id="p")
    with store.session() as session:
        assert session.scalars(select(LedgerRow.action).order_by(LedgerRow.id)).all() == ["one", "two", "three"]
    assert problems(store) == []


def note(session: Session, action: str) -> None:
    ledger.append(session, actor="ada", action=action, subject="plan", subject_id="p")


def actions(store: Store) -> list[str]:
    with store.session() as session:
        return list(session.scalars(select(LedgerRow.action).order_by(LedgerRow.id)))


def test_a_savepoint_that_is_undone_takes_its_own_entries_only(store: Store) -> None:
    with store.session() as session:
        note(session, "before")
        outer = session.begin_nested()
        note(session, "outer")
        inner = session.begin_nested()
        note(session, "inner")
        inner.commit()
        outer.rollback()
        kept = session.begin_nested()
        note(session, "kept")
        kept.commit()
        note(session, "after")
    assert actions(store) == ["before", "kept", "after"]


def test_a_failed_flush_in_a_savepoint_keeps_the_entries_before_it(store: Store) -> None:
    with store.session() as session:
        note(session, "before")
        inside = session.begin_nested()
        note(session, "inside")
        session.add(PlanRow())
        with pytest.raises(IntegrityError):
            inside.commit()
        inside.rollback()
        note(session, "after")
    assert actions(store) == ["before", "after"]


def test_nothing_waits_for_an_entry_that_is_not_committed(store: Store) -> None:
    with store.session() as slow:
        note(slow, "slow")
        slow.execute(text("SELECT 1"))
        with store.session() as quick:
            note(quick, "quick")
    assert actions(store) == ["quick", "slow"]


def test_many_writers_make_one_chain(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write(store, 10, f"writer {number}"), range(8)))
    with store.session() as session:
        assert session.scalars(select(LedgerRow.id).order_by(LedgerRow.id)).all() == list(range(1, 81))
    assert problems(store) == []


def test_what_the_writer_says_of_number_time_and_hash_does_not_count(store: Store) -> None:
    with psycopg.connect(store.url) as connection:
        connection.execute(
            "INSERT INTO segue_store.ledger (id, at, actor, action, subject, subject_id, previous_hash, hash)"
            " VALUES (99, '1999-01-01', 'eve', 'a', 'plan', 'p', 'x', 'y')"
        )
        row = connection.execute("SELECT id, at > now() - interval '1 hour' FROM segue_store.ledger").fetchone()
    assert row == (1, True)
    assert problems(store) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET actor = 'eve'",
        "DELETE FROM ledger WHERE id = 2",
        "TRUNCATE ledger",
        "UPDATE ledger_head SET last_id = 1",
        "DELETE FROM ledger_head",
        "TRUNCATE ledger_head",
        "INSERT INTO ledger_head (last_id, hash) VALUES (0, '')",
        "SET LOCAL session_replication_role = replica; DELETE FROM ledger",
    ],
)
def test_changes_are_refused(store: Store, statement: str) -> None:
    write(store, 3)
    with psycopg.connect(store.url) as connection:
        connection.execute("SET search_path = segue_store")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="the ledger is append-only"):
            connection.execute(statement)
    assert problems(store) == []


def tamper(store: Store, *statements: str) -> None:
    """Change the ledger as its owner can: with the triggers switched off."""
    with psycopg.connect(store.url) as connection:
        connection.execute("SET search_path = segue_store")
        for table in ("ledger", "ledger_head"):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for statement in statements:
            connection.execute(statement)
        connection.execute("ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_chain")
        connection.execute("ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_refuse")
        connection.execute("ALTER TABLE ledger_head ENABLE ALWAYS TRIGGER ledger_head_refuse")


COPY_OF_3 = "SELECT {id}, at, actor, action, subject, subject_id, detail, previous_hash, hash FROM ledger WHERE id = 3"

REHASH_3 = """
    UPDATE ledger SET hash = encode(sha256(convert_to(jsonb_build_array(previous_hash, id,
        to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), actor, action, subject, subject_id, detail
        )::text, 'UTF8')), 'hex') WHERE id = 3
"""


@pytest.mark.parametrize(
    ("statements", "first", "reason"),
    [
        (["UPDATE ledger SET actor = 'eve' WHERE id = 3"], 3, "entry 3 was altered"),
        (["UPDATE ledger SET action = 'x' WHERE id = 3"], 3, "entry 3 was altered"),
        (["UPDATE ledger SET subject = 'x' WHERE id = 3"], 3, "entry 3 was altered"),
        (["UPDATE ledger SET subject_id = 'x' WHERE id = 3"], 3, "entry 3 was altered"),
        (["UPDATE ledger SET detail = '{}' WHERE id = 3"], 3, "entry 3 was altered"),
        (["UPDATE ledger SET at = at + interval '1 microsecond' WHERE id = 3"], 3, "entry 3 was altered"),
        (["UPDATE ledger SET hash = repeat('a', 64) WHERE id = 3"], 3, "entry 3 was altered"),
        (["UPDATE ledger SET previous_hash = repeat('a', 64) WHERE id = 3"], 3, "entry 3 does not follow"),
        (["UPDATE ledger SET actor = 'eve' WHERE id = 3", REHASH_3], 4, "entry 4 does not follow"),
        (["DELETE FROM ledger WHERE id = 1"], 1, "entry 1 is missing"),
        (["DELETE FROM ledger WHERE id IN (2, 3)"], 2, "entries 2 to 3 are missing"),
        (["DELETE FROM ledger WHERE id = 5"], 5, "entry 5 is missing"),
        (["DELETE FROM ledger"], 1, "entries 1 to 5 are missing"),
        (
            ["DELETE FROM ledger WHERE id = 3", "UPDATE ledger SET id = id - 1 WHERE id > 3"],
            3,
            "entry 3 does not follow",
        ),
        (["UPDATE ledger SET id = 100 - id", "UPDATE ledger SET id = id - 94"], 1, "entry 1 does not follow"),
        ([f"INSERT INTO ledger {COPY_OF_3.format(id=6)}"], 6, "entry 6 does not follow"),
        ([f"INSERT INTO ledger {COPY_OF_3.format(id=0)}"], 0, "entry 0 does not belong"),
        (["UPDATE ledger_head SET hash = repeat('a', 64)"], 5, "is not the one that the head"),
        (["DELETE FROM ledger_head"], 1, "stands after the head"),
    ],
)
def test_tampering_is_found_at_its_first_entry(store: Store, statements: list[str], first: int, reason: str) -> None:
    write(store, 5)
    tamper(store, *statements)
    found = problems(store)
    assert found, "nothing was found"
    assert (found[0].id, reason in found[0].reason) == (first, True), found


def test_a_well_made_entry_after_the_head_is_found(store: Store) -> None:
    write(store, 3)
    with psycopg.connect(store.url) as connection:
        before: Any = connection.execute("SELECT last_id, hash FROM segue_store.ledger_head").fetchone()
    write(store, 1)
    tamper(store, f"UPDATE ledger_head SET last_id = {before[0]}, hash = '{before[1]}'")
    assert [problem.id for problem in problems(store)] == [4]


def test_reading_while_others_write_finds_nothing(store: Store) -> None:
    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, store, 40) for _ in range(2)]
        while not all(writer.done() for writer in writers):
            assert problems(store) == []
        for writer in writers:
            writer.result()
