"""A step that waits for a time, a window, or until the target shows something."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from segue import clock
from segue.engine.control import MustWait
from segue.engine.expectation import meets, wanted
from segue.errors import InvalidInput, StepFailed
from segue.model.plans import Expectation, Seconds, StepFields
from segue.model.quantities import duration
from segue.model.windows import Window, parse_moment
from segue.ports import Database, Observed, StepRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segue.model.impact import Statement

# What is left of a wait when it is not worth giving the target back.
SHORT = 2.0
# The longest that one asking of a condition may take: while it runs, the target is held.
ASKING = 60.0
FORMS = ("for", "until", "window", "condition")


def _readable(read: Callable[[str], object]) -> AfterValidator:
    """Return a validator that keeps a text as it is written, once it was understood."""

    def check(text: str) -> str:
        try:
            read(text)
        except InvalidInput as error:
            raise ValueError(error.message + (f"; {error.hint}" if error.hint else "")) from error
        return text

    return AfterValidator(check)


class WaitParams(StepFields):
    """Wait for exactly one of: a length of time, a moment, a window, a condition on the target."""

    kind: Literal["wait"] = "wait"
    lasting: Seconds | None = Field(
        default=None, alias="for", description="How long to wait, from when the step began for the first time."
    )
    until: Annotated[str, _readable(parse_moment)] | None = Field(
        default=None, description="The moment to wait for, with its time zone."
    )
    window: Annotated[str, _readable(Window.parse)] | None = Field(
        default=None, description="The window to wait for; the step is done once it is open."
    )
    condition: Expectation | None = Field(
        default=None, description="A query on the target, and the result to wait for."
    )
    every: Seconds = Field(default=10.0, ge=0.1, description="How often the condition is asked for, at first.")
    timeout: Seconds = Field(default=86400.0, description="The longest to wait for the condition.")

    @model_validator(mode="after")
    def _one_form(self) -> WaitParams:
        given = [self.lasting, self.until, self.window, self.condition]
        if sum(form is not None for form in given) != 1:
            raise ValueError("a wait needs exactly one of " + ", ".join(FORMS))
        return self


class WaitStep:
    """See `segue.ports.StepKind`."""

    kind = "wait"
    step_type = "validation"
    effects = False
    parallel = True
    Params = WaitParams

    def prepare(self, params: WaitParams, folder: Path | None) -> WaitParams:
        """Return the fields as they are: they name no file."""
        return params

    def statements(self, params: WaitParams, database: Database) -> list[Statement]:
        """Return the query of the condition."""
        return database.statements(params.condition.query) if params.condition is not None else []

    def reverse(self, params: WaitParams, database: Database) -> list[Statement]:
        """Return nothing: there is nothing to take back."""
        return []

    def irreversible(self, params: WaitParams) -> str | None:
        """Return None: nothing was changed."""
        return None

    def problems(self, params: WaitParams, database: Database) -> list[str]:
        """Return what has no meaning beside the form given, and why the condition cannot be asked."""
        if params.condition is None:
            given = params.model_fields_set & {"every", "timeout"}
            return [f"`{name}` goes with `condition` only" for name in sorted(given)]
        statements = database.statements(params.condition.query)
        if len(statements) != 1 or statements[0].verb != "SELECT" or statements[0].lock.rank > 1:
            return ["`condition`: `query` must be one SELECT that only reads"]
        return []

    def check(self, run: StepRun) -> None:
        """Nothing to check beforehand."""

    def run(self, run: StepRun) -> None:
        """Return when the wait is over; sleep through what is short, and wait without a process for what is not."""
        params: WaitParams = run.params
        if params.condition is not None:
            self._condition(run, params.condition)
            return
        while True:
            kind, due = self._due(run)
            if due is None:
                return
            left = (due - clock.now()).total_seconds()
            if left > SHORT:
                words = f'step "{params.name}" waits until {due:%Y-%m-%d %H:%M:%S} UTC'
                raise MustWait(kind, words, due=due, step=params.name)
            _sleep(run, left)

    def observe(self, run: StepRun) -> Observed:
        """Look again: a window closes, and a condition may have ceased to hold."""
        return Observed.NOT_DONE

    def undo(self, run: StepRun) -> None:
        """Nothing was changed."""

    @staticmethod
    def _due(run: StepRun) -> tuple[str, datetime | None]:
        """Return what is waited for and when to look again; None when the wait is over."""
        params: WaitParams = run.params
        now = clock.now()
        if params.window is not None:
            window = Window.parse(params.window)
            return "window", None if window.open_at(now) is not None else window.next_opening(now)
        if params.until is not None:
            due = parse_moment(params.until)
        else:
            due = run.began() + timedelta(seconds=params.lasting or 0)
        return "time", due if due > now else None

    @staticmethod
    def _condition(run: StepRun, condition: Expectation) -> None:
        params: WaitParams = run.params
        slept = 0.0
        while True:
            _, rows = run.target.query(condition.query, min(run.patience.work, ASKING), limit=wanted(condition))
            answer = meets(condition, rows)
            if answer.passed:
                run.note(f"the condition holds: {answer.said}")
                return
            now = clock.now()
            end = run.began() + timedelta(seconds=params.timeout)
            if now >= end:
                raise StepFailed(
                    f'step "{params.name}": the condition does not hold after {duration(params.timeout)}: '
                    + answer.said,
                    details=[" ".join(condition.query.split())[:300]],
                    hint="nothing was changed by this step; run again when it holds, or roll back",
                )
            slept += params.every
            if slept > SHORT:
                raise MustWait(
                    "condition",
                    f'step "{params.name}" waits for its condition: {answer.said}',
                    # Each look leaves its entries in log and ledger: what has lasted for hours is asked for rarely.
                    due=min(now + max(timedelta(seconds=params.every), (now - run.began()) / 10), end),
                    step=params.name,
                )
            _sleep(run, params.every)


def _sleep(run: StepRun, seconds: float) -> None:
    """Wait a little, where the run can be stopped at any time."""
    until = clock.ticks() + seconds
    while (left := until - clock.ticks()) > 0:
        run.boundary()
        clock.sleep(min(left, 0.2))


STEP: Any = WaitStep()
