"""A step that writes the rows of one table, transformed, into another one, in key order and in short transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from segue.model.jobs import JobSpec, Lookup, Transform
from segue.model.plans import Batch, PlanModel, Seconds, Size, StepFields
from segue.model.scripts import Script, names_function
from segue.planning import scriptfiles
from segue.planning.expressions import is_expression, quoted
from segue.ports import FORWARD, Database, Observed, Shared, StepRun
from segue.rows.chunks import Remainder
from segue.rows.walk import Walk

if TYPE_CHECKING:
    from pathlib import Path

    from segue.model.impact import Statement
    from segue.ports import EffectKey, Patience, Target

# The part of a job's history that says "all of it".
WHOLE = -2

Expressions = dict[str, Annotated[str, Field(min_length=1)]]


class LookupFields(PlanModel):
    """A table in which each row of the source finds at most one other, for the expressions to use."""

    table: str = Field(min_length=1, description="The table, as SQL writes it.")
    alias: str = Field(min_length=1, description="What the expressions call it.")
    on: Expressions = Field(min_length=1, description="SQL expression by column of a key of the table.")
    missing: Literal["null", "skip", "error"] = Field(
        default="null", description="What becomes of a row that finds nothing: NULLs, left out, or an error."
    )


class TransformFields(PlanModel):
    """A Python function that makes rows of the target from rows of the source, a batch at a time."""

    python: Annotated[str, AfterValidator(names_function)] = Field(
        description="A function as `path/file.py:name`, called with a list of rows; it returns one for each, or None."
    )
    gives: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1, description="The columns of the target that it gives; others are filled as without it."
    )
    files: list[str] = Field(default_factory=list, description="Further files that it needs.")
    timeout: Seconds = Field(default=10.0, gt=0, description="The longest that a call may take.")
    memory: Size = Field(
        default=1 << 30, ge=1 << 24, description="What its process may hold, beside the modules that it loads."
    )
    contents: dict[str, str] = Field(
        default_factory=dict, description="The text of its files by path, filled in when the plan is read."
    )

    @property
    def script(self) -> Script:
        """Return it as a program with files."""
        return Script(python=self.python, files=self.files, contents=self.contents)


class DataJobParams(StepFields):
    """Write the rows of a table, transformed, into another one."""

    kind: Literal["data-job"] = "data-job"
    source: str = Field(min_length=1, description="The table that is read, as SQL writes it.")
    source_env: str | None = Field(
        default=None, min_length=1, description="The environment that the source is in, if not in the target's."
    )
    target: str = Field(min_length=1, description="The table that is written.")
    set: Expressions = Field(
        default_factory=dict,
        description="SQL expression by column of the target; the others are filled from columns of the same name.",
    )
    transform: TransformFields | None = Field(
        default=None, description="A Python function that gives columns of the target, called once a batch."
    )
    columns: list[str] | None = Field(
        default=None, min_length=1, description="The columns to fill, where not all that there is something for."
    )
    where: str | None = Field(default=None, description="Which rows of the source; SQL.")
    lookups: list[LookupFields] = Field(default_factory=list, description="Tables to look something up in.")
    checks: Expressions = Field(
        default_factory=dict, description="Conditions by name; a row that does not fulfil one is rejected."
    )
    on_conflict: Literal["fail", "skip", "update"] = Field(
        default="fail", description="What becomes of a row whose key the target has already."
    )
    conflict: list[str] = Field(
        default_factory=list, description="The columns of that key; by default the primary key's."
    )
    continue_on_error: bool = Field(default=False, description="Whether to go on without rows that cannot be written.")
    max_errors: int = Field(default=10_000, ge=1, description="With more rejected rows than this, the job stops.")
    row_timeout: Seconds = Field(default=20.0, gt=0, description="The longest that writing a single row may take.")
    batch: Batch = Field(default_factory=Batch)
    workers: int = Field(default=1, ge=1, le=32, description="Batches written at the same time.")
    pause: Seconds = Field(default=0.0, description="Wait after each batch, to spare the server.")
    reverse: Literal["delete", "nothing"] | None = Field(
        default=None,
        description="What a rollback does: `delete`, `nothing`; by default it deletes where that is safe.",
    )
    timeout: Seconds = Field(default=86400.0, description="The longest the step may take.")


class DataJobStep:
    """See `segue.ports.StepKind`."""

    kind = "data-job"
    step_type = "data-migration"
    effects = True
    parallel = True
    Params = DataJobParams

    def prepare(self, params: DataJobParams, folder: Path | None) -> DataJobParams:
        """Return the fields with the text of every file that the function needs."""
        if params.transform is None:
            return params
        contents = scriptfiles.read(params.transform.script, folder, "`transform`: ")
        return params.model_copy(update={"transform": params.transform.model_copy(update={"contents": contents})})

    def statements(self, params: DataJobParams, database: Database) -> list[Statement]:
        """Return the statement that every batch sends, without its range, as far as the plan says its columns."""
        return database.statements(_insert(params))

    def reverse(self, params: DataJobParams, database: Database) -> list[Statement]:
        """Return what the undo sends, without what tells the rows that were written."""
        if params.reverse == "nothing":
            return []
        return database.statements(
            f"DELETE FROM {params.target} WHERE EXISTS (SELECT FROM {params.source})"  # noqa: S608  parsed, never run
        )

    def irreversible(self, params: DataJobParams) -> str | None:
        """Return why the step cannot be undone."""
        return params.irreversible

    def problems(self, params: DataJobParams, database: Database) -> list[str]:
        """Return which piece of SQL smuggles in more than an expression; a syntax error is raised with its place."""
        self.statements(params, database)
        # Each by itself: a parenthesis too many in a filter would step out of the range of keys beside it.
        pieces: list[tuple[str, str | None, str]] = [("`set`", *one) for one in params.set.items()]
        pieces += [("`checks`", *one) for one in params.checks.items()]
        for lookup in params.lookups:
            pieces += [(f"`lookups`: `{lookup.alias}`", *one) for one in lookup.on.items()]
        if params.where is not None:
            pieces.append(("`where`", None, params.where))
        found = []
        for field, name, expression in pieces:
            if name is not None and len(name) > 1 and name[0] == name[-1] == '"':
                found.append(f"{field} names columns as they are, without double quotes: {name[1:-1]}")
            if not is_expression(expression, database):
                of = f' for "{name}"' if name is not None else ""
                found.append(f"{field} must hold an expression{of}, not a list or a statement")
        if params.transform is not None:
            gives = params.transform.gives
            found += [f'`gives` names "{name}" twice' for name in {one for one in gives if gives.count(one) > 1}]
            found += [f'"{name}" is in `set` and in `gives`' for name in gives if name in params.set]
        aliases = [lookup.alias for lookup in params.lookups]
        found += [f'two `lookups` are called "{name}"' for name in {one for one in aliases if aliases.count(one) > 1}]
        return found

    def check(self, run: StepRun) -> None:
        """Leave it to the preparation, which finds what is wrong before anything is written."""

    def run(self, run: StepRun) -> None:
        """Walk the source and write the target."""
        self._walk(run)

    def observe(self, run: StepRun) -> Observed:
        """Look whether the walk came to its end."""
        return run.target.observe(run.key(WHOLE, FORWARD))

    def undo(self, run: StepRun) -> None:
        """Take out what was written, where it still is as it was written."""
        params: DataJobParams = run.params
        if params.reverse == "nothing" or not run.target.parts(run.key(0).execution, params.name, FORWARD):
            return
        self._walk(run)

    def shared(self, params: DataJobParams, target: Target, key: EffectKey, patience: Patience) -> Shared:
        """Return what this step offers to labourers, here or elsewhere."""
        return Shared(target.data_job(key, self.spec(params)), params.batch.target, params.batch.max, params.pause)

    def spec(self, params: DataJobParams) -> JobSpec:
        """Return what is asked of the database."""
        return JobSpec(
            source=params.source,
            target=params.target,
            assignments=params.set,
            columns=params.columns,
            where=params.where,
            lookups=[Lookup(one.table, one.alias, one.on, one.missing) for one in params.lookups],
            checks=params.checks,
            on_conflict=params.on_conflict,
            conflict=params.conflict,
            continue_on_error=params.continue_on_error,
            most_errors=params.max_errors,
            longest=params.row_timeout,
            reverse=params.reverse,
            environment=params.source_env,
            transform=_transform(params.transform) if params.transform is not None else None,
        )

    def _walk(self, run: StepRun) -> None:
        params: DataJobParams = run.params
        whole = run.key(WHOLE)
        if run.target.observe(whole) is Observed.DONE:
            return
        work = run.target.data_job(run.key(0), self.spec(params))
        forward = run.direction == FORWARD
        if work.stays is not None and not forward:
            run.note(f'the rows in "{work.target}" stay: {work.stays}')
            return
        settings = {
            "kind": self.kind,
            "target": work.target,
            "batch_size": params.batch.size,
            "target_ms": round(params.batch.target * 1000),
            "workers": params.workers,
            "throttle_ms": round(params.pause * 1000),
            "script": _said(params),
            "filter": params.where,
            "max_retries": params.retries,
            "continue_on_error": params.continue_on_error,
            "columns": list(work.columns),
            "key": list(work.key),
        }
        if forward:
            left = Remainder.of(work.progress(loose=True))
        else:
            # A job that stopped half-way is undone as far as it came: rows it never wrote are not its business.
            left = Remainder.within(work.progress(FORWARD), work.progress(loose=True))
        record = run.recording(work, work.source, settings)
        walk = Walk(
            Shared(work, params.batch.target, params.batch.max, params.pause),
            left,
            size=params.batch.size,
            workers=params.workers,
            patience=run.patience.work,
            boundary=run.boundary,
            pace=run.pace,
            slots=run.slots,
            note=record.note,
        )
        try:
            walk.go()
            if forward:
                work.finish(run.note)
            elif taken := work.take_back_corrected():
                run.note(f"{taken:,} rows that were written with corrected values are taken out too")
        except BaseException as error:
            record.stop(error)
            raise
        # In this order: once it is marked, nobody would come by here again to close the record.
        record.finish()
        run.target.mark(whole, {"rows": walk.rows})


def _transform(fields: TransformFields) -> Transform:
    return Transform(fields.python, fields.gives, fields.contents, fields.timeout, fields.memory)


def _said(params: DataJobParams) -> str:
    """Return the transformation as the store keeps it: in one line, and below it the text of its function's file."""
    line = ", ".join(f"{name} = {expression}" for name, expression in params.set.items())
    if params.transform is None:
        return line
    function = f"{', '.join(params.transform.gives)} = python {params.transform.python}"
    return "\n".join([", ".join(filter(None, (line, function))), params.transform.script.written or ""])


def _insert(params: DataJobParams) -> str:
    """Return the statement for parsing and prediction; what runs is composed by the database with quoted names."""
    joins = "".join(
        f"\n{'' if one.missing == 'skip' else 'LEFT '}JOIN {one.table} AS {quoted(one.alias)} ON "
        + " AND ".join(f"{quoted(one.alias)}.{quoted(name)} = (\n{given}\n)" for name, given in one.on.items())
        for one in params.lookups
    )
    into, what = "", "*"
    given = {**params.set, **dict.fromkeys(params.transform.gives if params.transform else (), "NULL")}
    if given:
        into = f" ({', '.join(map(quoted, given))})"
        what = ", ".join(f"(\n{expression}\n)" for expression in given.values())
    where = f"\nWHERE (\n{params.where}\n)" if params.where else ""
    return f"INSERT INTO {params.target}{into}\nSELECT {what} FROM {params.source}{joins}{where}"


STEP: Any = DataJobStep()
