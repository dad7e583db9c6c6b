"""A step that waits for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segue.engine.control import MustWait
from segue.model.plans import StepFields
from segue.ports import Database, Observed, StepRun

if TYPE_CHECKING:
    from pathlib import Path

    from segue.model.impact import Statement


class ApprovalParams(StepFields):
    """A person must approve before anything that needs this step goes on."""

    kind: Literal["approval"] = "approval"
    message: str = Field(default="", description="What the person should look at before approving.")


class ApprovalStep:
    """See `segue.ports.StepKind`."""

    kind = "approval"
    step_type = "validation"
    effects = False
    parallel = True
    Params = ApprovalParams

    def prepare(self, params: ApprovalParams, folder: Path | None) -> ApprovalParams:
        """Return the fields as they are: they name no file."""
        return params

    def statements(self, params: ApprovalParams, database: Database) -> list[Statement]:
        """Return nothing: the target is not touched."""
        return []

    def reverse(self, params: ApprovalParams, database: Database) -> list[Statement]:
        """Return nothing: there is nothing to take back."""
        return []

    def irreversible(self, params: ApprovalParams) -> str | None:
        """Return None: nothing was changed."""
        return None

    def problems(self, params: ApprovalParams, database: Database) -> list[str]:
        """Return what says the same twice."""
        if params.approval:
            return ["`approval` is what this kind of step is; leave it out"]
        return []

    def check(self, run: StepRun) -> None:
        """Nothing to check beforehand."""

    def run(self, run: StepRun) -> None:
        """Go on when there is an approval that counts; wait for one otherwise."""
        params: ApprovalParams = run.params
        given = run.approval()
        if given is None:
            raise MustWait(
                "approval",
                f'step "{params.name}" waits for an approval' + (f": {params.message}" if params.message else ""),
                step=params.name,
            )
        run.note(f"approved by {given.by}: {given.reason}", by=given.by, reason=given.reason)

    def observe(self, run: StepRun) -> Observed:
        """Ask again: an approval may have been taken back."""
        return Observed.NOT_DONE

    def undo(self, run: StepRun) -> None:
        """Nothing was changed."""


STEP: Any = ApprovalStep()
