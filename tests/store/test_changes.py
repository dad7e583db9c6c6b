"""The record of an online change follows what happens: phases, shadows, how far, how gently; and has one writer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from segue.engine.changes import Change, felt
from segue.engine.control import CancelRequested, PauseRequested
from segue.engine.events import nobody
from segue.engine.record import Record
from segue.errors import FenceLost, StepFailed, TargetUnreachable
from segue.model.lifecycles import OnlineChangePhase as Phase
from segue.model.online import Alteration, Chosen, Member, Verified
from segue.model.vocabulary import ChangeType, ImpactLevel
from segue.ports import Pace
from segue.store import Store
from segue.store.tables.environments import EnvironmentRow
from segue.store.tables.executions import ExecutionRow
from segue.store.tables.ledger import LedgerRow
from segue.store.tables.online import OnlineChangeRow, ShadowTableRow
from segue.store.tables.plans import PlanRow

ORDERS = Member(0, "public.orders", "segue_abc_new.orders", 1000, 8192, ("id",))
ITEMS = Member(1, "public.items", "segue_abc_new.items", 3000, 8192, ("id",))
SHADOWED = Chosen("shadow-table", ("a column's type changes",), (ORDERS, ITEMS))
ORDER = [
    Phase.CREATING_SHADOW,
    Phase.CAPTURING,
    Phase.COPYING_DATA,
    Phase.DRAINING,
    Phase.VERIFYING,
    Phase.SWAPPING,
    Phase.REVERSIBLE,
    Phase.COMPLETED,
]


@pytest.fixture
def record(store: Store, new_plan: Callable[..., PlanRow]) -> Record:
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
        identity = row.id
    record = Record(store, identity, actor="ada", owner="first", watch=nobody)
    record.begin(direction="forward", fence=1)
    return record


@pytest.fixture
def begun(store: Store, record: Record) -> Callable[..., Change]:
    def begin(writer: Record = record, throttle: Callable[[], dict[str, Any]] = dict) -> Change:
        change = Change(
            store,
            writer,
            name="widen/shop/1/orders",
            step="orders",
            spec={"table": "orders", "alter": ["ALTER id TYPE bigint"], "strategy": "auto"},
            table="public.orders",
            alterations=[Alteration(ChangeType.MODIFY_COLUMN, "id")],
            retention_days=3,
            throttle=throttle,
        )
        change.chosen(SHADOWED)
        return change

    return begin


def stored(store: Store) -> OnlineChangeRow:
    with store.session() as session:
        return session.scalars(select(OnlineChangeRow)).one()


def shadows(store: Store) -> list[ShadowTableRow]:
    with store.session() as session:
        return list(session.scalars(select(ShadowTableRow).order_by(ShadowTableRow.shadow_table.desc())))


def test_a_record_says_what_is_changed_and_how(store: Store, record: Record, begun: Callable[..., Change]) -> None:
    begun()
    row = stored(store)
    assert (row.change_name, row.change_type, row.column_name) == ("widen/shop/1/orders", "change-key", "id")
    assert (row.strategy, row.phase, row.total_rows, row.impact_level) == ("shadow-table", "pending", 4000, "minimal")
    assert (row.execution_id, row.step_name, row.change_spec["table"]) == (record.execution, "orders", "orders")
    first = shadows(store)[0]
    assert (first.original_table, first.shadow_table) == ("public.orders", "segue_abc_new.orders")
    assert (first.migration_id, first.purpose, first.retention_days) == (record.execution, "schema-change", 3)
    assert (first.is_active, first.sync_status, first.change_id) == (True, "syncing", row.id)


def test_each_phase_is_in_the_ledger(store: Store, begun: Callable[..., Change]) -> None:
    change = begun()
    for phase in ORDER:
        change.phase(phase)
    with store.session() as session:
        said = session.scalars(
            select(LedgerRow.action).where(LedgerRow.subject == "online_schema_changes").order_by(LedgerRow.id)
        ).all()
    assert said == [str(phase) for phase in ORDER]
    row = stored(store)
    assert (row.progress_percent, row.estimated_completion) == (100.0, None)
    assert row.completed_at is not None
    assert not any(shadow.is_active for shadow in shadows(store))


def test_a_record_that_lags_goes_through_the_phases_it_missed(store: Store, begun: Callable[..., Change]) -> None:
    begun().phase(Phase.CREATING_SHADOW)
    again = begun()
    again.phase(Phase.VERIFYING)
    with store.session() as session:
        said = session.scalars(select(LedgerRow.action).where(LedgerRow.subject == "online_schema_changes")).all()
    assert sorted(said) == sorted(ORDER[:5])


def test_progress_never_falls_when_the_copy_begins_anew(store: Store, begun: Callable[..., Change]) -> None:
    change = begun()
    for phase in ORDER[:5]:
        change.phase(phase)
    before = stored(store).progress_percent
    change.phase(Phase.COPYING_DATA)
    change.progress(10, 4000, Pace())
    change.measure(swap_lock_ms=1.0)
    assert stored(store).progress_percent == before == 75.0
    assert stored(store).rows_copied == 10


def test_a_copy_says_its_rows_and_why_it_is_slow(store: Store, begun: Callable[..., Change]) -> None:
    change = begun(throttle=lambda: {"state": "slowed", "duty": 0.25, "workers": 1, "reason": "replica 80 MB behind"})
    change.phase(Phase.COPYING_DATA)
    change.progress(2000, 4000, Pace(0.25, 1, "replica 80 MB behind"))
    change.stop(PauseRequested("pause"))
    row = stored(store)
    assert (row.phase, row.rows_copied, row.total_rows, row.progress_percent) == ("copying-data", 2000, 4000, 31.0)
    assert row.throttling["reason"] == "replica 80 MB behind"
    assert row.performance_metrics["slowed"] == "replica 80 MB behind"
    change.phase(Phase.DRAINING)
    assert "slowed" not in stored(store).performance_metrics


def test_a_shadow_follows_whether_it_equals_its_original(store: Store, begun: Callable[..., Change]) -> None:
    change = begun()
    change.phase(Phase.COPYING_DATA)
    change.synced(0)
    change.synced(1, diverged=True)
    assert [shadow.sync_status for shadow in shadows(store)] == ["synced", "diverged"]
    assert shadows(store)[0].last_sync_at is not None
    change.synced(1)
    assert [shadow.sync_status for shadow in shadows(store)] == ["synced", "synced"]


def test_a_comparison_leaves_digests_and_counts(store: Store, begun: Callable[..., Change]) -> None:
    change = begun()
    change.phase(Phase.VERIFYING)
    change.verified(0, Verified(4, 1000, 1, "aa", "aa", 1000, {"id": "hash"}))
    change.measure(swap_lock_ms=0.1)
    halfway = stored(store).progress_percent
    change.phase(Phase.SWAPPING)
    first = shadows(store)[0]
    assert (first.checksum_original, first.checksum_shadow) == ("aa", "aa")
    assert (first.row_count_original, first.row_count_shadow) == (1000, 1000)
    row = stored(store)
    assert row.performance_metrics["verified"]["0"]["repaired"] == 1
    assert 75.0 < halfway < 98.0


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (StepFailed("x"), "failed"),
        (CancelRequested("x"), "cancelled"),
        (PauseRequested("x"), "draining"),
        (KeyboardInterrupt(), "draining"),
        (TargetUnreachable("x"), "draining"),
        (FenceLost("x"), "draining"),
    ],
)
def test_what_stops_a_change_says_how_it_stands(
    store: Store, begun: Callable[..., Change], error: BaseException, phase: str
) -> None:
    change = begun()
    change.phase(Phase.DRAINING)
    change.stop(error)
    assert stored(store).phase == phase


def test_a_failed_change_goes_on_where_the_target_says(store: Store, begun: Callable[..., Change]) -> None:
    change = begun()
    change.phase(Phase.VERIFYING)
    change.stop(StepFailed("x"))
    again = begun()
    again.phase(Phase.VERIFYING)
    again.phase(Phase.SWAPPING)
    assert (stored(store).phase, len(shadows(store))) == ("swapping", 2)


def test_a_swapped_change_is_not_cancelled(store: Store, begun: Callable[..., Change]) -> None:
    change = begun()
    change.phase(Phase.SWAPPING)
    change.phase(Phase.REVERSIBLE)
    change.stop(CancelRequested("too late"))
    assert stored(store).phase == "reversible"
    change.phase(Phase.ROLLED_BACK)
    assert (stored(store).phase, shadows(store)[0].is_active) == ("rolled-back", False)


def test_a_woken_process_writes_nothing_over_another_ones_change(
    store: Store, record: Record, begun: Callable[..., Change]
) -> None:
    change = begun()
    Record(store, record.execution, actor="ada", owner="second", watch=nobody, seen=1).begin(
        direction="forward", fence=2
    )
    for write in (
        lambda: change.phase(Phase.CREATING_SHADOW),
        lambda: change.synced(0),
        lambda: change.rows({0: 1}),
        lambda: change.measure(swap_lock_ms=1.0),
    ):
        with pytest.raises(FenceLost, match="second"):
            write()
    assert stored(store).phase == "pending"


def test_the_application_feels_its_latency_against_budget_or_before() -> None:
    assert felt({"latency": {"budget": "p95=10ms", "p95": 4.0}}, None) is ImpactLevel.MINIMAL
    assert felt({"latency": {"budget": "p95=10ms", "p95": 9.0}}, None) is ImpactLevel.MEDIUM
    assert felt({"latency": {"budget": "p95=10ms", "p95": 11.0}}, None) is ImpactLevel.HIGH
    assert felt({"latency": {"p95": 5.0}}, {"p95": 3.0}) is ImpactLevel.LOW
    assert felt({"latency": {"p95": 0.5}}, {"p95": 0.1}) is ImpactLevel.MINIMAL
    assert felt({"duty": 0.3}, None) is ImpactLevel.MEDIUM
    assert felt({"duty": 0.0}, None) is ImpactLevel.HIGH
    assert felt({}, None) is ImpactLevel.MINIMAL


def test_a_long_swap_lock_is_felt(store: Store, begun: Callable[..., Change]) -> None:
    change = begun()
    change.phase(Phase.SWAPPING)
    assert stored(store).impact_level == "minimal"
    change.measure(swap_lock_ms=300.0, swap_tries=2)
    assert stored(store).impact_level == "medium"
    assert stored(store).performance_metrics["swap_tries"] == 2
