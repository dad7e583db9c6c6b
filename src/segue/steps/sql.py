"""A step that sends SQL statements, each with the locks and time-outs that fit it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segue.model.plans import Seconds, StepFields
from segue.ports import FORWARD, Database, Observed, StepRun

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segue.model.impact import Statement


class SqlParams(StepFields):
    """One or more SQL statements."""

    kind: Literal["sql"] = "sql"
    sql: str = Field(min_length=1, description="The statements, separated by semicolons.")
    reverse: str | list[str] | None = Field(
        default=None,
        description="SQL that takes the step back. A list has one entry for each statement, undone last to first.",
    )
    transaction: bool = Field(
        default=False, description="Run all statements in one transaction; otherwise each in its own."
    )
    lock_timeout: Seconds = Field(
        default=60.0, description="How long to try for locks, in slices short enough that nobody queues behind them."
    )


class SqlStep:
    """See `segue.ports.StepKind`."""

    kind = "sql"
    step_type = "schema-change"
    effects = True
    parallel = False
    Params = SqlParams

    def prepare(self, params: SqlParams, folder: Path | None) -> SqlParams:
        """Return the fields as they are: they name no file."""
        return params

    def statements(self, params: SqlParams, database: Database) -> list[Statement]:
        """Return the statements of the step."""
        return database.statements(params.sql)

    def reverse(self, params: SqlParams, database: Database) -> list[Statement]:
        """Return the statements that take the step back, in the order in which they are sent."""
        return [statement for _, group in self._undo_groups(params, database) for statement in group]

    def irreversible(self, params: SqlParams) -> str | None:
        """Return why the step cannot be undone."""
        if params.irreversible:
            return params.irreversible
        return None if params.reverse else "the step gives no `reverse`"

    def problems(self, params: SqlParams, database: Database) -> list[str]:
        """Return what cannot work about the statements together."""
        statements = self.statements(params, database)
        found = []
        if not statements:
            found.append("the step holds no statement")
        if params.reverse and params.irreversible:
            found.append("a step has either `reverse` or `irreversible`, not both")
        if not params.reverse and not params.irreversible:
            found.append("say how the step is undone with `reverse`, or why it cannot be with `irreversible`")
        alone = [statement.verb for statement in statements if not statement.transactional]
        if params.transaction and alone:
            found.append(f"{alone[0]} cannot run in a transaction; put it in a step of its own")
        count = len(self._groups(params, statements))
        if isinstance(params.reverse, list) and len(params.reverse) != count:
            found.append(
                f"`reverse` lists {len(params.reverse)} entries for {count} statements; "
                "give one for each, in the same order"
            )
        if len(statements) > 1 and not params.transaction and isinstance(params.reverse, str):
            found.append(
                "several statements that run one by one need a `reverse` list with one entry for each, so that a step "
                "that stopped half-way can be undone; or set `transaction: true`"
            )
        if params.reverse:
            self.reverse(params, database)
        return found

    def check(self, run: StepRun) -> None:
        """Nothing beyond what the server itself refuses before it changes anything."""

    def run(self, run: StepRun) -> None:
        """Send the statements, each once."""
        params: SqlParams = run.params
        for part, group in enumerate(self._groups(params, self.statements(params, run.database))):
            run.boundary()
            run.do(part, group)

    def observe(self, run: StepRun) -> Observed:
        """Look which statements the target has seen."""
        groups = self._groups(run.params, self.statements(run.params, run.database))
        parts = run.target.parts(run.key(0).execution, run.params.name, FORWARD)
        done = sum(1 for part in range(len(groups)) if parts.get(part) is Observed.DONE)
        if done == len(groups):
            return Observed.DONE
        return Observed.CANNOT_TELL if Observed.CANNOT_TELL in parts.values() else Observed.NOT_DONE

    def undo(self, run: StepRun) -> None:
        """Take back, last first, the statements that took effect."""
        params: SqlParams = run.params
        done = run.target.parts(run.key(0).execution, params.name, FORWARD)
        groups = self._groups(params, self.statements(params, run.database))
        if not done:
            return
        for part, group in enumerate(groups):
            if done.get(part) is Observed.CANNOT_TELL:
                run.settle(part, group)
        done = run.target.parts(run.key(0).execution, params.name, FORWARD)
        for part, (undoes, group) in enumerate(self._undo_groups(params, run.database)):
            if done.get(undoes) is not Observed.DONE:
                continue
            run.boundary()
            run.do(part, group)

    @staticmethod
    def _groups(params: SqlParams, statements: Sequence[Statement]) -> list[list[Statement]]:
        if params.transaction:
            return [list(statements)]
        return [[statement] for statement in statements]

    def _undo_groups(self, params: SqlParams, database: Database) -> list[tuple[int, list[Statement]]]:
        """Return what an undo sends: which part it undoes, and the statements."""
        if params.reverse is None:
            return []
        if isinstance(params.reverse, str):
            statements = database.statements(params.reverse)
            # One transaction when it can be: an undo that stops half-way helps nobody.
            if all(statement.transactional for statement in statements):
                return [(0, statements)] if statements else []
            return [(0, [statement]) for statement in statements]
        groups: list[tuple[int, list[Statement]]] = []
        for part in reversed(range(len(params.reverse))):
            statements = database.statements(params.reverse[part])
            if all(statement.transactional for statement in statements):
                groups += [(part, statements)] if statements else []
            else:
                groups += [(part, [statement]) for statement in statements]
        return groups


STEP: Any = SqlStep()
