"""Run a plan in an environment, stop it, go on, take it back."""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine.control import MustWait
from segue.engine.events import Watch, nobody
from segue.errors import Blocked, Busy, CannotTell, SegueError, UsageError
from segue.model.lifecycles import ExecutionStatus, StepRunStatus
from segue.ports import BACKWARD, FORWARD, Parts
from segue.services import beginnings, environments, tuning, watching
from segue.services.beginnings import Options, Outcome
from segue.services.moves import StepMoves

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from segue.engine.executor import PlannedStep
    from segue.planning.planfile import Plan
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.executions import ExecutionRow

# An approval is lately given if an execution may have missed it.
LATELY = timedelta(seconds=30)


def run(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan_name: str,
    environment: str,
    options: Options = Options(),
    watch: Watch = nobody,
) -> Outcome:
    """Run a stored plan in an environment, or go on where an earlier run stopped, in this process.

    Raises MustWait when an approval or a window is missing (the execution is there then, waiting), Blocked where a
    restore point would be needed, Busy when the target is held, and whatever stops the run; the store then says where
    it stopped.
    """
    chosen = beginnings.chosen(store, settings, parts, plan_name, environment, options)
    if isinstance(chosen, Outcome):
        return chosen
    if chosen.wait is not None:
        beginnings.leave_waiting(store, settings, chosen, options, chosen.wait, handed_over=False)
        raise chosen.wait
    _drive(
        store,
        settings,
        parts,
        chosen.plan,
        chosen.execution,
        chosen.url,
        options,
        watch,
        direction=FORWARD,
        seen=chosen.seen,
        create=chosen,
    )
    return Outcome(chosen.execution)


def hand_over(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan_name: str,
    environment: str,
    options: Options = Options(),
    *,
    mode: str = "manual",
    after: str | None = None,
) -> Outcome:
    """Leave a run to the workers: whichever is free drives it, from now on and whenever it is due.

    `mode` says who began it (manual, automated, scheduled); `after` is an execution that must be completed first.
    """
    chosen = beginnings.chosen(store, settings, parts, plan_name, environment, options, gated=False)
    if isinstance(chosen, Outcome):
        return chosen
    wait = MustWait("worker", "waits for a worker", due=clock.now(), hint="`segue worker` runs one")
    beginnings.leave_waiting(store, settings, chosen, options, wait, handed_over=True, mode=mode, after=after)
    _nudge(store, chosen.execution)
    return Outcome(chosen.execution)


def hand_over_resume(
    store: Store, settings: Settings, parts: Parts, execution: str | None, options: Options = Options()
) -> Outcome:
    """Leave an execution that waits, was paused, failed, or lost its process to the workers."""
    with store.session() as session:
        row = watching.find(session, execution)
        direction, name, environment, identity = row.direction, row.plan.plan_name, row.environment.name, row.id
    if direction == BACKWARD:
        return hand_over_rollback(store, settings, parts, identity, options)
    return hand_over(store, settings, parts, name, environment, options)


def hand_over_rollback(
    store: Store, settings: Settings, parts: Parts, execution: str | None, options: Options = Options()
) -> Outcome:
    """Leave a rollback to the workers."""
    from segue.store.transitions import advance

    with store.session() as session:
        row = watching.to_take_back(session, execution)
        if row.status == ExecutionStatus.ROLLED_BACK:
            return Outcome(row.id, nothing_to_do=True)
        _rollback_plan(session, parts, row)
        wait = MustWait("worker", "waits for a worker, to be rolled back", hint="`segue worker` runs one")
        columns: dict[str, Any] = {
            "direction": BACKWARD,
            "handed_over": True,
            "waiting_for": wait.as_waiting(),
            "due_at": clock.now(),
            "options": options.as_json(),
            "lease_owner": None,
            "pause_requested": False,
            "cancel_requested": False,
        }
        if row.status in (ExecutionStatus.WAITING, ExecutionStatus.RUNNING):
            for name, value in columns.items():
                setattr(row, name, value)
        else:
            advance(session, row, ExecutionStatus.WAITING, actor=settings.user, **columns)
        identity = row.id
    _nudge(store, identity)
    return Outcome(identity)


def drive(
    store: Store,
    settings: Settings,
    parts: Parts,
    execution: str,
    watch: Watch = nobody,
    *,
    drain: threading.Event | None = None,
) -> Outcome:
    """Do with an execution what its row says now, as a worker does: go on, wait again, or roll back.

    Raises MustWait when it has to wait (its row says so by then), Busy when somebody else drives it or holds the
    target, and whatever stops it, which is recorded by then. `drain` makes it stop at its next safe point, for another
    worker to go on.
    """
    _assess_first(store, settings, parts, execution)
    with store.session() as session:
        row = watching.find(session, execution)
        if row.status not in watching.UNFINISHED or row.status in (ExecutionStatus.PAUSED, ExecutionStatus.FAILED):
            return Outcome(row.id, nothing_to_do=True)
        if not row.handed_over and row.fenced_at is None:
            # A nudge from before: meanwhile a person has gone on with it in a terminal.
            return Outcome(row.id, nothing_to_do=True)
        beginnings.refuse_driven(row, "driven twice")
        options = Options.from_json(row.options)
        direction, seen = row.direction, row.fence
        wait: MustWait | None = None
        try:
            _, url = environments.resolve(session, settings, row.environment.name)
            if direction == BACKWARD:
                plan = _rollback_plan(session, parts, row)
            else:
                plan = beginnings.plan_of(row.plan, parts)
                beginnings.refuse_changed(row)
                beginnings.check_policy(plan, parts, row.environment, options, row)
                wait = beginnings.gate(session, settings, plan, row.plan, row.environment, row, options)
        except SegueError as error:
            _fail(store, settings, row.id, error)
            raise
        if wait is not None:
            beginnings.set_waiting(session, settings, row, wait)
        # What has been watching.driven before is past its beginning.
        after = row.after_execution if direction == FORWARD and seen is None else None
    if wait is not None:
        raise wait
    if after is not None:
        _follow_on(store, settings, parts, execution, after)
    _drive(
        store,
        settings,
        parts,
        plan,
        execution,
        url,
        options,
        watch,
        direction=direction,
        seen=seen,
        drain=drain,
        handed_over=True,
    )
    return Outcome(execution)


def _assess_first(store: Store, settings: Settings, parts: Parts, execution: str) -> None:
    """Look at what a handed-over execution meets on its target, once, before it begins."""
    from segue.services import assessments

    with store.session() as session:
        row = watching.find(session, execution)
        if row.assessment is not None or row.steps_completed or row.direction == BACKWARD:
            return
        try:
            env_row, url = environments.resolve(session, settings, row.environment.name)
            plan = beginnings.plan_of(row.plan, parts)
        except SegueError:
            return  # said, and written down, by what comes next
    found = assessments.assess(store, settings, parts, plan, env_row, url)
    with store.session() as session:
        watching.find(session, execution).assessment = found.as_json()


def _follow_on(store: Store, settings: Settings, parts: Parts, execution: str, after: str) -> None:
    """Raise MustWait while the target of the execution before is not calm, Blocked when that one did not go well."""
    from segue.services import following

    try:
        following.ready(store, settings, parts, after, patience=following.CALM_SECONDS)
    except MustWait as wait:
        with store.session() as session:
            beginnings.set_waiting(session, settings, watching.find(session, execution), wait)
        raise
    except SegueError as error:
        _fail(store, settings, execution, error)
        raise


def due(session: Session, *, limit: int = 100) -> list[str]:
    """Return the executions that workers should look at now: waiting ones whose time has come, and abandoned ones."""
    from sqlalchemy import and_, func, or_, select

    from segue.store.tables.approvals import ApprovalRow
    from segue.store.tables.executions import ExecutionRow

    now = func.clock_timestamp()
    silent = now - watching.SILENT_AFTER
    # Given while the execution was about to wait for it, so that nobody was there yet to be told.
    approved = (
        select(ApprovalRow.id)
        .where(
            ApprovalRow.plan_id == ExecutionRow.plan_id,
            ApprovalRow.environment_id == ExecutionRow.environment_id,
            ApprovalRow.approved_at > now - LATELY,
        )
        .exists()
    )
    return list(
        session.scalars(
            select(ExecutionRow.id)
            .where(
                # Where a process died with the application kept out, whoever is there lets it in again.
                or_(ExecutionRow.handed_over, ExecutionRow.fenced_at.is_not(None)),
                or_(
                    and_(
                        ExecutionRow.status.in_([ExecutionStatus.PENDING, ExecutionStatus.WAITING]),
                        or_(
                            ExecutionRow.due_at <= now,
                            and_(ExecutionRow.waiting_for["kind"].astext == "approval", approved),
                        ),
                    ),
                    and_(
                        ExecutionRow.status == ExecutionStatus.RUNNING,
                        or_(ExecutionRow.heartbeat_at.is_(None), ExecutionRow.heartbeat_at < silent),
                    ),
                ),
            )
            .order_by(ExecutionRow.due_at.nulls_first())
            .limit(limit)
        )
    )


def resume(
    store: Store, settings: Settings, parts: Parts, execution: str | None, options: Options, watch: Watch = nobody
) -> Outcome:
    """Go on with an execution that waits, was paused, failed, or lost its process, in the direction it was going."""
    with store.session() as session:
        row = watching.find(session, execution)
        if row.status not in watching.UNFINISHED:
            raise UsageError(
                f'execution {row.id} of "{row.plan.plan_name}" is {row.status}; there is nothing to resume',
                hint="`segue status` shows executions",
            )
        direction, name, environment, identity = row.direction, row.plan.plan_name, row.environment.name, row.id
    if direction == BACKWARD:
        return rollback(store, settings, parts, identity, options, watch)
    return run(store, settings, parts, name, environment, options, watch)


def rollback(
    store: Store,
    settings: Settings,
    parts: Parts,
    execution: str | None,
    options: Options = Options(),
    watch: Watch = nobody,
) -> Outcome:
    """Undo an execution's steps, last first. Raises Blocked when its rollback window is over."""
    with store.session() as session:
        row = watching.to_take_back(session, execution)
        if row.status == ExecutionStatus.ROLLED_BACK:
            return Outcome(row.id, nothing_to_do=True)
        plan = _rollback_plan(session, parts, row)
        _, url = environments.resolve(session, settings, row.environment.name)
        identity, seen = row.id, row.fence
    _drive(store, settings, parts, plan, identity, url, options, watch, direction=BACKWARD, seen=seen)
    return Outcome(identity)


def _rollback_plan(session: Session, parts: Parts, row: ExecutionRow) -> Plan:
    """Return the plan to undo, or refuse: the window is over, somebody drives it, later executions stand on it."""
    if row.window_until is not None and row.window_until < clock.now() and row.direction == FORWARD:
        raise Blocked(
            f"the rollback window of execution {row.id} ended at {row.window_until:%Y-%m-%d %H:%M} UTC",
            hint="write a new plan that changes the schema back",
        )
    beginnings.refuse_driven(row, "rolled back")
    _refuse_later(session, row)
    plan = beginnings.plan_of(row.plan, parts)
    beginnings.refuse_changed(row)
    _refuse_final(parts, plan, row)
    return plan


def _refuse_final(parts: Parts, plan: Plan, row: ExecutionRow) -> None:
    """Raise Blocked when a step that is done has no way back: nothing is begun that could not be finished."""
    done = {
        run.step_name for run in row.step_runs if run.direction == FORWARD and run.status == StepRunStatus.COMPLETED
    }
    for step in plan.steps if row.direction == FORWARD else ():
        why = parts.steps[step.kind].irreversible(step)
        if why and step.name in done:
            raise Blocked(
                f'step "{step.name}" of execution {row.id} cannot be undone: {why}',
                hint="write a new plan that changes the schema back; what is gone comes back from a backup",
            )


def pause(store: Store, execution: str | None, *, actor: str) -> str:
    """Ask an execution to stop at its next safe point; say what will happen."""
    return _request(store, execution, ExecutionStatus.PAUSED, actor)


def cancel(store: Store, execution: str | None, *, actor: str) -> str:
    """Ask an execution to stop for good; what it did stays until it is rolled back."""
    return _request(store, execution, ExecutionStatus.CANCELLED, actor)


def _request(store: Store, execution: str | None, to: ExecutionStatus, actor: str) -> str:
    from segue.store.transitions import advance

    with store.session() as session:
        row = watching.find(session, execution)
        word = "paused" if to is ExecutionStatus.PAUSED else "cancelled"
        if row.status == to:
            return f"execution {row.id} is {word} already"
        if row.status == ExecutionStatus.RUNNING and watching.driven(row):
            from segue.store import ledger

            if to is ExecutionStatus.PAUSED:
                row.pause_requested = True
            else:
                row.cancel_requested = True
            ledger.append(
                session,
                actor=actor,
                action=f"{word}-requested",
                subject="migration_executions",
                subject_id=row.id,
                detail={},
            )
            if row.fenced_at is not None:
                return f"execution {row.id} keeps the application out: it will be undone, and the application let in"
            return f"execution {row.id} will be {word} at its next safe point"
        from segue.model.lifecycles import EXECUTION

        if not EXECUTION.allows(row.status, to):
            raise Blocked(
                f"execution {row.id} is {row.status} and cannot be {word}",
                hint="`segue rollback` takes back what it did" if row.status == ExecutionStatus.COMPLETED else "",
            )
        advance(session, row, to, actor=actor, lease_owner=None, waiting_for=None, due_at=None)
        return f"execution {row.id} is {word}"


def _fail(store: Store, settings: Settings, execution: str, error: SegueError) -> None:
    """Write down that a waiting execution cannot go on: otherwise it would be tried for ever, and say nothing."""
    from segue.store.transitions import advance

    with store.session() as session:
        row = watching.find(session, execution)
        if row.status == ExecutionStatus.WAITING and not isinstance(error, Busy):
            advance(
                session,
                row,
                ExecutionStatus.FAILED,
                actor=settings.user,
                error_details=error.as_json(),
                waiting_for=None,
                due_at=None,
            )


def _nudge(store: Store, execution: str) -> None:
    """Tell the workers; a nudge that is lost is found by their sweep."""
    from segue.engine.queue import Queue

    Queue(store.url).nudge_execution(execution)


def _refuse_later(session: Session, row: ExecutionRow) -> None:
    """Refuse to undo what later executions may stand on."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    later = session.scalars(
        select(ExecutionRow).where(
            ExecutionRow.environment_id == row.environment_id,
            ExecutionRow.id != row.id,
            ExecutionRow.started_at > row.started_at,
            ExecutionRow.steps_completed > 0,
            ExecutionRow.status != ExecutionStatus.ROLLED_BACK,
        )
    ).all()
    if later:
        raise Blocked(
            f'execution {row.id} of "{row.plan.plan_name}" cannot be rolled back: later ones stand on it',
            details=[f"{other.id}  {other.plan.plan_name}  {other.status}" for other in later],
            hint="roll those back first",
        )


def _owner(settings: Settings) -> str:
    return f"{settings.user}@{socket.gethostname()} pid {os.getpid()}"


def _drive(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan: Plan,
    execution: str,
    url: str,
    options: Options,
    watch: Watch,
    *,
    direction: str,
    seen: int | None,
    create: beginnings.Choice | None = None,
    drain: threading.Event | None = None,
    handed_over: bool = False,
) -> None:
    """Take the target and drive the execution; the store's row is made once the target is held."""
    from segue.engine import journal
    from segue.engine.executor import Assignment, Executor
    from segue.engine.gates import Open
    from segue.engine.record import Record
    from segue.planning import planfile, strategies
    from segue.services import gates

    database = parts.database(url)
    steps = _ordered(plan, parts)
    owner = _owner(settings)
    target = database.open_target(url, execution=execution, holder=owner, schema=plan.target_schema)
    target.places = environments.places(store, settings)
    try:
        if seen is not None and target.fence <= seen and options.resolve is None:
            # The fence only grows: here it began anew, and what the target showed of a step half done went with it.
            raise CannotTell(
                f"execution {execution} has worked on this target before, but the target does not show it: its record "
                'there (schema "segue") is gone, or older than the execution',
                hint="is this another database, or one restored from a backup? Look at it; where nothing of the "
                "execution is there, `segue rollback EXECUTION --resolve not-done` closes it, and a new run may follow",
            )
        if create is not None and create.number is not None:
            beginnings.create(store, settings, create, options=options)
            journal.point("execution-created")
        with store.session() as session:
            row = watching.find(session, execution)
            row.handed_over = handed_over
            tuning.tune(session, row, options.tuning, actor=settings.user)
            prefix = f"{row.plan.plan_name}/{row.environment.name}/{row.execution_number}"
            environment = row.environment.name
            plan_id = row.plan_id
        work = Assignment(
            execution=execution,
            environment=environment,
            plan=plan.plan,
            plan_id=plan_id,
            plan_hash=planfile.digest(plan),
            schema=plan.target_schema,
            job_prefix=prefix,
            steps=steps,
            undo_on_failure=plan.rollback.on_failure == "rollback",
            rollback_window=plan.rollback.window,
            downtime=strategies.downtime(plan),
            accept_drift=options.accept_drift,
            resolve=options.resolve,
            handed_over=handed_over,
            gates=gates.RunGates(store, execution) if direction == FORWARD else Open(),
            ask_slots=_slots(store, execution) if handed_over else None,
            throttle=tuning.pacing(store, execution, plan.throttle, plan.steps),
            drain=drain,
            moves=StepMoves(store, settings, environment, parts.database),
        )
        record = Record(store, execution, actor=settings.user, owner=owner, watch=watch, seen=seen)
        executor = Executor(store, record, target, database, work)
        if direction == FORWARD:
            executor.forward()
        else:
            executor.backward()
    finally:
        target.close()


def _slots(store: Store, execution: str) -> Callable[[str, str, int], None]:
    """Return how a step asks other workers for copy slots."""

    def ask(step: str, direction: str, count: int) -> None:
        from segue.engine.queue import Queue

        Queue(store.url).nudge_slots(execution, step, direction, count)

    return ask


def _ordered(plan: Plan, parts: Parts) -> list[PlannedStep]:
    from segue.engine.executor import PlannedStep
    from segue.planning import graph

    numbers = {step.name: number for number, step in enumerate(plan.steps, 1)}
    by_name = {step.name: step for step in plan.steps}
    return [
        PlannedStep(numbers[name], by_name[name], parts.steps[by_name[name].kind])
        for name in graph.order({step.name: step.needs for step in plan.steps})
    ]
