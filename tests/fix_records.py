"""Records in a store, for tests that need the state and not the way to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fix_process import Segue

from segue.settings import Settings
from segue.store import open_store
from segue.store.tables.environments import EnvironmentRow
from segue.store.tables.executions import ExecutionRow
from segue.store.tables.plans import PlanRow


@pytest.fixture
def executed(segue: Segue, store_url: str) -> Callable[..., str]:
    """Give a function that stores an execution on the environment "shop", in a state of its life."""

    def execute(status: str, **columns: Any) -> str:
        settings = Settings(home=segue.folder, store=store_url, key=None, user="tester")
        with open_store(settings) as store, store.session() as session:
            row = session.query(EnvironmentRow).filter_by(name="shop").one()
            plan = PlanRow(
                plan_name="add-names",
                version="1.0.0",
                description="names",
                target_schema="public",
                migration_phase="migration",
                strategy="online",
                complexity="low",
                risk_level="low",
                estimated_duration=1,
                rollback_plan="reverse",
                created_by="tester",
                plan_hash="0",
                document={},
            )
            session.add(plan)
            session.flush()
            execution = ExecutionRow(
                plan_id=plan.id,
                environment_id=row.id,
                execution_number=1,
                steps_total=1,
                executed_by="tester",
                execution_mode="manual",
                plan_hash="0",
            )
            session.add(execution)
            session.flush()
            words = {"status": status, **columns}
            for column, value in words.items():
                # Past the lifecycle's guard: the test wants the state, not the way to it.
                session.connection().exec_driver_sql(
                    f"UPDATE segue_store.migration_executions SET {column} = %s", (value,)
                )
            return execution.id

    return execute
