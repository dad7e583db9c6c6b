"""Data jobs: make one, run it, look at the rows that it could not write, and settle what becomes of them."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from segue.errors import Blocked, InvalidInput, NotFound, SegueError, UsageError
from segue.model.lifecycles import ExecutionStatus
from segue.planning import planfile
from segue.planning.planfile import InvalidPlan
from segue.ports import FORWARD, EffectKey
from segue.services import environments, executions, plans, watching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from segue.engine.events import Watch
    from segue.model.jobs import RowError
    from segue.ports import Parts
    from segue.ports.jobs import DataJob
    from segue.services.beginnings import Options, Outcome
    from segue.services.plans import Checked
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.jobs import JobErrorRow, JobRow

#: The step of a plan that `segue job create` makes.
STEP = "job"
KIND = "data-job"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks of a data job.

    `fields`: those of the step, by the plan file's names; `folder`: where files are that they name.
    """

    name: str
    schema: str = "public"
    fields: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of rejected rows: tried again, written with these `values`, or left out, for a reason."""

    how: str  # retry, correct, skip
    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


# -- making and running ----------------------------------------------------------------------------------------------


def planned(session: Session, parts: Parts, asked: Asked) -> Checked:
    """Return the plan of one step that does what is asked; the next version where one of its name says otherwise."""
    document: dict[str, Any] = {
        "plan": asked.name,
        "version": "1.0.0",
        "description": f"Write {asked.fields['source']} to {asked.fields['target']}",
        "target_schema": asked.schema,
        "steps": [{"name": STEP, "kind": KIND, **asked.fields}],
    }
    source = str(asked.folder / "plan.json") if asked.folder is not None else "<stdin>"
    checked = _checked(document, parts, source)
    row = next((row for row in plans.listed(session) if row.plan_name == asked.name), None)
    if row is None:
        return checked
    same = _checked({**document, "version": row.version}, parts, source)
    if same.digest == row.plan_hash:
        return same
    if [step.get("kind") for step in row.document["steps"]] != [KIND]:
        raise InvalidInput(f'a plan "{asked.name}" is stored that is no data job', hint="choose another name")
    numbers = row.version.partition("-")[0].partition("+")[0].split(".")
    return _checked({**document, "version": f"{numbers[0]}.{numbers[1]}.{int(numbers[2]) + 1}"}, parts, source)


def _checked(document: Mapping[str, Any], parts: Parts, source: str) -> Checked:
    try:
        checked = plans.check(json.dumps(document), source, parts)
    except InvalidPlan as error:
        # Nobody wrote the file in which the problems have their places.
        said = [problem.message.removeprefix(f'step "{STEP}": ') for problem in error.problems]
        raise InvalidInput(
            said[0], details=said[1:], hint="`segue job create --help` shows what can be asked"
        ) from error
    return replace(checked, source="segue job create")


def create(store: Store, settings: Settings, parts: Parts, asked: Asked) -> Checked:
    """Store a job's plan; nothing runs."""
    with store.session() as session:
        checked = planned(session, parts, asked)
        plans.add(session, settings, checked)
    return checked


def start(
    store: Store,
    settings: Settings,
    parts: Parts,
    name: str,
    environment: str,
    options: Options,
    watch: Watch,
    *,
    detach: bool = False,
) -> Outcome:
    """Run a job's plan, as `segue run` does; see `executions.run` and `executions.hand_over`."""
    with store.session() as session:
        document = plans.get(session, name).document
    if KIND not in {step.get("kind") for step in document["steps"]}:
        raise InvalidInput(f'the plan "{name}" is no data job', hint=f"`segue run {name}` runs it")
    if detach:
        return executions.hand_over(store, settings, parts, name, environment, options)
    return executions.run(store, settings, parts, name, environment, options, watch)


def resume(
    store: Store,
    settings: Settings,
    parts: Parts,
    word: str | None,
    options: Options,
    watch: Watch,
    *,
    environment: str | None = None,
    detach: bool = False,
) -> Outcome:
    """Go on with a job's execution."""
    with store.session() as session:
        execution = execution_of(session, word, environment)
    if detach:
        return executions.hand_over_resume(store, settings, parts, execution, options)
    return executions.resume(store, settings, parts, execution, options, watch)


# -- looking ---------------------------------------------------------------------------------------------------------


def find(session: Session, word: str | None, environment: str | None = None) -> JobRow:
    """Return a job by its plan's name, its own, its id, or its execution's; else the latest. Raises NotFound."""
    rows = [row for row in _newest(session, environment) if not row.job_name.endswith("/rollback")]
    if word is not None:
        exact = [row for row in rows if word in (row.job_name, row.id, row.execution_id, _plan(session, row))]
        rows = exact or [row for row in rows if word and (row.execution_id or "").startswith(word)]
        if len({row.execution_id for row in rows}) > 1 and not exact:
            raise UsageError(f'"{word}" is the beginning of several executions', hint="write more of it")
    if rows:
        if word is not None and environment is None and len({_environment(session, row) for row in rows}) > 1:
            raise UsageError(f'the job "{word}" ran in several environments', hint="say which with --env")
        return rows[0]
    where = f' in "{environment}"' if environment is not None else ""
    if word is None:
        raise NotFound(f"no job has run{where} yet", hint="`segue job start NAME --env ENV` runs one")
    raise NotFound(f'no job "{word}" has run{where}', hint="`segue job list` lists them")


def execution_of(session: Session, word: str | None, environment: str | None = None) -> str:
    """Return the id of a job's execution, also of one that has not come to its rows yet."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow

    if word is not None:
        query = select(ExecutionRow).join(PlanRow).where(PlanRow.plan_name == word)
        if environment is not None:
            query = query.where(ExecutionRow.environment_id == environments.get(session, environment).id)
        found = session.scalars(query.order_by(ExecutionRow.started_at.desc().nulls_first(), ExecutionRow.id)).all()
        if len({row.environment_id for row in found}) > 1:
            raise UsageError(f'the job "{word}" ran in several environments', hint="say which with --env")
        if found:
            return found[0].id
    return str(find(session, word, environment).execution_id)


def completed(session: Session, word: str | None, environment: str | None = None) -> bool:
    """Return whether a job's execution is completed."""
    from segue.store.tables.executions import ExecutionRow

    identity = execution_of(session, word, environment)
    return bool(session.get_one(ExecutionRow, identity).status == ExecutionStatus.COMPLETED)


def _newest(session: Session, environment: str | None) -> Sequence[JobRow]:
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.jobs import JobRow

    query = select(JobRow).where(JobRow.execution_id.is_not(None))
    if environment is not None:
        query = query.join(ExecutionRow, ExecutionRow.id == JobRow.execution_id).where(
            ExecutionRow.environment_id == environments.get(session, environment).id
        )
    return session.scalars(query.order_by(JobRow.started_at.desc(), JobRow.id)).all()


def listed(session: Session, *, environment: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Return the latest jobs, newest first, and before them those that were created and have not run."""
    rows = [describe(session, row) for row in _newest(session, environment)[:limit]]
    begun = {one["plan"] for one in rows}
    fresh = [
        {"job": row.plan_name, "plan": row.plan_name, "kind": KIND, "status": "created", **_tables(row.document)}
        for row in plans.listed(session)
        if row.plan_name not in begun and [step.get("kind") for step in row.document["steps"]] == [KIND]
    ]
    return ([] if environment is not None else fresh) + rows


def _tables(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document["steps"][0][name] for name in ("source", "target")}


def describe(session: Session, row: JobRow) -> dict[str, Any]:
    """Return a job as it stands, as JSON values."""
    from segue.store.tables.executions import ExecutionRow

    execution = session.get_one(ExecutionRow, row.execution_id)
    return {
        "job": row.job_name,
        "plan": execution.plan.plan_name,
        "step": row.step_name,
        "environment": execution.environment.name,
        "execution": execution.id,
        "execution_status": execution.status,
        "driven": watching.driven(execution),
        "error": execution.error_details if execution.status == ExecutionStatus.FAILED else None,
        "kind": row.kind,
        "status": row.status,
        "source": row.source_table,
        "target": row.target_table,
        "transformation": row.transformation_script,
        "filter": row.filter_condition,
        "percent": row.progress_percent,
        "total_rows": row.total_rows,
        "processed_rows": row.processed_rows,
        "successful_rows": row.successful_rows,
        "failed_rows": row.failed_rows,
        "skipped_rows": row.skipped_rows,
        "rows_per_second": row.rows_per_second,
        "average_batch_ms": row.avg_batch_time,
        "workers": row.parallel_workers,
        "batch_size": row.batch_size,
        "throttle_ms": row.throttle_ms,
        "continue_on_error": row.continue_on_error,
        "retry": row.current_retry,
        "max_retries": row.max_retries,
        "started_at": row.started_at,
        "paused_at": row.paused_at,
        "completed_at": row.completed_at,
        "estimated_completion": row.estimated_completion,
    }


def errors(
    session: Session, row: JobRow, *, everything: bool = False, limit: int = 100
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many rejected rows of a job are open, and some of them; `everything`: settled ones too."""
    from sqlalchemy import func, select

    from segue.store.tables.jobs import JobErrorRow

    mine = JobErrorRow.job_id == row.id
    count = session.scalar(select(func.count()).where(mine, JobErrorRow.is_resolved.is_(False))) or 0
    query = select(JobErrorRow).where(mine)
    if not everything:
        query = query.where(JobErrorRow.is_resolved.is_(False))
    found = session.scalars(query.order_by(JobErrorRow.occurred_at, JobErrorRow.id).limit(limit))
    return count, [_as_json(one) for one in found]


def _as_json(row: JobErrorRow) -> dict[str, Any]:
    return {
        "error": row.id,
        "key": json.loads(row.row_key or "[]"),
        "batch": row.batch_number,
        "type": row.error_type,
        "message": row.error_message,
        "stack": row.stack_trace,
        "source": row.source_data,
        "target": row.target_data,
        "occurred_at": row.occurred_at,
        "resolved": row.is_resolved,
        "resolution": row.resolution,
        "resolved_by": row.resolved_by,
        "resolved_at": row.resolved_at,
    }


def _plan(session: Session, row: JobRow) -> str:
    from segue.store.tables.executions import ExecutionRow

    return session.get_one(ExecutionRow, row.execution_id).plan.plan_name


def _environment(session: Session, row: JobRow) -> str:
    from segue.store.tables.executions import ExecutionRow

    return session.get_one(ExecutionRow, row.execution_id).environment.name


# -- settling --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of rejected rows: how many are settled now, and those that still cannot be written."""

    job: Mapping[str, Any]
    done: int
    left: list[dict[str, Any]]


def resolve(
    store: Store,
    settings: Settings,
    parts: Parts,
    word: str | None,
    keys: Sequence[str],
    decision: Decision,
    environment: str | None = None,
) -> Settled:
    """Settle rejected rows, named by their error's id or by their key, or all that are open where none is named.

    Takes the target's lease: raises Busy while the job runs, Blocked when the job was taken back.
    """
    from segue.engine.rejections import brought

    with store.session() as session:
        identity = find(session, word, environment).id
    done: list[tuple[str, ...]] = []
    left: list[tuple[str, ...]] = []
    failure: SegueError | None = None
    with _job(store, settings, parts, identity) as job:
        wanted = _wanted(identity, list(_all_rejected(job)), keys)
        if decision.how == "correct" and len(wanted) != 1:
            raise UsageError("corrected values are of one row", hint="name its error; `segue job errors` lists them")
        try:
            for key in wanted:
                (done if _settle(job, key, decision, settings.user) else left).append(key)
        except (Blocked, NotFound, InvalidInput) as error:
            failure = error
        # All of them: whoever settled some before may have died before the store was told.
        now = {one.key: one for one in _all_rejected(job)}
    with store.session() as session:
        brought(session, identity, list(now.values()))
        _count(session, identity)
        if done or left:
            _note(session, settings, identity, decision, done, left)
        content = describe(session, find(session, identity))
    if failure is not None:
        raise failure
    return Settled(content, len(done), [{"key": list(key), "message": now[key].message} for key in left])


def _settle(job: DataJob, key: tuple[str, ...], decision: Decision, by: str) -> bool:
    """Settle one row; return whether it is."""
    if decision.how == "retry":
        return job.retry(key, by) is None
    if decision.how == "correct":
        return job.correct(key, decision.values, by) is None
    job.skip(key, by, decision.note)
    return True


def _wanted(job: str, rows: Sequence[RowError], words: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the keys of the rows that are meant, in the order in which they came."""
    from segue.engine.rejections import identity_of

    if not words:
        return [one.key for one in rows if one.resolution is None]
    by_word = {",".join(one.key): one.key for one in rows}
    by_word.update((identity_of(job, one.id), one.key) for one in rows)
    for word in words:
        if word not in by_word:
            raise NotFound(f'the job has no error "{word}"', hint="`segue job errors` lists them")
    return [by_word[word] for word in words]


@contextmanager
def _job(store: Store, settings: Settings, parts: Parts, identity: str) -> Iterator[DataJob]:
    """Open a job on its target, under the lease."""
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.jobs import JobRow

    with store.session() as session:
        row = session.get_one(JobRow, identity)
        execution = session.get_one(ExecutionRow, row.execution_id)
        if execution.direction != FORWARD or execution.status == ExecutionStatus.ROLLED_BACK:
            raise Blocked(f'the job "{row.job_name}" was taken back', hint="run it again")
        plan = planfile.from_document(
            execution.plan.document, parts.steps, source=f'stored plan "{execution.plan.plan_name}"'
        )
        if planfile.digest(plan) != execution.plan_hash:
            raise Blocked(f'the plan "{execution.plan.plan_name}" was changed since the job ran', hint="run it anew")
        params = next(step for step in plan.steps if step.name == row.step_name)
        if params.kind != KIND:
            raise Blocked(f'the step "{params.name}" is a {params.kind}; only a {KIND} rejects rows')
        _, url = environments.resolve(session, settings, execution.environment.name)
        schema = plan.target_schema
        key = EffectKey(execution.id, plan.plan, execution.plan_hash, params.name, FORWARD, 0)
    kind: Any = parts.steps[KIND]
    holder = f"{settings.user}@{socket.gethostname()} pid {os.getpid()}"
    target = parts.database(url).open_target(url, execution=key.execution, holder=holder, schema=schema)
    target.places = environments.places(store, settings)
    try:
        yield target.data_job(key, kind.spec(params))
    finally:
        target.close()


def _all_rejected(job: DataJob) -> Iterator[RowError]:
    last = 0
    while found := job.rejected(last):
        yield from found
        last = found[-1].id


def _count(session: Session, identity: str) -> None:
    """Bring the job's counters to what its errors say."""
    from sqlalchemy import func, select

    from segue.store.tables.jobs import BatchRow, JobErrorRow, JobRow

    row = session.get_one(JobRow, identity)
    mine = JobErrorRow.job_id == identity
    written = JobErrorRow.resolution.like("retried%") | JobErrorRow.resolution.like("corrected%")
    by_batches = session.scalar(select(func.sum(BatchRow.successful_rows)).where(BatchRow.job_id == identity)) or 0
    by_hand = session.scalar(select(func.count()).where(mine, written)) or 0
    row.failed_rows = session.scalar(select(func.count()).where(mine, JobErrorRow.is_resolved.is_(False))) or 0
    row.successful_rows = int(by_batches) + by_hand
    row.skipped_rows = max(0, row.processed_rows - row.successful_rows - row.failed_rows)


def _note(
    session: Session, settings: Settings, identity: str, decision: Decision, done: Sequence[Any], left: Sequence[Any]
) -> None:
    from segue.store import ledger

    ledger.append(
        session,
        actor=settings.user,
        action="resolved",
        subject="data_migration_errors",
        subject_id=identity,
        detail={
            "how": decision.how,
            "note": decision.note,
            "settled": len(done),
            "left": len(left),
            "keys": [list(key) for key in done[:100]],
        },
    )
