"""Run a plan in several environments, one after the other: each follows only a run that went well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.engine.events import Event, Watch, nobody
from segue.errors import SegueError, UsageError
from segue.services import beginnings, checks, environments, executions, following, plans
from segue.services.beginnings import Options, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from segue.ports import Parts
    from segue.settings import Settings
    from segue.store import Store

ROLLING = "rolling"


def promotion(session: Session) -> list[str]:
    """Return the active environments that have a place in the promotion order, the first one first."""
    names = [row.name for row in environments.listed(session) if row.promotion_order is not None]
    if not names:
        raise UsageError(
            "no environment has a place in the promotion order",
            hint="`segue env add NAME --replace --promotion-order N …` gives it one; the lowest comes first",
        )
    return names


def run(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan_name: str,
    names: Sequence[str],
    options: Options,
    watch: Watch = nobody,
) -> list[Outcome]:
    """Run a stored plan in each environment in turn, in this process; where an earlier run completed, go on behind it.

    An environment follows when the one before is completed, its validations have passed and its target is calm.
    Raises what stops the first that does not come to its end; the details say where each environment stands.
    """
    done: list[Outcome] = []
    with store.session() as session:
        _refuse_twice(session, names)
    try:
        for number, name in enumerate(names):
            if len(names) > 1:
                watch(Event("note", f'environment "{name}" ({number + 1} of {len(names)})', None, "info", {}))
            outcome = executions.run(store, settings, parts, plan_name, name, options, watch)
            done.append(outcome)
            if number + 1 < len(names) and not _completed(store, plan_name, names[number + 1]):
                following.ready(store, settings, parts, outcome.execution, watch)
    except SegueError as error:
        error.details = [*error.details, *_standing(store, plan_name, names)]
        raise
    return done


def hand_over(
    store: Store, settings: Settings, parts: Parts, plan_name: str, names: Sequence[str], options: Options
) -> list[Outcome]:
    """Leave a run in each environment to the workers, each to follow the one before."""
    done: list[Outcome] = []
    with store.session() as session:
        _refuse_twice(session, names)
    for name in names:
        after = done[-1].execution if done else None
        done.append(executions.hand_over(store, settings, parts, plan_name, name, options, after=after))
    return done


def check(session: Session, plan_name: str) -> None:
    """Refuse several environments for a plan that does not ask for them."""
    row = plans.get(session, plan_name)
    if row.strategy != ROLLING:
        raise UsageError(
            f'plan "{plan_name}" is for one environment at a time: its strategy is "{row.strategy}"',
            hint="write `strategy: rolling` where the environments are several targets of one kind, such as shards; "
            "--promote walks from one stage to the next",
        )


def _refuse_twice(session: Session, names: Sequence[str]) -> None:
    rows = [environments.get(session, name) for name in names]
    for number, row in enumerate(rows):
        for before in rows[:number]:
            if before.name == row.name:
                raise UsageError(f'environment "{row.name}" is named twice', hint="name each once, in the order wanted")
            if checks.same_target(before, row.identity or {}):
                raise UsageError(
                    f'environments "{before.name}" and "{row.name}" lead to the same database',
                    hint="`segue env list` shows where each leads",
                )


def _completed(store: Store, plan_name: str, name: str) -> bool:
    with store.session() as session:
        plan_row = plans.get(session, plan_name)
        row = beginnings.latest_of(session, plan_row.id, environments.get(session, name).id)
        return row is not None and row.status == "completed" and row.plan_hash == plan_row.plan_hash


def _standing(store: Store, plan_name: str, names: Sequence[str]) -> list[str]:
    """Return where each environment stands, a line each."""
    if len(names) < 2:
        return []
    lines = []
    with store.session() as session:
        plan_id = plans.get(session, plan_name).id
        for name in names:
            row = beginnings.latest_of(session, plan_id, environments.get(session, name).id)
            lines.append(f"{name}: {row.status} (execution {row.id})" if row is not None else f"{name}: not begun")
    return lines
