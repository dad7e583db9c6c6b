"""A step that asks the target a question and compares the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from segue.engine.expectation import meets
from segue.errors import Differences
from segue.model.plans import Expectation, StepFields
from segue.ports import Database, Observed, StepRun

if TYPE_CHECKING:
    from segue.model.impact import Statement


class ValidateParams(StepFields):
    """A query and the result it must give: exactly one of `scalar`, `row`, `rows`."""

    kind: Literal["validate"] = "validate"
    query: str = Field(min_length=1, description="A SELECT that runs read-only on the target.")
    scalar: Any = Field(default=None, description="The single value expected.")
    row: list[Any] | None = Field(default=None, description="The single row expected, as a list.")
    rows: list[list[Any]] | None = Field(default=None, description="All rows expected, in order, each a list.")
    tolerance: float = Field(default=0.0, ge=0, le=1, description="Allowed relative difference of numbers.")

    @model_validator(mode="after")
    def _one_form(self) -> ValidateParams:
        given = [name for name in ("scalar", "row", "rows") if name in self.model_fields_set]
        if len(given) != 1:
            raise ValueError("an expected result is exactly one of scalar, row, rows")
        return self

    @property
    def expectation(self) -> Expectation:
        """Return query and result as one value."""
        given = {name: getattr(self, name) for name in ("scalar", "row", "rows") if name in self.model_fields_set}
        return Expectation(query=self.query, tolerance=self.tolerance, **given)


class ValidateStep:
    """See `segue.ports.StepKind`."""

    kind = "validate"
    step_type = "validation"
    effects = False
    Params = ValidateParams

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
        names, rows = run.target.query(run.params.query, run.patience.work)
        answer = meets(run.params.expectation, rows)
        run.note(answer.said, validation=answer.as_json(run.params.query, names))
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
