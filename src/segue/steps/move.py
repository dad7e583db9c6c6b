"""A step of a live move: tables to another database, copied and followed, or switched to there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from segue.errors import Blocked
from segue.model.plans import Seconds, StepFields
from segue.model.quantities import duration
from segue.ports import FORWARD, Database, Observed, StepRun

if TYPE_CHECKING:
    from pathlib import Path

    from segue.model.impact import Statement

#: The part under which the target's history has the step as a whole.
WHOLE = -2
SOURCE, TARGET = "source", "target"


class MoveParams(StepFields):
    """Move tables to another database while the application goes on, or switch to there."""

    kind: Literal["move"] = "move"
    action: Literal["start", "switch"] = Field(
        description="`start`: copy the tables, follow what is written, and arm the way back; undone by giving the move "
        "up, unless it was switched. `switch`: close this environment's tables and open those over there; undone by "
        "the same, reversed."
    )
    move: str = Field(description="The move's name, as `segue move status` takes it.")
    to: str | None = Field(default=None, description="`start`: the environment that the tables move to.")
    tables: list[str] = Field(default_factory=list, description="`start`: the tables, as SQL writes their names.")
    make_tables: bool = Field(
        default=False,
        description="`start`: make the tables on the target, as they are here; their indexes after the copy.",
    )
    read_only: bool = Field(
        default=False,
        description="`start`: keep the target as a read-only copy for good; the tables' home stays here.",
    )
    workers: int = Field(default=2, ge=1, le=64, description="`start`: tables that are copied at a time.")
    budget: Seconds = Field(
        default=2.0, gt=0, description="`switch`: the longest that writes may stop; beyond it, everything is undone."
    )
    margin: int = Field(
        default=1000, ge=1, description="`switch`: values of each sequence left to the side that closes."
    )
    lock_timeout: Seconds = Field(default=60.0, description="How long to try for the tables' locks.")
    timeout: Seconds = Field(default=7 * 86400.0, description="The longest the step may take.")

    @model_validator(mode="after")
    def _whole(self) -> MoveParams:
        if not re.fullmatch(r"[a-z0-9]{1,16}", self.move):
            raise ValueError(f'"{self.move}" cannot name a move: at most 16 lower-case letters and digits')
        if self.action == "start" and not (self.to and self.tables):
            raise ValueError("`start` needs `to` and `tables`")
        return self


class MoveStep:
    """See `segue.ports.StepKind`."""

    kind = "move"
    step_type = "data-migration"
    effects = True
    parallel = False
    Params = MoveParams

    def prepare(self, params: MoveParams, folder: Path | None) -> MoveParams:
        """Return the fields as they are: they name no file."""
        return params

    def statements(self, params: MoveParams, database: Database) -> list[Statement]:
        """Return the locks of the triggers that will close the tables."""
        return [
            statement
            for table in params.tables
            for statement in database.statements(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        ]

    def reverse(self, params: MoveParams, database: Database) -> list[Statement]:
        """Return the same locks: the triggers are removed under them."""
        return self.statements(params, database)

    def irreversible(self, params: MoveParams) -> str | None:
        """Return why a person has said that there is no way back."""
        return params.irreversible

    def problems(self, params: MoveParams, database: Database) -> list[str]:
        """Return fields that have no meaning beside the action."""
        foreign = {"start": {"budget", "margin"}, "switch": {"to", "tables", "make_tables", "read_only", "workers"}}[
            params.action
        ]
        return [
            f"`{name}` has no meaning beside `action: {params.action}`"
            for name in sorted(foreign & params.model_fields_set)
        ]

    def check(self, run: StepRun) -> None:
        """Leave it to the move, which looks at both databases before anything is made."""

    def run(self, run: StepRun) -> None:
        """Start or switch the move."""
        params: MoveParams = run.params
        if run.target.observe(run.key(WHOLE, FORWARD)) is Observed.DONE:
            return
        run.boundary()
        if params.action == "start":
            self._start(run, params)
        else:
            self._switch(run, params)
        self._written(run, f"move {params.move}: {params.action}")

    def observe(self, run: StepRun) -> Observed:
        """Look what the target's history says."""
        return run.target.observe(run.key(WHOLE, FORWARD))

    def undo(self, run: StepRun) -> None:
        """Give the move up, or switch back, as far as it came."""
        params: MoveParams = run.params
        driver = run.moves().find(params.move, run.patience, run.note)
        if driver is None:
            if run.target.observe(run.key(WHOLE, FORWARD)) is Observed.DONE and params.action == "switch":
                raise Blocked(
                    f'the move "{params.move}" was completed: nothing is followed any more, so there is no way back',
                    hint="move the tables back with a new move, from there to here",
                )
        elif params.action == "start":
            if driver.look().switches:
                # The application may still write over there: only the fence makes it look for the tables anew.
                run.note(
                    f"the tables are open here again, and closed over there; once the application is back, "
                    f"`segue move cancel {params.move}` removes what is left"
                )
            else:
                driver.cancel()
        else:
            driver.turn(SOURCE, budget=params.budget, margin=params.margin)
        self._written(run, f"move {params.move}: {params.action}, taken back")

    def _start(self, run: StepRun, params: MoveParams) -> None:
        driver = run.moves().begin(
            params.move,
            params.to or "",
            params.tables,
            run.patience,
            run.note,
            make_tables=params.make_tables,
            read_only=params.read_only,
        )
        done = driver.start(params.workers)
        run.keep(tables=dict(done.tables), seconds=round(done.seconds, 3))
        if done.copied:
            rows = sum(done.tables.values())
            run.note(f"{rows:,} rows of {len(done.tables)} tables in {duration(done.seconds)}; the target follows")

    def _switch(self, run: StepRun, params: MoveParams) -> None:
        driver = run.moves().find(params.move, run.patience, run.note)
        if driver is None:
            raise Blocked(
                f'there is no move "{params.move}" to switch', hint="a step before this one starts it (`action: start`)"
            )
        done = driver.turn(TARGET, budget=params.budget, margin=params.margin)
        if done is not None:
            run.keep(pause_ms=round(done.stopped * 1000, 1), drain_ms=round(done.drain * 1000, 1))
            run.note(f"the target is open; writes stopped for {duration(done.stopped)}")

    def _written(self, run: StepRun, words: str) -> None:
        """Write in the target's history that this is done."""
        run.do(WHOLE, run.database.statements("SELECT '" + words.replace("'", "''") + "'"))


STEP: Any = MoveStep()
