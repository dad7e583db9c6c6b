"""Promise 10, the record is true: a state changes by compare-and-set, with its ledger entry in the same transaction."""

from __future__ import annotations

import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import run_sql
from sqlalchemy import select

from segue.model.lifecycles import OnlineChangePhase
from segue.store.tables.executions import ExecutionRow
from segue.store.tables.ledger import LedgerRow
from segue.store.tables.online import OnlineChangeRow
from segue.store.transitions import StaleState, advance

PLAN = """
plan: widen
version: 1.0.0
description: Give a column room
steps:
  - {name: widen, kind: online-change, strategy: shadow-table, table: t, alter: [ALTER v TYPE bigint]}
"""


@pytest.fixture
def shop(shops: Shops, database: str) -> Shops:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1)")
    shops.open("shop", database)
    shops.run(shops.add(PLAN))
    return shops


def chain(shop: Shops, subject: str) -> list[tuple[str, str]]:
    """Return the steps of a record's states, as the ledger tells them."""
    with shop.store.session() as session:
        found = session.scalars(select(LedgerRow).where(LedgerRow.subject_id == subject).order_by(LedgerRow.id))
        return [(str(row.detail["from"]), str(row.detail["to"])) for row in found if "from" in row.detail]


def test_the_ledger_leads_from_the_first_state_of_each_record_to_that_which_it_has(segue: Segue, shop: Shops) -> None:
    shop.rollback()
    with shop.store.session() as session:
        change = session.scalars(select(OnlineChangeRow)).one()
        execution = session.scalars(select(ExecutionRow)).one()
        states = {change.id: change.phase, execution.id: execution.status}
    for subject, state in states.items():
        steps = chain(shop, subject)
        assert steps
        assert [before for before, _ in steps[1:]] == [after for _, after in steps[:-1]]
        assert steps[-1][1] == state
    segue("ledger", "verify").expect(0)


def test_who_comes_second_changes_neither_the_record_nor_the_ledger(shop: Shops) -> None:
    with shop.store.session() as session:
        change = session.scalars(select(OnlineChangeRow)).one()
        said = len(chain(shop, change.id))
        with pytest.raises(StaleState):
            advance(session, change, OnlineChangePhase.SWAPPING, expecting=OnlineChangePhase.VERIFYING, actor="second")
        session.rollback()
    with shop.store.session() as session:
        change = session.scalars(select(OnlineChangeRow)).one()
        assert (change.phase, len(chain(shop, change.id))) == ("reversible", said)


def test_a_state_whose_ledger_entry_does_not_commit_is_not_there(shop: Shops) -> None:
    with shop.store.session() as session:
        change = session.scalars(select(OnlineChangeRow)).one()
        advance(session, change, OnlineChangePhase.COMPLETED, actor="third")
        session.rollback()
    with shop.store.session() as session:
        assert session.scalars(select(OnlineChangeRow)).one().phase == "reversible"
