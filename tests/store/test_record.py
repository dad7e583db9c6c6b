"""The record of an execution has one writer: whoever was stopped and wakes after another took over writes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segue.engine.events import nobody
from segue.engine.record import Record
from segue.errors import FenceLost
from segue.model.lifecycles import ExecutionStatus, StepRunStatus
from segue.store import Store
from segue.store.tables.environments import EnvironmentRow
from segue.store.tables.executions import ExecutionRow
from segue.store.tables.plans import PlanRow
from segue.store.transitions import advance

NewPlan = Callable[..., PlanRow]


@pytest.fixture
def execution(store: Store, new_plan: NewPlan) -> str:
    with store.session() as session:
        plan = new_plan()
        environment = EnvironmentRow(
            name="shop",
            type="staging",
            schema_name="public",
            database_url="x",
            url_hint="x",
            data_size="small",
            traffic_level="low",
            deployment_type="manual",
        )
        session.add_all([plan, environment])
        session.flush()
        row = ExecutionRow(
            plan_id=plan.id,
            environment_id=environment.id,
            execution_number=1,
            steps_total=1,
            executed_by="ada",
            execution_mode="manual",
            plan_hash=plan.plan_hash,
        )
        session.add(row)
        session.flush()
        return row.id


def record(store: Store, execution: str, owner: str, seen: int | None) -> Record:
    return Record(store, execution, actor="ada", owner=owner, watch=nobody, seen=seen)


def status(store: Store, execution: str) -> tuple[str, str | None]:
    with store.session() as session:
        row = session.get_one(ExecutionRow, execution)
        return row.status, row.lease_owner


@pytest.fixture
def taken_over(store: Store, execution: str) -> Record:
    """Give the record of a process that was stopped while another one took over and ran everything."""
    first = record(store, execution, "first", None)
    first.begin(direction="forward", fence=1)
    first.open_steps([(1, "fill", "backfill")], "forward")
    first.step(1, "forward", StepRunStatus.RUNNING)
    second = record(store, execution, "second", 1)
    second.begin(direction="forward", fence=2)
    second.step(1, "forward", StepRunStatus.RUNNING)
    return first


def test_a_woken_process_writes_nothing_over_another_ones_record(
    store: Store, execution: str, taken_over: Record
) -> None:
    for write in (
        lambda: taken_over.end(ExecutionStatus.FAILED),
        lambda: taken_over.step(1, "forward", StepRunStatus.FAILED),
        taken_over.requests,
    ):
        with pytest.raises(FenceLost, match="second"):
            write()
    taken_over.measured({"rows": 9})
    with store.session() as session:
        assert session.get_one(ExecutionRow, execution).performance_metrics is None
    assert status(store, execution) == ("running", "second")


def test_a_process_that_chose_an_execution_too_long_ago_does_not_begin_it(
    store: Store, execution: str, taken_over: Record
) -> None:
    late = record(store, execution, "late", None)
    with pytest.raises(FenceLost):
        late.begin(direction="forward", fence=3)
    assert status(store, execution) == ("running", "second")


def test_a_process_whose_execution_was_cancelled_meanwhile_stops(store: Store, execution: str) -> None:
    first = record(store, execution, "first", None)
    first.begin(direction="forward", fence=1)
    with store.session() as session:
        row = session.get_one(ExecutionRow, execution)
        advance(session, row, ExecutionStatus.CANCELLED, actor="ada", lease_owner=None)
    with pytest.raises(FenceLost, match="cancelled"):
        first.requests()
    with pytest.raises(FenceLost):
        first.end(ExecutionStatus.COMPLETED)
    assert status(store, execution) == ("cancelled", None)


def test_an_execution_cancelled_between_choice_and_beginning_does_not_begin(store: Store, execution: str) -> None:
    late = record(store, execution, "late", None)
    with store.session() as session:
        row = session.get_one(ExecutionRow, execution)
        advance(session, row, ExecutionStatus.CANCELLED, actor="ada")
    with pytest.raises(FenceLost, match="cancelled"):
        late.begin(direction="forward", fence=1)
    assert status(store, execution) == ("cancelled", None)


@pytest.mark.parametrize(("handed_over", "asked"), [(True, (False, True)), (False, (False, False))])
def test_what_was_asked_of_a_dead_worker_is_asked_of_the_next(
    store: Store, execution: str, handed_over: bool, asked: tuple[bool, bool]
) -> None:
    record(store, execution, "first", None).begin(direction="forward", fence=1)
    with store.session() as session:
        row = session.get_one(ExecutionRow, execution)
        row.handed_over, row.cancel_requested, row.options = handed_over, True, {"resolve": "done", "at": "x"}
    second = record(store, execution, "second", 1)
    second.begin(direction="forward", fence=2)
    assert second.requests() == asked
    with store.session() as session:
        # A person's word was about what the first had left.
        assert session.get_one(ExecutionRow, execution).options == {"at": "x"}


def test_a_run_that_was_to_be_cancelled_does_not_wait(store: Store, execution: str) -> None:
    first = record(store, execution, "first", None)
    first.begin(direction="forward", fence=1)
    with store.session() as session:
        session.get_one(ExecutionRow, execution).cancel_requested = True
    first.end(ExecutionStatus.WAITING, waiting_for={"kind": "worker"})
    assert status(store, execution) == ("cancelled", None)
