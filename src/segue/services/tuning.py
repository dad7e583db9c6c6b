"""Say how polite data work is: limits of environments, plans and executions, and how an execution stands with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.errors import Blocked, ConfigurationError, UsageError
from segue.model.lifecycles import ExecutionStatus
from segue.model.online import TUNABLE
from segue.model.throttling import DEFAULTS, ThrottleSettings, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

    from segue.model.plans import StepFields
    from segue.rows.pacing import Pacing
    from segue.store import Store
    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.executions import ExecutionRow

# What is over cannot be tuned any more.
OVER = (ExecutionStatus.COMPLETED, ExecutionStatus.ROLLED_BACK, ExecutionStatus.CANCELLED)


def pacing(store: Store, execution: str, plan: ThrottleSettings | None, steps: Sequence[StepFields]) -> Pacing:
    """Return what keeps an execution's data work polite, at what is set for it now and later."""
    from segue.rows.pacing import Pacing, Wanted
    from segue.store.tables.executions import ExecutionRow

    def read() -> Wanted:
        with store.session() as session:
            row = session.get(ExecutionRow, execution)
            try:
                levels = _levels(row, plan) if row is not None else {}
            except ConfigurationError as error:
                return Wanted(wrong=error.message)
            return Wanted(_together(levels), tuple(expected(row.environment)) if row is not None else ())

    return Pacing(read, workers=[getattr(step, "workers", 1) for step in steps])


def tune(session: Session, row: ExecutionRow, changes: Mapping[str, Any], *, actor: str, reset: bool = False) -> None:
    """Change an execution's own limits, with an entry in the ledger; who drives it follows within seconds.

    What is set of its online change (`TUNABLE`) is kept beside them; None takes one of these back. `reset` takes the
    limits back that were set before. Raises Blocked when the execution is over, UsageError for what is no limit.
    """
    from segue.store import ledger

    if not changes and not reset:
        return
    if row.status in OVER:
        raise Blocked(
            f'execution {row.id} of "{row.plan.plan_name}" is {row.status}: there is nothing left to throttle',
            hint="`segue throttle --env ENVIRONMENT` sets limits for the runs to come",
        )
    limits = merged({} if reset else limits_in(row.tuning), limits_in(changes))
    rest = {**change_in(row.tuning), **change_in(changes)}
    row.tuning = {**limits, **{name: value for name, value in rest.items() if value is not None}}
    ledger.append(
        session,
        actor=actor,
        action="tuned",
        subject="migration_executions",
        subject_id=row.id,
        detail={"changes": dict(changes), "reset": reset, "tuning": row.tuning},
    )


def limits_in(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """Return the throttle's limits among what is set for an execution."""
    return {name: value for name, value in tuning.items() if name not in TUNABLE}


def change_in(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is set for an execution's online change."""
    return {name: value for name, value in tuning.items() if name in TUNABLE}


def tune_environment(
    session: Session, row: EnvironmentRow, changes: Mapping[str, Any], *, actor: str, reset: bool = False
) -> None:
    """Change the limits of every run in an environment, with an entry in the ledger; running ones follow too."""
    from segue.store import ledger

    limits = merged({} if reset else _limits(row), changes)
    row.checked = {**(row.checked or {}), "limits": limits}
    ledger.append(
        session,
        actor=actor,
        action="tuned",
        subject="environments",
        subject_id=row.id,
        detail={"name": row.name, "changes": dict(changes), "reset": reset, "limits": limits},
    )


def merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits with changes on top, as the store keeps them; raises UsageError for what is no limit."""
    try:
        new, old = settings_of(changes), settings_of(before)
        if new.enabled is None:
            # Turned off is a state of the moment: whoever sets a limit wants it to hold.
            old = old.model_copy(update={"enabled": None})
        return new.over(old).given
    except ValueError as error:
        raise UsageError(str(error), hint="`segue throttle --help` shows what can be set") from error


def limits_of(row: EnvironmentRow) -> dict[str, Any]:
    """Return the limits of an environment, as they are set."""
    return dict(_limits(row))


def of_plan(document: Mapping[str, Any]) -> ThrottleSettings | None:
    """Return what a stored plan says of its politeness."""
    return settings_of(document["throttle"]) if document.get("throttle") else None


def expected(row: EnvironmentRow) -> list[str]:
    """Return the names of the replicas that the environment's last check has found."""
    found = (row.checked or {}).get("replicas") or []
    return [str(item.get("name", "")) if isinstance(item, dict) else str(item) for item in found]


def describe(row: ExecutionRow, plan: ThrottleSettings | None, *, driven: bool) -> dict[str, Any]:
    """Return how an execution's data work stands: the pace and its reason, the readings, and where each limit is from.

    The pace is None while nobody drives it.
    """
    levels = _levels(row, plan)
    together = _together(levels)
    measured = (row.performance_metrics or {}).get("throttle") or {}
    limits: dict[str, dict[str, Any]] = {}
    for name in ThrottleSettings.model_fields:
        value, origin = getattr(together, name), None
        if value is not None:
            origin = next(level for level in reversed(levels) if levels[level].given.get(name) == value)
        elif name in DEFAULTS:
            value, origin = DEFAULTS[name], "built in"
        if value is not None:
            limits[name] = {"value": value, "from": origin}
    return {
        "execution": row.id,
        "plan": row.plan.plan_name,
        "environment": row.environment.name,
        "status": row.status,
        "driven": driven,
        "tuning": limits_in(row.tuning),
        "limits": limits,
        "replicas": expected(row.environment),
        "throttle": measured or None,
    }


# -- parts


def _limits(row: EnvironmentRow) -> dict[str, Any]:
    return (row.checked or {}).get("limits") or {}


def _levels(row: ExecutionRow, plan: ThrottleSettings | None) -> dict[str, ThrottleSettings]:
    """Return the settings of each level, the lowest first; raises ConfigurationError when one cannot be read."""
    levels = {}
    for level, values in (
        ("environment", _limits(row.environment)),
        ("plan", plan.given if plan is not None else {}),
        ("execution", limits_in(row.tuning)),
    ):
        try:
            levels[level] = settings_of(values)
        except ValueError as error:
            raise ConfigurationError(
                f"the limits of the {level} cannot be read: {error}",
                hint="a newer Segue may have set them; `segue throttle --reset` takes an execution's back",
            ) from error
    return levels


def _together(levels: Mapping[str, ThrottleSettings]) -> ThrottleSettings:
    settings = ThrottleSettings()
    for above in levels.values():
        settings = above.over(settings)
    return settings
