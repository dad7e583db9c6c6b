"""A step that fills columns of a table in key order, in short transactions, and can stop and go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segue.model.plans import Batch, PlanModel, Seconds, StepFields
from segue.planning.expressions import is_expression, quoted
from segue.ports import FORWARD, BackfillSpec, Database, NotOffered, Observed, Shared, StepRun
from segue.rows.chunks import Remainder
from segue.rows.walk import Walk

if TYPE_CHECKING:
    from pathlib import Path

    from segue.model.impact import Statement
    from segue.ports import EffectKey, Patience, Target

# The part of a backfill's history that says "all of it".
WHOLE = -2


class BackfillReverse(PlanModel):
    """What a rollback writes, the same way."""

    set: dict[str, str] = Field(min_length=1, description="SQL expression by column.")
    where: str | None = Field(default=None, description="Which rows; SQL.")


class BackfillParams(StepFields):
    """Fill columns of every row, in batches that follow the time they take."""

    kind: Literal["backfill"] = "backfill"
    table: str = Field(min_length=1, description="The table, as SQL writes it.")
    set: dict[str, str] = Field(min_length=1, description="SQL expression by column; it may use the row's columns.")
    where: str | None = Field(default=None, description="Which rows need it; SQL.")
    batch: Batch = Field(default_factory=Batch)
    workers: int = Field(default=1, ge=1, le=32, description="Batches written at the same time.")
    pause: Seconds = Field(default=0.0, description="Wait after each batch, to spare the server.")
    reverse: Literal["nothing"] | BackfillReverse = Field(
        default="nothing",
        description="What a rollback does: `nothing` when the values may stay or go with their column, or a backfill.",
    )
    timeout: Seconds = Field(default=86400.0, description="The longest the step may take.")


class BackfillStep:
    """See `segue.ports.StepKind`."""

    kind = "backfill"
    step_type = "data-migration"
    effects = True
    parallel = True
    Params = BackfillParams

    def prepare(self, params: BackfillParams, folder: Path | None) -> BackfillParams:
        """Return the fields as they are: they name no file."""
        return params

    def statements(self, params: BackfillParams, database: Database) -> list[Statement]:
        """Return the statement that every batch sends, without its range."""
        return database.statements(_update(params.table, params.set, params.where))

    def reverse(self, params: BackfillParams, database: Database) -> list[Statement]:
        """Return the statement that every batch of the undo sends."""
        if params.reverse == "nothing":
            return []
        return database.statements(_update(params.table, params.reverse.set, params.reverse.where))

    def irreversible(self, params: BackfillParams) -> str | None:
        """Return why the step cannot be undone."""
        return params.irreversible

    def problems(self, params: BackfillParams, database: Database) -> list[str]:
        """Return which piece of SQL smuggles in more than an expression; a syntax error is raised with its place."""
        self.statements(params, database)
        self.reverse(params, database)
        # Each by itself: a parenthesis too many in a filter would step out of the range of keys beside it.
        pieces: list[tuple[str, str | None, str]] = [("`set`", *assigned) for assigned in params.set.items()]
        if params.where is not None:
            pieces.append(("`where`", None, params.where))
        if params.reverse != "nothing":
            pieces += [("`reverse`: `set`", *assigned) for assigned in params.reverse.set.items()]
            if params.reverse.where is not None:
                pieces.append(("`reverse`: `where`", None, params.reverse.where))
        found = []
        for field, name, expression in pieces:
            if name is not None and len(name) > 1 and name[0] == name[-1] == '"':
                found.append(f"{field} names columns as they are, without double quotes: {name[1:-1]}")
            if not is_expression(expression, database):
                of = f' for "{name}"' if name is not None else ""
                found.append(f"{field} must hold an expression{of}, not a list or a statement")
        return found

    def check(self, run: StepRun) -> None:
        """Leave it to the preparation, which finds what is wrong before anything is written."""

    def run(self, run: StepRun) -> None:
        """Walk the table and fill the columns."""
        self._walk(run)

    def observe(self, run: StepRun) -> Observed:
        """Look whether the walk came to its end."""
        return run.target.observe(run.key(WHOLE, FORWARD))

    def undo(self, run: StepRun) -> None:
        """Walk again with the reverse, if there is one and anything was written."""
        params: BackfillParams = run.params
        if params.reverse == "nothing" or not run.target.parts(run.key(0).execution, params.name, FORWARD):
            return
        self._walk(run)

    def shared(self, params: BackfillParams, target: Target, key: EffectKey, patience: Patience) -> Shared:
        """Return what this step offers to labourers, here or elsewhere."""
        work = target.backfill(key, _spec(params, key.direction), patience)
        return Shared(work, params.batch.target, params.batch.max, params.pause)

    def _walk(self, run: StepRun) -> None:
        params: BackfillParams = run.params
        whole = run.key(WHOLE)
        if run.target.observe(whole) is Observed.DONE:
            return
        shared = self.shared(params, run.target, run.key(0), run.patience)
        work = shared.work
        spec = _spec(params, run.direction)
        settings = {
            "batch_size": params.batch.size,
            "target_ms": round(params.batch.target * 1000),
            "workers": params.workers,
            "throttle_ms": round(params.pause * 1000),
            "script": ", ".join(f"{name} = {expression}" for name, expression in spec.assignments.items()),
            "filter": spec.where,
            "max_retries": params.retries,
            "key": list(work.key),
        }
        if run.direction == FORWARD:
            left = Remainder.of(work.progress(loose=True))
        else:
            # A backfill that stopped half-way is undone as far as it came: rows it never wrote are not its business.
            left = Remainder.within(work.progress(FORWARD), work.progress(loose=True))
        record = run.recording(work, spec.table, settings)
        walk = Walk(
            shared,
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
        except BaseException as error:
            record.stop(error)
            raise
        # In this order: once it is marked, nobody would come by here again to close the record.
        record.finish()
        run.target.mark(whole, {"rows": walk.rows})


def _spec(params: BackfillParams, direction: str) -> BackfillSpec:
    """Return what is written on the way forward, or back."""
    if direction == FORWARD:
        return BackfillSpec(params.table, params.set, params.where)
    if params.reverse == "nothing":
        raise NotOffered(f'step "{params.name}" writes nothing on the way back')
    return BackfillSpec(params.table, params.reverse.set, params.reverse.where)


def _update(table: str, assignments: dict[str, str], where: str | None) -> str:
    """Return the statement for parsing and prediction; what runs is composed by the database with quoted names."""
    written = "\n, ".join(f"{quoted(name)} = {expression}" for name, expression in assignments.items())
    return f"UPDATE {table} SET {written}" + (f"\nWHERE (\n{where}\n)" if where else "")  # noqa: S608


STEP: Any = BackfillStep()
