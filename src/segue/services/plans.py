"""Keep plans: read them from files, judge them, store them with their steps, and show them."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.errors import Blocked, InvalidInput, NotFound, UsageError
from segue.planning import graph, planfile
from segue.planning.prediction import Prediction, StepPrediction, predict

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.model.plans import StepFields
    from segue.planning.planfile import Plan
    from segue.ports import Database, Parts
    from segue.settings import Settings
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow, StepRow

#: Executions that can still go on: they need the plan as they know it.
UNFINISHED = ("pending", "running", "waiting", "paused", "failed")


@dataclass(frozen=True, slots=True)
class Checked:
    """A plan that was read, and what it will do."""

    plan: Plan
    prediction: Prediction
    source: str

    @property
    def digest(self) -> str:
        """Return the plan's content hash."""
        return planfile.digest(self.plan)


@dataclass(frozen=True, slots=True)
class Added:
    """What came of adding a plan: `outcome` is added, replaced or unchanged."""

    row: PlanRow
    outcome: str
    checked: Checked


# -- reading ---------------------------------------------------------------------------------------------------------


def read_source(path: str) -> tuple[str, str]:
    """Return a file's text and the name to show for it; `-` is the standard input. Raises InvalidInput."""
    if path == "-":
        return _decoded(sys.stdin.buffer.read(planfile.MAX_BYTES + 1), "<stdin>"), "<stdin>"
    if not path:
        raise InvalidInput("no plan file is named", hint="give a plan file, or - to read one from a pipe")
    try:
        with Path(path).open("rb") as file:
            return _decoded(file.read(planfile.MAX_BYTES + 1), path), path
    except FileNotFoundError:
        raise InvalidInput(
            f'there is no file "{path}"', hint="give a plan file, or - to read one from a pipe"
        ) from None
    except IsADirectoryError:
        raise InvalidInput(f'"{path}" is a folder', hint="give a plan file") from None
    except PermissionError:
        raise InvalidInput(f'"{path}" may not be read', hint="its permissions do not let you") from None
    except OSError as error:
        raise InvalidInput(f'"{path}" cannot be read: {error.strerror}') from error


def looks_like_file(word: str) -> bool:
    """Return whether a PLAN argument means a file rather than a stored plan's name."""
    return word == "-" or "/" in word or word.endswith((".yaml", ".yml", ".json")) or Path(word).is_file()


def check(text: str, source: str, parts: Parts) -> Checked:
    """Read a plan, with the files that it names, and predict what it does; needs no store.

    Raises InvalidInput with every problem found.
    """
    database = _database(parts)
    folder = Path(source).parent if source != "<stdin>" else None
    plan = planfile.read(text, source=source, kinds=parts.steps, database=database, folder=folder)
    return Checked(plan, predict(plan, parts.steps, database), source)


def _database(parts: Parts) -> Database:
    # A plan names no database; the one kind that exists says how its SQL reads.
    return next(iter(parts.databases.values()))


def _decoded(raw: bytes, source: str) -> str:
    if len(raw) > planfile.MAX_BYTES:
        raise InvalidInput(f'"{source}" is larger than a plan can be ({planfile.MAX_BYTES // 1_000_000} MB)')
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InvalidInput(f"{source}:{line}:1: not UTF-8", hint="save the file as UTF-8") from None


# -- storing ---------------------------------------------------------------------------------------------------------


def add(session: Session, settings: Settings, checked: Checked) -> Added:
    """Store a plan with its steps.

    The same content again changes nothing. Other content takes the stored plan's place; once it was executed only
    under a version that was not executed with other content (InvalidInput), and never while an execution of it can
    still go on (Blocked).
    """
    from sqlalchemy import delete
    from sqlalchemy.exc import IntegrityError

    from segue.store import ledger
    from segue.store.tables.plans import PlanRow, StepRow

    plan = checked.plan
    row = _find(session, plan.plan, lock=True)
    if row is not None and row.plan_hash == checked.digest:
        document = planfile.document(plan)
        if row.document == document:
            return Added(row, "unchanged", checked)
        # Changed in the store, past Segue: the hash still says what was added, so this file is the true one.
        found = {"document": row.document, "plan_hash": row.plan_hash}
        ledger.append(
            session, actor=settings.user, action="restored", subject="migration_plans", subject_id=row.id, detail=found
        )
        row.document = document
        return Added(row, "replaced", checked)
    detail: dict[str, Any] = {"plan": plan.plan, "version": plan.version, "plan_hash": checked.digest}
    outcome = "added"
    if row is None:
        row = PlanRow(plan_name=plan.plan, created_by=settings.user)
        session.add(row)
    else:
        outcome = "replaced"
        _refuse_replacing(session, row, checked)
        # Kept for good: what an execution ran must be found again although the file and the row have moved on.
        detail["replaced"] = {"version": row.version, "plan_hash": row.plan_hash, "document": row.document}
        session.execute(delete(StepRow).where(StepRow.plan_id == row.id))
        _back_to_draft(session, row, settings.user)
    _fill(row, checked)
    try:
        session.flush()
    except IntegrityError as error:
        # Somebody else has added the same name since we looked.
        raise Blocked(f'plan "{plan.plan}" was added by somebody else just now', hint="look at it first") from error
    documents: list[dict[str, Any]] = planfile.document(plan)["steps"]
    session.add_all(_step_row(row.id, plan, step, documents[step.number - 1]) for step in checked.prediction.steps)
    session.flush()
    session.refresh(row)
    ledger.append(
        session, actor=settings.user, action=outcome, subject="migration_plans", subject_id=row.id, detail=detail
    )
    return Added(row, outcome, checked)


def _refuse_replacing(session: Session, row: PlanRow, checked: Checked) -> None:
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.ledger import LedgerRow

    executions: Sequence[ExecutionRow] = session.scalars(
        select(ExecutionRow).where(ExecutionRow.plan_id == row.id)
    ).all()
    going = [found for found in executions if found.status in UNFINISHED]
    if going:
        raise Blocked(
            f'plan "{row.plan_name}" cannot be changed: an execution of it can still go on',
            details=[f"{found.id}  {found.environment.name}  {found.status}" for found in going],
            hint="finish it (`segue run --resume`), take it back (`segue rollback`) or `segue cancel` it first; "
            "or give the plan another name",
        )
    executed = {found.plan_hash for found in executions}
    versions = {row.version: row.plan_hash}
    if executed:
        entries = session.scalars(
            select(LedgerRow.detail).where(LedgerRow.subject == "migration_plans", LedgerRow.subject_id == row.id)
        )
        versions |= {
            str(entry["version"]): str(entry["plan_hash"])
            for entry in entries
            if entry.get("plan_hash") in executed and "version" in entry
        }
    taken = versions.get(checked.plan.version)
    if taken in executed and taken != checked.digest:
        raise InvalidInput(
            f'plan "{row.plan_name}" was executed as version {checked.plan.version} with other content',
            hint="give the changed plan a new version",
        )


def _back_to_draft(session: Session, row: PlanRow, actor: str) -> None:
    from segue.model.lifecycles import PLAN, PlanStatus
    from segue.store.transitions import advance

    # An approval was given to the old content.
    if PLAN.allows(row.status, PlanStatus.DRAFT):
        advance(session, row, PlanStatus.DRAFT, actor=actor, approved_by=None)


def _fill(row: PlanRow, checked: Checked) -> None:
    plan, prediction = checked.plan, checked.prediction
    row.version = plan.version
    row.description = plan.description
    row.target_schema = plan.target_schema
    row.migration_phase = plan.phase
    row.strategy = plan.strategy
    row.complexity = prediction.complexity.value
    row.risk_level = prediction.risk.value
    row.estimated_duration = prediction.minutes
    row.maintenance_window = plan.maintenance_window
    row.prerequisites = list(plan.prerequisites)
    row.dependencies = list(plan.depends_on)
    row.rollback_plan = plan.rollback.description
    row.rollback_window = math.ceil(plan.rollback.window / 60) if plan.rollback.window is not None else None
    row.plan_hash = checked.digest
    row.document = planfile.document(plan)
    row.source = checked.source


def _step_row(plan_id: str, plan: Plan, predicted: StepPrediction, params: dict[str, Any]) -> StepRow:
    from segue.store.tables.plans import StepRow

    numbers = {step.name: number for number, step in enumerate(plan.steps, 1)}
    step = plan.steps[predicted.number - 1]
    expectation = step.check_after
    query = expectation.query if expectation is not None else params.get("query")
    said = params.get("validate", params)
    expected = {key: said[key] for key in ("scalar", "row", "rows", "tolerance") if key in said} if query else None
    return StepRow(
        plan_id=plan_id,
        step_number=predicted.number,
        step_name=step.name,
        description=step.description,
        step_type=predicted.step_type,
        sql_command=_joined(predicted.statements),
        prisma_script=getattr(step, "prisma_script", None),
        custom_script=getattr(step, "custom_script", None),
        is_blocking=step.blocking,
        timeout_seconds=math.ceil(step.timeout),
        retry_count=step.retries,
        depends_on=sorted(numbers[need] for need in step.needs),
        requires_approval=step.approval,
        can_rollback=predicted.undo is not None,
        rollback_command=getattr(step, "rollback_command", None) or _joined(predicted.reverse),
        validation_query=query,
        expected_result=expected,
        kind=step.kind,
        params=params,
        reverse=_reverse(step, predicted),
    )


def _reverse(step: StepFields, predicted: StepPrediction) -> dict[str, Any] | None:
    script: str | None = getattr(step, "rollback_command", None)
    if script is not None:
        return {"script": script}
    return {"statements": [one.sql for one in predicted.reverse]} if predicted.undo is not None else None


def _joined(statements: Sequence[Any]) -> str | None:
    return "\n".join(f"{statement.sql};" for statement in statements) or None


# -- looking ---------------------------------------------------------------------------------------------------------


def listed(session: Session) -> list[PlanRow]:
    """Return the stored plans by name."""
    from sqlalchemy import select

    from segue.store.tables.plans import PlanRow

    return list(session.scalars(select(PlanRow).order_by(PlanRow.plan_name)))


def get(session: Session, name: str) -> PlanRow:
    """Return a stored plan; raises NotFound with the names there are."""
    row = _find(session, name)
    if row is not None:
        return row
    names = [found.plan_name for found in listed(session)]
    near = difflib.get_close_matches(name, names, 1)
    raise NotFound(
        f'there is no plan "{name}"',
        hint=f'did you mean "{near[0]}"?' if near else f"stored are: {', '.join(names) or 'none'}; a file works too",
    )


def stored(row: PlanRow, parts: Parts) -> Checked:
    """Return a stored plan as it was read, and what it will do."""
    source = f'stored plan "{row.plan_name}"'
    plan = planfile.from_document(row.document, parts.steps, source=source)
    return Checked(plan, predict(plan, parts.steps, _database(parts)), source)


def describe(row: PlanRow) -> dict[str, Any]:
    """Return a stored plan as faces show it, without its steps."""
    return {
        "id": row.id,
        "name": row.plan_name,
        "version": row.version,
        "description": row.description,
        "target_schema": row.target_schema,
        "phase": row.migration_phase,
        "strategy": row.strategy,
        "complexity": row.complexity,
        "risk_level": row.risk_level,
        "estimated_minutes": row.estimated_duration,
        "maintenance_window": row.maintenance_window,
        "prerequisites": row.prerequisites,
        "depends_on": row.dependencies,
        "rollback_plan": row.rollback_plan,
        "rollback_window": row.rollback_window,
        "status": row.status,
        "plan_hash": row.plan_hash,
        "source": row.source,
        "created_by": row.created_by,
        "approved_by": row.approved_by,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "executed_at": row.executed_at,
        "completed_at": row.completed_at,
    }


def drawn(plan: Plan, form: str, *, ascii_only: bool = False) -> str:
    """Return the graph of a plan's steps as text, mermaid or dot."""
    needs = {step.name: list(step.needs) for step in plan.steps}
    kinds = {step.name: step.kind for step in plan.steps}
    if form == "mermaid":
        return graph.mermaid(needs, kinds)
    if form == "dot":
        return graph.dot(needs, kinds, plan.plan)
    if form == "text":
        return graph.text(needs, kinds, ascii_only=ascii_only)
    raise UsageError(f'"{form}" is no way to draw a graph', hint="text, mermaid, dot or json")


def as_graph(plan: Plan) -> dict[str, Any]:
    """Return the graph of a plan's steps for machines: nodes, edges (from, to), levels and the order of a run."""
    needs = {step.name: list(step.needs) for step in plan.steps}
    return {
        "nodes": [{"number": at, "name": step.name, "kind": step.kind} for at, step in enumerate(plan.steps, 1)],
        "edges": [{"from": need, "to": step} for step, wanted in needs.items() for need in wanted],
        "levels": graph.levels(needs),
        "order": graph.order(needs),
    }


def _find(session: Session, name: str, *, lock: bool = False) -> PlanRow | None:
    from sqlalchemy import select

    from segue.store.tables.plans import PlanRow

    query = select(PlanRow).where(PlanRow.plan_name == name)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()
