"""Whether one environment may follow another in a rollout: its validations passed, and its target is calm again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from segue import clock
from segue.engine.control import MustWait
from segue.engine.events import Event, Watch, nobody
from segue.errors import Blocked
from segue.services import environments, tuning

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.ports import Parts
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.executions import ExecutionRow

#: For so long every signal must be within its limit.
CALM_SECONDS = 3.0
#: How long that is waited for where a person waits too, in seconds, and when it is looked at again otherwise.
PATIENCE = 60.0
LOOK_AGAIN = timedelta(seconds=10)
#: How often is looked.
EVERY_SECONDS = 0.5


def ready(
    store: Store,
    settings: Settings,
    parts: Parts,
    execution: str,
    watch: Watch = nobody,
    *,
    patience: float | None = None,
) -> None:
    """Return when the next environment may follow the completed `execution`.

    Raises Blocked when a validation of it failed, even one that only warns; MustWait when its target is not calm
    within `patience` seconds.
    """
    patience = PATIENCE if patience is None else patience
    from segue.store.tables.executions import ExecutionRow

    with store.session() as session:
        row = session.get_one(ExecutionRow, execution)
        name = row.environment.name
        failed = _failed(session, row)
        if failed:
            raise Blocked(
                f'{len(failed)} validations of "{row.plan.plan_name}" failed in "{name}": no other environment follows',
                details=failed,
                hint=f"`segue logs {execution}` says more; where that is fine, name the other environments alone",
            )
        _, url = environments.resolve(session, settings, name)
        throttle = tuning.of_plan(row.plan.document)
    gauge = parts.database(url).gauge(url)
    pacing = tuning.pacing(store, execution, throttle, ())
    try:
        pacing.begin(gauge)
        began = clock.ticks()
        since: float | None = None
        told = False
        while True:
            now = clock.ticks()
            uneasy = [reading for reading in pacing.status()["readings"] if reading["state"] != "ok"]
            since = None if uneasy else (since if since is not None else now)
            if since is not None and now - since >= CALM_SECONDS:
                return
            if uneasy and now - began > patience:
                raise MustWait(
                    "condition",
                    f'"{name}" is not calm after its run: {uneasy[0]["words"]}',
                    due=clock.now() + LOOK_AGAIN,
                    hint="the next environment follows when it is; run again, or add --wait",
                )
            if uneasy and not told:
                told = True
                watch(Event("note", f'waiting until "{name}" is calm: {uneasy[0]["words"]}', None, "info", {}))
            clock.sleep(EVERY_SECONDS)
            pacing.look()
    finally:
        pacing.end()
        gauge.close()


def _failed(session: Session, row: ExecutionRow) -> list[str]:
    """Return the validations whose last answer was not the expected one, each as a line."""
    from sqlalchemy import select

    from segue.store.tables.plans import ValidationRow

    last: dict[tuple[str | None, str], ValidationRow] = {}
    for found in session.scalars(
        select(ValidationRow).where(ValidationRow.execution_id == row.id).order_by(ValidationRow.checked_at)
    ):
        last[found.step_name, found.query] = found
    return [
        f'step "{found.step_name}": found {found.actual}, expected {found.expected}'
        for found in last.values()
        if not found.passed
    ]
