"""Give a person's word that a plan, or one step of it, may run in an environment; take it back; say how it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segue.errors import Blocked, SegueError, UsageError
from segue.model.lifecycles import PLAN, ApprovalStatus, ExecutionStatus, PlanStatus
from segue.model.vocabulary import Mode
from segue.ports import FORWARD
from segue.services import assessments, beginnings, environments, executions, gates, plans

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.ports import Parts
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.approvals import ApprovalRow
    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.plans import PlanRow, StepRow


# By then a run that asked just before an approval was given has written down that it waits, in seconds.
ABOUT_TO_WAIT = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """An approval as a person gives it.

    `seen` is the hash of the content that was shown to them. `lasts` is in seconds, None: until it is revoked. `at` is
    when the plan is to begin in an environment that is deployed on schedule.
    """

    plan: str
    environment: str
    reason: str
    seen: str
    step: str | None = None
    lasts: float | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of giving or taking back: approvals, the workers' executions that look again, and the one that began.

    `not_begun` says why none began where approving is to begin one.
    """

    approvals: list[dict[str, Any]]
    woken: list[str]
    began: str | None = None
    not_begun: SegueError | None = field(default=None)


def subject(session: Session, parts: Parts, plan: str, environment: str, step: str | None) -> dict[str, Any]:
    """Return what somebody is asked to approve, for faces: plan, steps, environment, and how it stands.

    Raises NotFound, Blocked when the stored plan was changed in the store, UsageError for a step that asks for none.
    """
    plan_row, env_row = plans.get(session, plan), environments.get(session, environment)
    _check(plan_row, env_row, parts, step)
    found = gates.standing(session, plan_row, env_row, step)
    return {
        "plan": plan_row.plan_name,
        "version": plan_row.version,
        "plan_hash": plan_row.plan_hash,
        "description": plan_row.description,
        "authors": gates.authors(session, plan_row),
        "status": plan_row.status,
        "risk_level": plan_row.risk_level,
        "complexity": plan_row.complexity,
        "estimated_minutes": plan_row.estimated_duration,
        "rollback_plan": plan_row.rollback_plan,
        "environment": env_row.name,
        "type": env_row.type,
        "database": env_row.url_hint,
        "deployment_type": env_row.deployment_type,
        "maintenance_window": env_row.maintenance_window,
        "step": step,
        "steps": [
            {
                "number": row.step_number,
                "name": row.step_name,
                "kind": row.kind,
                "approval": _asks(row),
                "message": row.params.get("message") or None,
                "reversible": row.can_rollback,
                "sql": row.sql_command,
            }
            for row in plan_row.steps
            if step in (None, row.step_name)
        ],
        "assessment": assessments.kept(plan_row, env_row.name),
        "approved": found.counts is not None,
        "standing": found.because or f"approved by {found.counts.approved_by if found.counts else ''}",
    }


def grant(store: Store, settings: Settings, parts: Parts, wanted: Wanted) -> Decided:
    """Approve a plan, or one step of it, in an environment; executions that wait there look again.

    Where an environment is deployed automatically or on schedule, the approval of the plan begins an execution, for
    the workers. Raises Blocked when an author approves their own plan for production (the ledger keeps that), or when
    the plan is not what was shown.
    """
    from sqlalchemy import func, select

    from segue.store import ledger
    from segue.store.tables.approvals import ApprovalRow

    reason = _given(wanted.reason)
    with store.session() as session:
        plan_row = plans.get(session, wanted.plan)
        # Nobody may put other content under the name while it is approved.
        session.refresh(plan_row, with_for_update=True)
        env_row = environments.get(session, wanted.environment)
        _check(plan_row, env_row, parts, wanted.step)
        refusal = _refusal(session, settings, plan_row, env_row, wanted)
        if refusal is None:
            now = session.scalars(select(func.clock_timestamp())).one()
            row = ApprovalRow(
                plan_id=plan_row.id,
                plan_hash=plan_row.plan_hash,
                environment_id=env_row.id,
                step_name=wanted.step,
                approved_by=settings.user,
                reason=reason,
                expires_at=now + timedelta(seconds=wanted.lasts) if wanted.lasts is not None else None,
            )
            session.add(row)
            session.flush()
            session.refresh(row)
            ledger.append(
                session,
                actor=settings.user,
                action="granted",
                subject="approvals",
                subject_id=row.id,
                detail={
                    **_said(plan_row, env_row, wanted.step),
                    "reason": reason,
                    "expires_at": _plain(row.expires_at),
                },
            )
            if wanted.step is None:
                _approve_plan(session, settings, plan_row)
                plan_row.scheduled_at = wanted.at or plan_row.scheduled_at
            woken, running = _wake(session, plan_row, env_row), _running(session, plan_row, env_row)
            given = _described(session, row, plan_row, env_row)
            begins = wanted.step is None and env_row.deployment_type in (Mode.AUTOMATED, Mode.SCHEDULED)
    if refusal is not None:
        raise refusal
    _nudge(store, woken, running)
    if not begins:
        return Decided([given], woken)
    try:
        return Decided([given], woken, began=_begin(store, settings, parts, wanted))
    except SegueError as error:
        return Decided([given], woken, not_begun=error)


def revoke(store: Store, settings: Settings, plan: str, environment: str, step: str | None, reason: str) -> Decided:
    """Take back every approval of a plan, or of one step, in an environment; what runs stops at its next safe point.

    Raises UsageError when there is none.
    """
    from sqlalchemy import func, select

    from segue.store.tables.approvals import ApprovalRow
    from segue.store.transitions import advance

    reason = _given(reason)
    with store.session() as session:
        plan_row, env_row = plans.get(session, plan), environments.get(session, environment)
        session.refresh(plan_row, with_for_update=True)
        rows = session.scalars(
            select(ApprovalRow)
            .where(
                ApprovalRow.plan_id == plan_row.id,
                ApprovalRow.environment_id == env_row.id,
                ApprovalRow.step_name.is_(None) if step is None else ApprovalRow.step_name == step,
                ApprovalRow.status == ApprovalStatus.GRANTED,
            )
            .order_by(ApprovalRow.approved_at)
        ).all()
        if not rows:
            what = f'step "{step}" of plan "{plan}"' if step else f'plan "{plan}"'
            raise UsageError(
                f'{what} has no approval in "{environment}" that could be revoked',
                hint=f"`segue approve {plan} --list` shows the approvals",
            )
        now = session.scalars(select(func.clock_timestamp())).one()
        for row in rows:
            detail = {**_said(plan_row, env_row, step), "reason": reason}
            advance(
                session,
                row,
                ApprovalStatus.REVOKED,
                actor=settings.user,
                detail=detail,
                revoked_by=settings.user,
                revoked_at=now,
            )
        if step is None:
            _back_to_draft(session, settings, plan_row)
        woken, running = _wake(session, plan_row, env_row), _running(session, plan_row, env_row)
        taken = [_described(session, row, plan_row, env_row) for row in rows]
    _nudge(store, woken, running)
    return Decided(taken, woken)


def listed(session: Session, plan: str, environment: str | None = None) -> list[dict[str, Any]]:
    """Return the approvals of a plan, newest first, each with whether it counts and why not."""
    from sqlalchemy import select

    from segue.store.tables.approvals import ApprovalRow
    from segue.store.tables.environments import EnvironmentRow

    plan_row = plans.get(session, plan)
    query = (
        select(ApprovalRow, EnvironmentRow)
        .join(EnvironmentRow, EnvironmentRow.id == ApprovalRow.environment_id)
        .where(ApprovalRow.plan_id == plan_row.id)
        .order_by(ApprovalRow.approved_at.desc())
    )
    if environment is not None:
        query = query.where(EnvironmentRow.id == environments.get(session, environment).id)
    return [_described(session, row, plan_row, env_row) for row, env_row in session.execute(query).all()]


def same_as_stored(session: Session, checked: plans.Checked) -> str:
    """Return the name under which a plan file's content is stored; raises Blocked when other content is."""
    row = plans.get(session, checked.plan.plan)
    if row.plan_hash != checked.digest:
        raise Blocked(
            f'{checked.source} is not the plan "{row.plan_name}" that is stored '
            f"({checked.digest[:12]} in the file, {row.plan_hash[:12]} in the store)",
            hint="an approval is given to what is stored; `segue plan add FILE` stores the file",
        )
    return row.plan_name


# -- parts


def _check(plan_row: PlanRow, env_row: EnvironmentRow, parts: Parts, step: str | None) -> None:
    if not env_row.is_active:
        raise Blocked(f'the environment "{env_row.name}" was removed', hint="`segue env list` shows those there are")
    if plans.stored(plan_row, parts).digest != plan_row.plan_hash:
        raise Blocked(
            f'stored plan "{plan_row.plan_name}" is not the one that was added: somebody changed it in the store',
            hint="`segue plan add FILE` puts the true one back, and keeps the other in the ledger",
        )
    if step is None:
        return
    asking = [row.step_name for row in plan_row.steps if _asks(row)]
    if step not in asking:
        known = step in [row.step_name for row in plan_row.steps]
        raise UsageError(
            f'step "{step}" of plan "{plan_row.plan_name}" asks for no approval'
            if known
            else f'plan "{plan_row.plan_name}" has no step "{step}"',
            hint=f"steps that ask for one: {', '.join(asking) or 'none'}",
        )


def _asks(row: StepRow) -> bool:
    """Return whether a step waits for an approval of its own."""
    return row.requires_approval or row.kind == "approval"


def _given(reason: str) -> str:
    if not reason.strip():
        raise UsageError("a reason is missing", hint="say why in words: --reason TEXT")
    return reason.strip()


def _refusal(
    session: Session, settings: Settings, plan_row: PlanRow, env_row: EnvironmentRow, wanted: Wanted
) -> Blocked | None:
    """Return why an approval may not be given, written to the ledger with the session's transaction."""
    from segue.store import ledger

    wrote = gates.authors(session, plan_row)
    if plan_row.plan_hash != wanted.seen:
        error = Blocked(
            f'plan "{plan_row.plan_name}" was changed while it was looked at '
            f"({wanted.seen[:12]} was shown, {plan_row.plan_hash[:12]} is stored)",
            hint="look at it again, then approve it",
        )
    elif gates.needs_approval(env_row) and gates.is_author(settings.user, wrote):
        error = Blocked(
            f'"{settings.user}" wrote plan "{plan_row.plan_name}" and cannot approve it for '
            f'"{env_row.name}", which is a production environment',
            hint=f"somebody other than {', '.join(wrote)} has to approve it",
        )
    elif wanted.at is not None and env_row.deployment_type != Mode.SCHEDULED:
        raise UsageError(
            f'a time was given, but "{env_row.name}" is not deployed on schedule',
            hint=f"`segue run {plan_row.plan_name} --env {env_row.name} --at TIME` begins it then",
        )
    else:
        return None
    ledger.append(
        session,
        actor=settings.user,
        action="approval-refused",
        subject="migration_plans",
        subject_id=plan_row.id,
        detail={**_said(plan_row, env_row, wanted.step), "because": error.message},
    )
    return error


def _approve_plan(session: Session, settings: Settings, plan_row: PlanRow) -> None:
    from segue.store.transitions import advance

    if PLAN.allows(plan_row.status, PlanStatus.APPROVED):
        advance(session, plan_row, PlanStatus.APPROVED, actor=settings.user, approved_by=settings.user)
    else:
        plan_row.approved_by = settings.user


def _back_to_draft(session: Session, settings: Settings, plan_row: PlanRow) -> None:
    """Take the plan's own word back when no approval of its content is left anywhere."""
    from sqlalchemy import select

    from segue.store.tables.approvals import ApprovalRow
    from segue.store.transitions import advance

    left = session.scalars(
        select(ApprovalRow.approved_by)
        .where(
            ApprovalRow.plan_id == plan_row.id,
            ApprovalRow.plan_hash == plan_row.plan_hash,
            ApprovalRow.step_name.is_(None),
            ApprovalRow.status == ApprovalStatus.GRANTED,
        )
        .order_by(ApprovalRow.approved_at.desc())
        .limit(1)
    ).first()
    if left is None and plan_row.status == PlanStatus.APPROVED:
        advance(session, plan_row, PlanStatus.DRAFT, actor=settings.user, approved_by=None)
    else:
        plan_row.approved_by = left


def _wake(session: Session, plan_row: PlanRow, env_row: EnvironmentRow) -> list[str]:
    """Have every waiting execution of a plan in an environment looked at now; return those that are the workers'.

    Whatever they say they wait for: one of several steps that wait may be the one that was approved.
    """
    from sqlalchemy import func, update

    from segue.store.tables.executions import ExecutionRow

    woken = session.execute(
        update(ExecutionRow)
        .where(
            ExecutionRow.plan_id == plan_row.id,
            ExecutionRow.environment_id == env_row.id,
            ExecutionRow.status == ExecutionStatus.WAITING,
            ExecutionRow.direction == FORWARD,
        )
        .values(due_at=func.clock_timestamp())
        .returning(ExecutionRow.id, ExecutionRow.handed_over)
        .execution_options(synchronize_session=False)
    ).all()
    return [execution for execution, handed_over in woken if handed_over]


def _running(session: Session, plan_row: PlanRow, env_row: EnvironmentRow) -> list[str]:
    """Return the workers' executions that run now: one may have asked just before, and be about to wait."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    return list(
        session.scalars(
            select(ExecutionRow.id).where(
                ExecutionRow.plan_id == plan_row.id,
                ExecutionRow.environment_id == env_row.id,
                ExecutionRow.status == ExecutionStatus.RUNNING,
                ExecutionRow.handed_over,
            )
        )
    )


def _nudge(store: Store, woken: list[str], running: list[str]) -> None:
    if woken or running:
        from segue.engine.queue import Queue

        queue = Queue(store.url)
        if woken:
            queue.nudge_executions(woken)
        if running:
            queue.nudge_executions(running, delay=ABOUT_TO_WAIT)


def _begin(store: Store, settings: Settings, parts: Parts, wanted: Wanted) -> str | None:
    """Hand an execution over to the workers, where none has begun; raise what stands in its way."""
    from sqlalchemy import func, select

    from segue.store.tables.executions import ExecutionRow

    with store.session() as session:
        plan_row, env_row = plans.get(session, wanted.plan), environments.get(session, wanted.environment)
        mode, at = Mode(env_row.deployment_type), wanted.at or plan_row.scheduled_at
        earlier = session.scalars(
            select(ExecutionRow)
            .where(ExecutionRow.plan_id == plan_row.id, ExecutionRow.environment_id == env_row.id)
            .order_by(ExecutionRow.execution_number.desc())
            .limit(1)
        ).first()
        if earlier is not None and earlier.status in (
            ExecutionStatus.RUNNING,
            ExecutionStatus.PAUSED,
            ExecutionStatus.FAILED,
        ):
            raise Blocked(
                f"execution {earlier.id} is {earlier.status}; a person says how it goes on",
                hint="`segue status` shows it; `segue resume` goes on, `segue rollback` takes it back",
            )
        if mode is Mode.SCHEDULED:
            now = session.scalars(select(func.clock_timestamp())).one()
            if at is not None and at <= now and env_row.maintenance_window is None:
                raise Blocked(
                    f'the time at which "{wanted.plan}" was to begin, {at:%Y-%m-%d %H:%M} UTC, has passed',
                    hint="approve it again with another time (--at)",
                )
            if at is None and env_row.maintenance_window is None:
                raise Blocked(
                    f'environment "{env_row.name}" is deployed on schedule, and nothing says when '
                    f'"{wanted.plan}" is to run',
                    hint='approve it again with a time (--at "2026-11-29 02:00 Europe/Berlin"), or give the '
                    "environment a window (--maintenance-window)",
                )
    options = beginnings.Options(at=at if mode is Mode.SCHEDULED else None)
    outcome = executions.hand_over(store, settings, parts, wanted.plan, wanted.environment, options, mode=mode.value)
    return None if outcome.nothing_to_do else outcome.execution


def _described(session: Session, row: ApprovalRow, plan_row: PlanRow, env_row: EnvironmentRow) -> dict[str, Any]:
    because = gates.doubt(session, row, plan_row, env_row)
    return {
        "id": row.id,
        "plan": plan_row.plan_name,
        "plan_hash": row.plan_hash,
        "environment": env_row.name,
        "step": row.step_name,
        "status": row.status,
        "approved_by": row.approved_by,
        "reason": row.reason,
        "approved_at": row.approved_at,
        "expires_at": row.expires_at,
        "revoked_by": row.revoked_by,
        "revoked_at": row.revoked_at,
        "counts": not because,
        "because": because or None,
    }


def _said(plan_row: PlanRow, env_row: EnvironmentRow, step: str | None) -> dict[str, Any]:
    return {
        "plan": plan_row.plan_name,
        "version": plan_row.version,
        "plan_hash": plan_row.plan_hash,
        "environment": env_row.name,
        "step": step,
    }


def _plain(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
