"""Begin an execution, or choose the one that goes on: what is checked, what it waits for, and its row."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine.control import MustWait
from segue.errors import Blocked, Busy, SegueError, UsageError
from segue.model.lifecycles import ExecutionStatus
from segue.model.vocabulary import EnvironmentType, Mode
from segue.ports import BACKWARD, Observed, Parts
from segue.services import environments, plans, tuning, watching

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from segue.planning.planfile import Plan
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    `resolve` is what a person saw of an effect that Segue cannot tell; `at` when to begin; `outside_window` why it may
    run although the environment's window is closed; `tuning` limits of its data work. `irreversible`: a person has said
    that there need be no way back, which counts outside of production.
    """

    resume: bool = False
    accept_drift: bool = False
    resolve: Observed | None = None
    at: datetime | None = None
    outside_window: str | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)
    irreversible: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return what an execution must know of them later, when another process drives it."""
        kept = {
            "accept_drift": self.accept_drift or None,
            "resolve": self.resolve.value if self.resolve else None,
            "at": self.at.isoformat() if self.at else None,
            "outside_window": self.outside_window,
            "irreversible": self.irreversible or None,
        }
        return {name: value for name, value in kept.items() if value is not None}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Options:
        """Return the options that an execution was started with."""
        return cls(
            accept_drift=bool(kept.get("accept_drift")),
            resolve=Observed(kept["resolve"]) if kept.get("resolve") else None,
            at=datetime.fromisoformat(kept["at"]) if kept.get("at") else None,
            outside_window=kept.get("outside_window"),
            irreversible=bool(kept.get("irreversible")),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: the execution, and whether there was nothing left to do."""

    execution: str
    nothing_to_do: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The execution to drive: an earlier one that can go on, or a new one with its number."""

    execution: str
    plan: Plan
    environment: str
    url: str
    number: int | None
    seen: int | None
    wait: MustWait | None
    assessment: Mapping[str, Any] | None = None


def chosen(
    store: Store,
    settings: Settings,
    parts: Parts,
    plan_name: str,
    environment: str,
    options: Options,
    *,
    gated: bool = True,
) -> Choice | Outcome:
    """Choose the execution to drive and say what it has to wait for; an Outcome when there is nothing to do."""
    from segue.services import assessments, checks

    with store.session() as session:
        plan_row = plans.get(session, plan_name)
        env_row, url = environments.resolve(session, settings, environment)
        plan = plan_of(plan_row, parts)
        earlier = latest_of(session, plan_row.id, env_row.id)
        begins = earlier is None or earlier.status not in (*watching.UNFINISHED, ExecutionStatus.COMPLETED)
    found: Mapping[str, Any] = {}
    assessment: Mapping[str, Any] | None = None
    # Whoever drives it will say that the database cannot be reached; who only hands it over may be far from it.
    with suppress(SegueError):
        found = checks.identity(url, parts)
    if found and gated and begins:
        assessment = assessments.assess(store, settings, parts, plan, env_row, url).as_json()
    with store.session() as session:
        env_row, url = environments.resolve(session, settings, environment)
        checks.remember(session, env_row, found, actor=settings.user)
        since = checks.since(env_row)
        plan_row = plans.get(session, plan_name)
        plan = plan_of(plan_row, parts)
        earlier = latest_of(session, plan_row.id, env_row.id)
        begun = earlier if earlier is not None and earlier.status in watching.UNFINISHED else None
        check_policy(plan, parts, env_row, options, begun)
        _check_schema(plan, environment, env_row.schema_name)
        _check_dependencies(session, plan, env_row.id, since)
        if options.resume and (earlier is None or earlier.status not in watching.UNFINISHED):
            raise UsageError(
                f'there is no unfinished execution of "{plan_name}" in "{environment}" to resume',
                hint="leave out --resume to start a new one",
            )
        execution, number = _choose(plan_row, earlier, since)
        if execution is None:
            return Outcome(earlier.id if earlier else "", nothing_to_do=True)
        same = earlier if earlier is not None and earlier.id == execution else None
        wait = gate(session, settings, plan, plan_row, env_row, same, options) if gated else None
        seen = same.fence if same is not None else None
        return Choice(execution, plan, environment, url, number, seen, wait, assessment)


def gate(
    session: Session,
    settings: Settings,
    plan: Plan,
    plan_row: PlanRow,
    env_row: EnvironmentRow,
    row: ExecutionRow | None,
    options: Options,
) -> MustWait | None:
    """Return what the execution has to wait for before it may go on: a predecessor, a time, an approval, a window."""
    from segue.services import assessments, gates

    if row is not None and row.fenced_until is not None:
        return None  # the application is kept out until this run has ended: nothing comes before that
    assessed = assessments.kept(plan_row, env_row.name)
    expected = assessed["estimated_seconds"] if assessed else (plan_row.estimated_duration or 0) * 60.0
    seconds = None if row is not None and row.steps_completed else max(expected, (plan.maintenance_window or 0) * 60.0)
    return gates.opening(
        session,
        plan,
        plan_row,
        env_row,
        row,
        now=clock.now(),
        seconds=seconds,
        options=options,
        actor=settings.user,
    )


def _choose(plan: PlanRow, earlier: ExecutionRow | None, since: datetime | None) -> tuple[str | None, int | None]:
    """Return the execution to drive and, for a new one, its number; (None, None) when there is nothing to do.

    What ran before `since` ran on another database, to which the environment led then.
    """
    from segue.store.ids import new_id

    if earlier is None:
        return new_id(), 1
    if since is not None and (earlier.started_at or since) < since:
        if earlier.status in watching.UNFINISHED:
            raise Blocked(
                f"execution {earlier.id} began on another database, to which "
                f'environment "{earlier.environment.name}" led before',
                hint=f"`segue cancel {earlier.id}` gives it up; then run the plan again",
            )
        return new_id(), earlier.execution_number + 1
    if earlier.status == ExecutionStatus.COMPLETED and earlier.plan_hash == plan.plan_hash:
        return None, None
    if earlier.status in watching.UNFINISHED:
        if earlier.direction == BACKWARD:
            raise Blocked(
                f"execution {earlier.id} is being rolled back",
                hint="`segue rollback` finishes that; then run the plan again",
            )
        if earlier.plan_hash != plan.plan_hash:
            raise Blocked(
                f'plan "{plan.plan_name}" was changed after execution {earlier.id} began',
                hint="finish it with the plan it began with, or `segue rollback` it first",
            )
        refuse_driven(earlier, "run a second time")
        return earlier.id, None
    if earlier.status == ExecutionStatus.CANCELLED and earlier.steps_completed:
        raise Blocked(
            f"execution {earlier.id} was cancelled with {earlier.steps_completed} of {earlier.steps_total} steps done",
            hint="`segue rollback` takes them back; then run the plan again",
        )
    return new_id(), earlier.execution_number + 1


def latest_of(session: Session, plan_id: str, environment: str) -> ExecutionRow | None:
    """Return the last execution of a plan in an environment, None where it was never run."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    return session.scalars(
        select(ExecutionRow)
        .where(ExecutionRow.plan_id == plan_id, ExecutionRow.environment_id == environment)
        .order_by(ExecutionRow.execution_number.desc())
        .limit(1)
    ).first()


def plan_of(row: PlanRow, parts: Parts) -> Plan:
    """Return a stored plan as it was added; raises Blocked when somebody changed it in the store."""
    from segue.planning import planfile

    plan = planfile.from_document(row.document, parts.steps, source=f'stored plan "{row.plan_name}"')
    if planfile.digest(plan) != row.plan_hash:
        raise Blocked(
            f'stored plan "{row.plan_name}" is not the one that was added: somebody changed it in the store',
            hint="`segue plan add FILE` puts the true one back, and keeps the other in the ledger",
        )
    return plan


def check_policy(
    plan: Plan,
    parts: Parts,
    env_row: EnvironmentRow | None = None,
    options: Options | None = None,
    begun: ExecutionRow | None = None,
) -> None:
    """Refuse what needs a part of Segue that is not there yet: nothing is skipped silently.

    A step without a way back is let through where a person has said so, now or when `begun` began, and the environment
    is none of production.
    """
    from segue.planning import strategies

    if plan.strategy == "blue-green":
        raise Blocked(
            f'plan "{plan.plan}" asks for the strategy "blue-green", which this version does not have',
            hint="docs/strategies.md compares the strategies that there are",
        )
    for _, message in strategies.problems(plan):
        raise Blocked(f'plan "{plan.plan}": {message}', hint="`segue plan validate` shows where")
    kept: Mapping[str, Any] = begun.options if begun is not None else {}
    said = bool(kept.get("irreversible")) or (options is not None and options.irreversible)
    for step in plan.steps:
        reason = parts.steps[step.kind].irreversible(step)
        if reason and said and env_row is not None and env_row.type == EnvironmentType.PRODUCTION:
            raise Blocked(
                f'"{env_row.name}" is production, where nothing is done that cannot be taken back: {reason}',
                hint="leave out --no-reverse; once all is well, "
                f"`segue change cleanup TABLE --env {env_row.name} --now` ends the way back",
            )
        if reason and not said:
            raise Blocked(
                f'step "{step.name}" of plan "{plan.plan}" cannot be undone: {reason}',
                hint="such a step needs a restore point, which this version cannot make; rename instead of dropping",
            )


def refused(plan: Plan, parts: Parts) -> str | None:
    """Return why a plan is refused wherever it is to run; None when it is not."""
    try:
        check_policy(plan, parts)
    except Blocked as error:
        return error.message
    return None


def _check_schema(plan: Plan, environment: str, schema: str) -> None:
    """Refuse a plan for another schema than the one that the environment was added for; "public" says nothing."""
    if schema not in ("public", plan.target_schema):
        raise Blocked(
            f'plan "{plan.plan}" changes the schema "{plan.target_schema}", '
            f'but environment "{environment}" is for the schema "{schema}"',
            hint=f"write `target_schema: {schema}` in the plan, or add an environment for the other schema",
        )


def _check_dependencies(session: Session, plan: Plan, environment: str, since: datetime | None) -> None:
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow

    for name in plan.depends_on:
        row = session.scalars(
            select(ExecutionRow)
            .join(PlanRow, PlanRow.id == ExecutionRow.plan_id)
            .where(PlanRow.plan_name == name, ExecutionRow.environment_id == environment)
            .order_by(ExecutionRow.execution_number.desc())
            .limit(1)
        ).first()
        elsewhere = since is not None and row is not None and (row.started_at or since) < since
        if row is None or elsewhere or row.status != ExecutionStatus.COMPLETED:
            state = "was never run here" if row is None or elsewhere else f"is {row.status} here"
            raise Blocked(
                f'plan "{plan.plan}" depends on plan "{name}", which {state}', hint=f"run {name} to its end first"
            )


def refuse_changed(row: ExecutionRow) -> None:
    """Raise Blocked when the plan is not the one that the execution runs."""
    if row.plan_hash != row.plan.plan_hash:
        raise Blocked(
            f'plan "{row.plan.plan_name}" was changed after execution {row.id} ran it',
            hint="add the version that was run again; its undo is not this one's",
        )


def refuse_driven(row: ExecutionRow, verb: str) -> None:
    """Raise Busy when a process drives the execution; `verb` says what cannot be done to it."""
    if row.status == ExecutionStatus.RUNNING and watching.driven(row):
        raise Busy(
            f'execution {row.id} of "{row.plan.plan_name}" cannot be {verb}: {row.lease_owner} drives it',
            hint="`segue status` shows it, `segue pause` stops it",
        )


def leave_waiting(
    store: Store,
    settings: Settings,
    chosen: Choice,
    options: Options,
    wait: MustWait,
    *,
    handed_over: bool,
    mode: str = "manual",
    after: str | None = None,
) -> None:
    """Leave an execution waiting: make it if it is new."""
    if chosen.number is not None:
        create(store, settings, chosen, options=options, mode=mode)
    with store.session() as session:
        row = watching.find(session, chosen.execution)
        row.handed_over = handed_over
        row.pause_requested = row.cancel_requested = False
        row.after_execution = after
        row.options = {**row.options, **options.as_json()}
        tuning.tune(session, row, options.tuning, actor=settings.user)
        set_waiting(session, settings, row, wait)


def create(store: Store, settings: Settings, chosen: Choice, *, options: Options, mode: str = Mode.MANUAL) -> None:
    """Make the row of an execution that begins; raises Busy when somebody else was quicker."""
    from sqlalchemy.exc import IntegrityError

    from segue.planning import planfile
    from segue.store import ledger
    from segue.store.tables.executions import ExecutionRow

    plan = chosen.plan
    with store.session() as session:
        plan_row = plans.get(session, plan.plan)
        env_row = environments.get(session, chosen.environment)
        if options.at is not None or env_row.deployment_type == Mode.SCHEDULED:
            mode = Mode.SCHEDULED
        session.add(
            ExecutionRow(
                id=chosen.execution,
                plan_id=plan_row.id,
                environment_id=env_row.id,
                execution_number=chosen.number,
                steps_total=len(plan.steps),
                executed_by=settings.user,
                execution_mode=mode,
                assessment=chosen.assessment,
                options=options.as_json(),
                plan_hash=planfile.digest(plan),
                started_at=clock.now(),
            )
        )
        try:
            session.flush()
        except IntegrityError as error:
            raise Busy(
                f'"{plan.plan}" was started in "{chosen.environment}" by somebody else at the same moment',
                hint="`segue status` shows that execution",
            ) from error
        ledger.append(
            session,
            actor=settings.user,
            action="pending",
            subject="migration_executions",
            subject_id=chosen.execution,
            detail={
                "plan": plan.plan,
                "environment": chosen.environment,
                "plan_hash": planfile.digest(plan),
                "number": chosen.number,
            },
        )


def set_waiting(session: Session, settings: Settings, row: ExecutionRow, wait: MustWait) -> None:
    """Let an execution wait."""
    from segue.store.transitions import advance

    columns: dict[str, Any] = {"waiting_for": wait.as_waiting(), "due_at": wait.due, "lease_owner": None}
    if row.status == ExecutionStatus.WAITING:
        for name, value in columns.items():
            setattr(row, name, value)
    else:
        detail = {"for": wait.kind, "message": wait.message}
        advance(session, row, ExecutionStatus.WAITING, actor=settings.user, detail=detail, **columns)
