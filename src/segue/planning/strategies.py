"""What a plan's strategy asks for, and whether the rest of the plan fits it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.model.fences import Downtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.model.plans import PlanFields

#: Seconds in the minutes that a plan speaks of.
MINUTE = 60.0
MAINTENANCE = "maintenance-window"
ROLLING = "rolling"


def problems(plan: PlanFields) -> Iterator[tuple[str, str]]:
    """Yield what does not fit the strategy: the field that is wrong, and why."""
    if plan.strategy == MAINTENANCE:
        if plan.maintenance_window is None:
            yield (
                "strategy",
                'the strategy "maintenance-window" needs `maintenance_window`: for how many minutes at most the '
                "application may be kept out",
            )
        return
    if plan.maintenance_window is not None:
        yield (
            "maintenance_window",
            f'`maintenance_window` belongs to the strategy "maintenance-window"; with "{plan.strategy}" the '
            "application goes on working",
        )
    if plan.fence is not None:
        yield (
            "fence",
            f'`fence` belongs to the strategy "maintenance-window"; with "{plan.strategy}" nobody is kept out',
        )


def downtime(plan: PlanFields) -> Downtime | None:
    """Return how long the application may be kept out, and how; None where it never is."""
    if plan.strategy != MAINTENANCE or plan.maintenance_window is None:
        return None
    seconds = plan.maintenance_window * MINUTE
    if plan.fence is None:
        return Downtime(seconds)
    return Downtime(
        seconds,
        tables=plan.fence.tables,
        close=plan.fence.close or (),
        open=plan.fence.open or (),
        timeout=plan.fence.timeout,
        lock_timeout=plan.fence.lock_timeout,
    )
