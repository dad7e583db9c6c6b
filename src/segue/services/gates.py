"""What stands before an execution and its steps: a predecessor, a time, an approval, a window."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from segue.engine.control import MustWait
from segue.ports import Approved

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.planning.planfile import Plan
    from segue.services.executions import Options
    from segue.store import Store
    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow


def opening(
    session: Session,
    plan: Plan,
    plan_row: PlanRow,
    env_row: EnvironmentRow,
    row: ExecutionRow | None,
    *,
    now: datetime,
    seconds: float | None,
    options: Options,
) -> MustWait | None:
    """Return what an execution has to wait for before it begins; None when it may begin now."""
    if row is not None and row.due_at is not None and row.after_execution is None and row.options.get("at"):
        at = datetime.fromisoformat(row.options["at"])
        if at > now:
            return MustWait("time", f"begins at {at:%Y-%m-%d %H:%M} UTC", due=at)
    return None


class RunGates:
    """See `segue.engine.gates.Gates`: read from the store each time."""

    def __init__(self, store: Store, execution: str) -> None:
        self._store = store
        self._execution = execution

    def approval(self, step: str) -> Approved | None:
        """Return the approval of a step that counts now."""
        from sqlalchemy import func, select

        from segue.store.tables.approvals import ApprovalRow
        from segue.store.tables.executions import ExecutionRow

        with self._store.session() as session:
            row = session.get(ExecutionRow, self._execution)
            if row is None:
                return None
            found = session.scalars(
                select(ApprovalRow)
                .where(
                    ApprovalRow.plan_id == row.plan_id,
                    ApprovalRow.plan_hash == row.plan_hash,
                    ApprovalRow.environment_id == row.environment_id,
                    ApprovalRow.step_name == step,
                    ApprovalRow.status == "granted",
                    ApprovalRow.expires_at.is_(None) | (ApprovalRow.expires_at > func.clock_timestamp()),
                )
                .order_by(ApprovalRow.approved_at.desc())
                .limit(1)
            ).first()
            return Approved(found.approved_by, found.reason, found.approved_at, found.expires_at) if found else None

    def boundary(self) -> None:
        """Let it pass."""
