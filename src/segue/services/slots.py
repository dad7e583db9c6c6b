"""Help with the chunked work of an execution that another process drives: what a copy slot of a worker does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue import clock
from segue.engine.events import Event, Watch, nobody
from segue.errors import FenceLost, LockNotGranted, StepFailed, TargetUnreachable
from segue.model.lifecycles import ExecutionStatus
from segue.ports import EffectKey, NotOffered, Patience, SharedKind

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from segue.ports import Database, Parts
    from segue.settings import Settings
    from segue.store import Store

# Without anything to claim for so long, a slot ends; the driver asks for another one when it needs it.
LEAVE_SECONDS = 5.0
# A target that went away is tried again for so long.
LOST_SECONDS = 10.0

_numbers = itertools.count(1)


@dataclass(slots=True)
class _Help:
    """With what to help, as the store says, and how many batches were finished so far."""

    database: Database
    url: str
    fence: int
    schema: str
    kind: SharedKind
    params: object
    key: EffectKey
    seconds: float
    places: Callable[[str], str]
    finished: int = 0


def help(  # noqa: A001  what it does
    store: Store,
    settings: Settings,
    parts: Parts,
    execution_id: str,
    step: str,
    direction: str,
    *,
    owner: str,
    drain: threading.Event,
    watch: Watch = nobody,
) -> int:
    """Labour on what the driver of a step offers; return how many batches were finished here.

    Ends when nothing is left to claim for a while, the driver has stopped or was replaced, or `drain` is set: then the
    running chunk is finished and the rest given back. What makes a batch fail is the driver's to raise. Raises when the
    store or the target cannot be used at all.
    """
    found = _find(store, settings, parts, execution_id, step, direction)
    if found is None:
        return 0
    name = f"{owner} slot {next(_numbers)}"
    watch(Event("slot-began", f'helps with step "{step}" of execution {execution_id}', step))
    lost_at = None
    while not drain.is_set():
        try:
            _labour(found, name, drain)
        except (FenceLost, NotOffered):
            break
        except (StepFailed, LockNotGranted) as error:
            watch(Event("slot-failed", error.message, step, "error"))
            break
        except TargetUnreachable as error:
            lost_at = lost_at if lost_at is not None else clock.ticks()
            if clock.ticks() - lost_at > LOST_SECONDS:
                watch(Event("slot-lost", error.message, step, "warning"))
                break
            drain.wait(0.5)
        else:
            break
    said = f'has finished {found.finished} batches of step "{step}" of execution {execution_id}'
    watch(Event("slot-ended", said, step, detail={"batches": found.finished}))
    return found.finished


def _find(store: Store, settings: Settings, parts: Parts, execution_id: str, step: str, direction: str) -> _Help | None:
    """Return what the store says of the execution, None when there is nothing to help with any more."""
    from segue.planning import planfile
    from segue.services import environments
    from segue.store.tables.executions import ExecutionRow

    with store.session() as session:
        row = session.get(ExecutionRow, execution_id)
        if row is None or row.status != ExecutionStatus.RUNNING or row.fence is None or row.direction != direction:
            return None
        plan = planfile.from_document(row.plan.document, parts.steps, source=f'stored plan "{row.plan.plan_name}"')
        # Another version of the plan may write something else; its driver refuses it too.
        if planfile.digest(plan) != row.plan_hash:
            return None
        params = next((found for found in plan.steps if found.name == step), None)
        if params is None:
            return None
        kind: object = parts.steps[params.kind]
        if not isinstance(kind, SharedKind):
            return None
        _, url = environments.resolve(session, settings, row.environment.name)
        key = EffectKey(row.id, plan.plan, row.plan_hash, step, direction, 0)
        places = environments.places(store, settings)
        return _Help(parts.database(url), url, row.fence, plan.target_schema, kind, params, key, params.timeout, places)


def _labour(found: _Help, name: str, drain: threading.Event) -> None:
    from segue.rows.labour import Labourer

    target = found.database.join_target(
        found.url, execution=found.key.execution, holder=name, fence=found.fence, schema=found.schema
    )
    target.places = found.places
    try:
        shared = found.kind.shared(found.params, target, found.key, Patience(found.seconds, found.seconds))
        labourer = Labourer(shared, name, patience=found.seconds, stop=drain, leave_after=LEAVE_SECONDS)
        try:
            labourer.go()
        finally:
            found.finished += labourer.finished
    finally:
        target.close()
