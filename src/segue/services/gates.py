"""What stands before an execution and its steps: a predecessor, a time, an approval, a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NoReturn

from segue import clock
from segue.engine.control import MustWait
from segue.errors import Blocked, InvalidInput, TargetUnreachable
from segue.model.lifecycles import ApprovalStatus, ExecutionStatus, StepRunStatus
from segue.model.quantities import duration
from segue.model.vocabulary import EnvironmentType, Mode
from segue.model.windows import FAR, Window
from segue.ports import BACKWARD, FORWARD, Approved

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.planning.planfile import Plan
    from segue.services.beginnings import Options
    from segue.store import Store
    from segue.store.tables.approvals import ApprovalRow
    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow

# How often an execution that comes after another one looks at it; a nudge may come sooner.
_LOOK_AGAIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a plan, or a step of it, is approved: by the approval that counts; else why the latest one does not."""

    counts: ApprovalRow | None
    refused: ApprovalRow | None
    because: str


def needs_approval(env_row: EnvironmentRow) -> bool:
    """Return whether a plan needs somebody's approval before it may begin in an environment."""
    return env_row.type == EnvironmentType.PRODUCTION


def authors(session: Session, plan_row: PlanRow) -> list[str]:
    """Return who wrote a plan: who added it first, and whoever added the content that it has now."""
    from sqlalchemy import select

    from segue.store.tables.ledger import LedgerRow

    added = session.scalars(
        select(LedgerRow.actor)
        .where(
            LedgerRow.subject == "migration_plans",
            LedgerRow.subject_id == plan_row.id,
            LedgerRow.action.in_(["added", "replaced"]),
            LedgerRow.detail["plan_hash"].astext == plan_row.plan_hash,
        )
        .order_by(LedgerRow.id)
    )
    return list(dict.fromkeys([plan_row.created_by, *added]))


def is_author(user: str, wrote: list[str]) -> bool:
    """Return whether somebody is among a plan's authors; a name written in other letters is the same person."""
    return user.strip().casefold() in {name.strip().casefold() for name in wrote}


def standing(
    session: Session, plan_row: PlanRow, env_row: EnvironmentRow, step: str | None, *, begun: bool = False
) -> Standing:
    """Return how it stands with the approval of a plan, or of one step, in an environment, by the store's clock.

    An approval counts for the content that it was given to, until it is revoked, and until it expires; for a plan that
    has `begun` it does not expire. In production an author's does not count.
    """
    from sqlalchemy import func, select

    from segue.store.tables.approvals import ApprovalRow

    now = session.scalars(select(func.clock_timestamp())).one()
    found = session.scalars(
        select(ApprovalRow)
        .where(
            ApprovalRow.plan_id == plan_row.id,
            ApprovalRow.environment_id == env_row.id,
            ApprovalRow.step_name.is_(None) if step is None else ApprovalRow.step_name == step,
        )
        .order_by(ApprovalRow.approved_at.desc())
    ).all()
    wrote = authors(session, plan_row) if found and needs_approval(env_row) else []
    reasons = [(row, _doubt(row, plan_row, wrote, now, begun=begun)) for row in found]
    for row, doubt in reasons:
        if not doubt:
            return Standing(row, None, "")
    return Standing(None, *reasons[0]) if reasons else Standing(None, None, "nobody has approved it")


def doubt(session: Session, row: ApprovalRow, plan_row: PlanRow, env_row: EnvironmentRow) -> str:
    """Return why an approval does not count now; nothing when it does."""
    from sqlalchemy import func, select

    now = session.scalars(select(func.clock_timestamp())).one()
    wrote = authors(session, plan_row) if needs_approval(env_row) else []
    return _doubt(row, plan_row, wrote, now, begun=False)


def _doubt(row: ApprovalRow, plan_row: PlanRow, wrote: list[str], now: datetime, *, begun: bool) -> str:
    """Return why an approval does not count; nothing when it does."""
    if row.status == ApprovalStatus.REVOKED:
        at = f" at {row.revoked_at:%Y-%m-%d %H:%M} UTC" if row.revoked_at else ""
        return f"the approval of {row.approved_by} was revoked by {row.revoked_by}{at}"
    if row.plan_hash != plan_row.plan_hash:
        return (
            f"the plan was changed after {row.approved_by} approved it "
            f"(it was {row.plan_hash[:12]} then, and is {plan_row.plan_hash[:12]} now)"
        )
    if row.expires_at is not None and row.expires_at <= now and not begun:
        return f"the approval of {row.approved_by} expired at {row.expires_at:%Y-%m-%d %H:%M} UTC"
    if is_author(row.approved_by, wrote):
        return f"{row.approved_by} wrote the plan, and an author's approval does not count in production"
    return ""


# -- before it begins


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
    actor: str = "segue",
) -> MustWait | None:
    """Return what an execution has to wait for before it begins, or goes on; None when it may now.

    In this order: the execution it comes after, its time, the plan's approval, the environment's window. `row` is None
    for a new execution; `seconds` is about how long it will take, None when nobody knows or something is done already.
    A rollback waits for nothing. Raises Blocked where waiting cannot help; the ledger keeps that, and what an approval
    that does not count was refused for.
    """
    if row is not None and row.direction == BACKWARD:
        return None
    begun = row is not None and _has_begun(session, row)
    window = window_of(env_row)
    outside = (options.outside_window or "").strip() or (row.options.get("outside_window") if row is not None else None)
    at = _at(plan_row, env_row, row, options)
    if not begun:
        if env_row.deployment_type == Mode.SCHEDULED and at is None and window is None:
            _refuse(session, plan_row, env_row, actor, _unscheduled(plan_row, env_row))
        if window is not None and not outside and timedelta(seconds=seconds or 0) > window.length:
            _refuse(session, plan_row, env_row, actor, _never_fits(plan_row, env_row, window, seconds or 0))
    wait = _predecessor(session, plan_row, env_row, row, now=now, actor=actor)
    if wait is None and not begun and at is not None and at > now:
        wait = MustWait(
            "time",
            f'plan "{plan.plan}" begins in "{env_row.name}" at {at:%Y-%m-%d %H:%M} UTC',
            due=at,
            hint=_again(plan_row, env_row, row),
        )
    if wait is None and needs_approval(env_row):
        wait = _unapproved(session, plan_row, env_row, row, begun=begun, actor=actor)
    if wait is None and window is not None:
        wait = _closed(
            session,
            plan_row,
            env_row,
            row,
            window,
            now=now,
            lasting=timedelta(0) if begun else timedelta(seconds=seconds or 0),
            outside=outside,
            actor=actor,
        )
    if wait is None and row is not None and outside and row.options.get("outside_window") != outside:
        row.options = {**row.options, "outside_window": outside}
    return wait


def window_of(env_row: EnvironmentRow) -> Window | None:
    """Return an environment's window; None: work may always be done. Raises Blocked when it cannot be read."""
    if env_row.maintenance_window is None:
        return None
    try:
        return Window.parse(env_row.maintenance_window)
    except InvalidInput as error:
        raise Blocked(
            f'the window of environment "{env_row.name}" cannot be read: {error.message}',
            hint=f"`segue env add {env_row.name} --replace … --maintenance-window WINDOW` stores another one; "
            + error.hint,
        ) from None


def _has_begun(session: Session, row: ExecutionRow) -> bool:
    """Return whether a step of it was begun: what is half-done is to be finished, whatever has expired since."""
    from sqlalchemy import select

    from segue.store.tables.executions import StepRunRow

    begun = select(StepRunRow.id).where(
        StepRunRow.execution_id == row.id,
        StepRunRow.direction == FORWARD,
        StepRunRow.status.not_in([StepRunStatus.PENDING, StepRunStatus.WAITING]),
    )
    return session.scalars(begun.limit(1)).first() is not None


def _at(plan_row: PlanRow, env_row: EnvironmentRow, row: ExecutionRow | None, options: Options) -> datetime | None:
    """Return when it is to begin: as asked for, or, where executions are scheduled, as the plan says."""
    if options.at is not None:
        return options.at
    if row is not None and row.options.get("at"):
        return datetime.fromisoformat(row.options["at"])
    return plan_row.scheduled_at if env_row.deployment_type == Mode.SCHEDULED else None


def _predecessor(
    session: Session, plan_row: PlanRow, env_row: EnvironmentRow, row: ExecutionRow | None, *, now: datetime, actor: str
) -> MustWait | None:
    from segue.store.tables.executions import ExecutionRow

    if row is None or row.after_execution is None:
        return None
    before = session.get(ExecutionRow, row.after_execution)
    if before is None or before.status == ExecutionStatus.COMPLETED:
        return None
    what = f'execution {before.id} of "{before.plan.plan_name}" in "{before.environment.name}"'
    if before.status in (ExecutionStatus.FAILED, ExecutionStatus.CANCELLED, ExecutionStatus.ROLLED_BACK):
        blocked = Blocked(
            f"{what}, which must be completed first, is {before.status}",
            hint=f"`segue status {before.id}` says why; finish it, then run this one again",
        )
        _refuse(session, plan_row, env_row, actor, blocked)
    return MustWait("execution", f"waits until {what} is completed", due=now + _LOOK_AGAIN)


def _unapproved(
    session: Session, plan_row: PlanRow, env_row: EnvironmentRow, row: ExecutionRow | None, *, begun: bool, actor: str
) -> MustWait | None:
    found = standing(session, plan_row, env_row, None, begun=begun)
    if found.counts is not None:
        return None
    wait = unapproved(session, plan_row, env_row, found, handed_over=row is not None and row.handed_over)
    # Said once, not each time that it is looked at.
    if found.refused is not None and (row is None or (row.waiting_for or {}).get("message") != wait.message):
        execution = row.id if row is not None else None
        _keep_refusal(session, found.refused, found.because, plan_row, env_row, execution, actor)
    return wait


def unapproved(
    session: Session, plan_row: PlanRow, env_row: EnvironmentRow, found: Standing, *, handed_over: bool
) -> MustWait:
    """Return the wait for a plan's approval, with the command that gives it."""
    wrote = ", ".join(authors(session, plan_row))
    go_on = "" if handed_over else f"; then `segue run {plan_row.plan_name} --env {env_row.name}` goes on"
    return MustWait(
        "approval",
        f'plan "{plan_row.plan_name}" waits for an approval in "{env_row.name}": {found.because}',
        hint=f"somebody other than {wrote} approves it with "
        f"`segue approve {plan_row.plan_name} --env {env_row.name} --reason TEXT`{go_on}",
    )


def _closed(
    session: Session,
    plan_row: PlanRow,
    env_row: EnvironmentRow,
    row: ExecutionRow | None,
    window: Window,
    *,
    now: datetime,
    lasting: timedelta,
    outside: str | None,
    actor: str,
) -> MustWait | None:
    """Return the wait for the window when it is closed, or would close too soon; a person's reason goes past it."""
    opens = window.next_opening(now, lasting)
    if opens <= now:
        return None
    if outside:
        from segue.store import ledger

        ledger.append(
            session,
            actor=actor,
            action="outside-window",
            subject="environments",
            subject_id=env_row.id,
            detail={
                **_said(plan_row, env_row),
                "execution": row.id if row is not None else None,
                "window": str(window),
                "reason": outside,
            },
        )
        return None
    closes = window.open_at(now)
    if closes is None:
        why = f'the window of "{env_row.name}" ({window}) is closed'
    else:
        why = (
            f'the window of "{env_row.name}" ({window}) closes in {duration((closes - now).total_seconds())}, '
            f'and "{plan_row.plan_name}" takes about {duration(lasting.total_seconds())}'
        )
    return MustWait(
        "window",
        f"{why}; the next one begins at {opens:%Y-%m-%d %H:%M} UTC",
        due=opens,
        hint=_again(plan_row, env_row, row) + "; --outside-window REASON goes past the window",
    )


def _again(plan_row: PlanRow, env_row: EnvironmentRow, row: ExecutionRow | None) -> str:
    if row is not None and row.handed_over:
        return "a worker goes on by itself"
    return (
        f"`segue run {plan_row.plan_name} --env {env_row.name}` goes on then; --wait waits for it, "
        "--detach has a worker do it"
    )


def _unscheduled(plan_row: PlanRow, env_row: EnvironmentRow) -> Blocked:
    run = f"segue run {plan_row.plan_name} --env {env_row.name}"
    return Blocked(
        f'environment "{env_row.name}" is deployed on schedule, and nothing says when "{plan_row.plan_name}" is to run',
        hint=f'give a time (`{run} --at "2026-11-29 02:00 Europe/Berlin"`), or give the environment a window '
        "(--maintenance-window)",
    )


def _never_fits(plan_row: PlanRow, env_row: EnvironmentRow, window: Window, seconds: float) -> Blocked:
    return Blocked(
        f'plan "{plan_row.plan_name}" takes about {duration(seconds)}, and never fits into the window of '
        f'"{env_row.name}", which is open for {duration(window.length.total_seconds())} ({window})',
        hint="split the plan, give the environment a longer window, or say why it may run past it with "
        "--outside-window REASON",
    )


def _said(plan_row: PlanRow, env_row: EnvironmentRow) -> dict[str, object]:
    return {"plan": plan_row.plan_name, "plan_hash": plan_row.plan_hash, "environment": env_row.name}


def _refuse(session: Session, plan_row: PlanRow, env_row: EnvironmentRow, actor: str, error: Blocked) -> NoReturn:
    """Keep the refusal in a transaction of its own, because the error ends the session's; then raise it."""
    from sqlalchemy.orm import Session as NewSession

    from segue.store import ledger

    with NewSession(session.get_bind()) as own, own.begin():
        ledger.append(
            own,
            actor=actor,
            action="refused",
            subject="migration_plans",
            subject_id=plan_row.id,
            detail={**_said(plan_row, env_row), "because": error.message},
        )
    raise error


def _keep_refusal(
    session: Session,
    refused: ApprovalRow,
    because: str,
    plan_row: PlanRow,
    env_row: EnvironmentRow,
    execution: str | None,
    actor: str,
) -> None:
    from segue.store import ledger

    ledger.append(
        session,
        actor=actor,
        action="approval-refused",
        subject="approvals",
        subject_id=refused.id,
        detail={
            **_said(plan_row, env_row),
            "step": refused.step_name,
            "execution": execution,
            "because": because,
        },
    )


# -- while it runs


class RunGates:
    """See `segue.engine.gates.Gates`: read from the store each time. Threads may share it."""

    def __init__(self, store: Store, execution: str, *, now: Callable[[], datetime] = clock.now) -> None:
        self._store = store
        self._execution = execution
        self._now = now
        self._refused: set[tuple[str, str]] = set()
        self._closes = FAR

    def approval(self, step: str) -> Approved | None:
        """Return the approval of a step that counts now; None when nobody ever approved it here.

        Raises MustWait, with the reason, when there is one that does not count. A store that went away is waited for.
        """
        from segue.engine.record import STORE_PATIENCE

        deadline = clock.ticks() + STORE_PATIENCE
        while True:
            try:
                return self._approval(step)
            except TargetUnreachable:
                if clock.ticks() > deadline:
                    raise
                clock.sleep(0.5)

    def _approval(self, step: str) -> Approved | None:
        with self._store.session() as session:
            row = self._row(session)
            found = standing(session, row.plan, row.environment, step)
            if found.counts is not None:
                given = found.counts
                return Approved(given.approved_by, given.reason, given.approved_at, given.expires_at)
            if found.refused is None:
                return None
            if (found.refused.id, found.because) not in self._refused:
                self._refused.add((found.refused.id, found.because))
                by = row.executed_by
                _keep_refusal(session, found.refused, found.because, row.plan, row.environment, row.id, by)
            name, environment = row.plan.plan_name, row.environment.name
        raise MustWait(
            "approval",
            f'step "{step}" waits for an approval: {found.because}',
            hint=f"`segue approve {name} --env {environment} --step {step} --reason TEXT` gives it",
            step=step,
        )

    def boundary(self) -> None:
        """Raise MustWait when the plan's approval was revoked, or when the window has closed.

        A rollback, also one that follows a failure, passes. While the store is away, what it said last holds.
        """
        try:
            with self._store.session() as session:
                row = self._row(session)
                if row.direction == BACKWARD:
                    return
                plan_row, env_row = row.plan, row.environment
                if needs_approval(env_row):
                    found = standing(session, plan_row, env_row, None, begun=True)
                    if found.counts is None:
                        raise unapproved(session, plan_row, env_row, found, handed_over=row.handed_over)
                window = window_of(env_row) if not row.options.get("outside_window") else None
        except TargetUnreachable:
            if self._now() < self._closes:
                return
            raise
        now = self._now()
        closes = window.open_at(now) if window is not None else FAR
        if window is not None and closes is None:
            opens = window.next_opening(now)
            raise MustWait(
                "window",
                f'the window of "{env_row.name}" ({window}) has closed; it goes on at {opens:%Y-%m-%d %H:%M} UTC',
                due=opens,
                hint=_again(plan_row, env_row, row) + "; --outside-window REASON goes past the window",
            )
        self._closes = closes or FAR

    def _row(self, session: Session) -> ExecutionRow:
        from segue.store.tables.executions import ExecutionRow

        return session.get_one(ExecutionRow, self._execution)
