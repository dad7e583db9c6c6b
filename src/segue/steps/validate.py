"""A step that asks the target a question and compares the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from segue import clock
from segue.engine.expectation import meets, wanted
from segue.errors import Differences
from segue.model.plans import Expectation, StepFields
from segue.ports import Database, Observed, StepRun

if TYPE_CHECKING:
    from pathlib import Path

    from segue.model.impact import Statement


class ValidateParams(Expectation, StepFields):
    """A query and the result it must give: exactly one of `scalar`, `row`, `rows`."""

    kind: Literal["validate"] = "validate"


class ValidateStep:
    """See `segue.ports.StepKind`."""

    kind = "validate"
    step_type = "validation"
    effects = False
    parallel = True
    Params = ValidateParams

    def prepare(self, params: ValidateParams, folder: Path | None) -> ValidateParams:
        """Return the fields as they are: they name no file."""
        return params

    def statements(self, params: ValidateParams, database: Database) -> list[Statement]:
        """Return the query."""
        return database.statements(params.query)

    def reverse(self, params: ValidateParams, database: Database) -> list[Statement]:
        """Return nothing: a question needs no undo."""
        return []

    def irreversible(self, params: ValidateParams) -> str | None:
        """Return None: a question can always be taken back."""
        return None

    def problems(self, params: ValidateParams, database: Database) -> list[str]:
        """Return why the query cannot be asked."""
        statements = database.statements(params.query)
        if len(statements) != 1 or not statements[0].verb.startswith(("SELECT", "TABLE", "VALUES", "SHOW")):
            return ["`query` must be exactly one SELECT"]
        return []

    def check(self, run: StepRun) -> None:
        """Nothing to check beforehand."""

    def run(self, run: StepRun) -> None:
        """Ask, compare, and raise Differences when the answer is another."""
        began = clock.ticks()
        names, rows = run.target.query(run.params.query, run.patience.work, limit=wanted(run.params))
        answer = meets(run.params, rows)
        run.note(answer.said, validation=answer.as_json(run.params.query, names, clock.ticks() - began))
        if not answer.passed:
            raise Differences(
                f'step "{run.params.name}": {answer.said}',
                details=[" ".join(run.params.query.split())[:300]],
                hint="correct the data or the expectation, then run again; nothing was changed by this step",
            )

    def observe(self, run: StepRun) -> Observed:
        """Ask again: an answer may have changed since."""
        return Observed.NOT_DONE

    def undo(self, run: StepRun) -> None:
        """Nothing was changed."""


STEP: Any = ValidateStep()
