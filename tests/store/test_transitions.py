"""advance() moves a status once, legally, and with its ledger entry; nothing else moves one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from segue.errors import ExitCode
from segue.model.lifecycles import LifecycleError, PlanStatus
from segue.store import Store
from segue.store.tables.ledger import LedgerRow
from segue.store.tables.online import ShadowTableRow
from segue.store.tables.plans import PlanRow
from segue.store.transitions import StaleState, advance

NewPlan = Callable[..., PlanRow]


def test_a_status_moves_with_its_entry_and_other_columns(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan()
        session.add(plan)
        advance(session, plan, PlanStatus.APPROVED, actor="ada", detail={"reason": "reviewed"}, approved_by="ada")
        assert (plan.status, plan.approved_by) == ("approved", "ada")
    with store.session() as session:
        entry = session.scalars(select(LedgerRow)).one()
        assert (entry.actor, entry.action, entry.subject, entry.subject_id) == (
            "ada",
            "approved",
            "migration_plans",
            plan.id,
        )
        assert entry.detail == {"from": "draft", "to": "approved", "reason": "reviewed"}


def test_a_column_whose_name_differs_from_its_attribute_moves_too(store: Store) -> None:
    with store.session() as session:
        shadow = ShadowTableRow(original_table="a", shadow_table="b", migration_id="m", purpose="schema-change")
        session.add(shadow)
        session.flush()
        advance(session, shadow, "synced", actor="ada")
        assert shadow.sync_status == "synced"


def test_an_illegal_move_is_refused_and_changes_nothing(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan()
        session.add(plan)
        session.flush()
        with pytest.raises(LifecycleError, match='the plan cannot go from "draft" to "completed"') as refused:
            advance(session, plan, "completed", actor="ada")
        assert refused.value.exit_code == ExitCode.INTERNAL
        with pytest.raises(LifecycleError, match='"done" is not a status of the plan'):
            advance(session, plan, "done", actor="ada")
        session.refresh(plan)
        assert plan.status == "draft"
    with store.session() as session:
        assert session.scalars(select(LedgerRow)).all() == []


def test_the_one_who_comes_second_is_told(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan()
        session.add(plan)
    with store.session() as first:
        advance(first, first.get_one(PlanRow, plan.id), "executing", actor="ada")
    with store.session() as second:
        row = second.get_one(PlanRow, plan.id)
        with pytest.raises(StaleState, match='the plan is "executing" by now, not "draft"') as late:
            advance(second, row, "approved", expecting="draft", actor="bob")
    assert late.value.exit_code == ExitCode.BUSY


def test_of_many_at_once_exactly_one_wins(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan()
        session.add(plan)
    barrier = Barrier(8)

    def take(number: int) -> bool:
        try:
            with store.session() as session:
                row = session.get_one(PlanRow, plan.id)
                barrier.wait(30)
                advance(session, row, "executing", actor=f"worker {number}")
        except StaleState:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1
    with store.session() as session:
        assert len(session.scalars(select(LedgerRow)).all()) == 1


def give_up(session: Session, plan: PlanRow, to: str) -> None:
    """Advance a plan, and then think better of it."""
    advance(session, plan, to, actor="ada")
    raise RuntimeError


def test_the_entry_vanishes_with_its_transaction(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan()
        session.add(plan)
    with pytest.raises(RuntimeError), store.session() as session:
        give_up(session, session.get_one(PlanRow, plan.id), "approved")
    with store.session() as session, pytest.raises(RuntimeError), session.begin_nested():
        give_up(session, session.get_one(PlanRow, plan.id), "approved")
    with store.session() as session:
        assert session.get_one(PlanRow, plan.id).status == "draft"
        assert session.scalars(select(LedgerRow)).all() == []


def test_an_entry_outside_a_savepoint_survives_it(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan()
        session.add(plan)
        advance(session, plan, "approved", actor="ada")
        with pytest.raises(RuntimeError), session.begin_nested():
            give_up(session, plan, "executing")
        with session.begin_nested():
            advance(session, plan, "draft", expecting="approved", actor="ada")
    with store.session() as session:
        actions = session.scalars(select(LedgerRow.action).order_by(LedgerRow.id)).all()
    assert actions == ["approved", "draft"]


def test_nothing_else_assigns_a_status(store: Store, new_plan: NewPlan) -> None:
    with pytest.raises(LifecycleError, match='the plan cannot begin as "completed"'):
        new_plan(status="completed")
    with store.session() as session:
        plan = new_plan(status="draft")
        session.add(plan)
        session.flush()
        with pytest.raises(LifecycleError, match='the status of the plan was assigned "failed"'):
            plan.status = "failed"


def test_a_table_without_a_status_cannot_advance(store: Store) -> None:
    with store.session() as session, pytest.raises(TypeError, match="LedgerRow has no status"):
        advance(session, LedgerRow(), "done", actor="ada")
