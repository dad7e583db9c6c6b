"""What a plan will do to a running application, told from its statements alone: everything here is predicted.

No statistics are looked at, so the durations are those of a class of statement on a table of middling size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.model.impact import Duration, Lock, Statement
from segue.model.vocabulary import Level, StepType
from segue.planning import graph

if TYPE_CHECKING:
    from segue.planning.planfile import Plan
    from segue.ports import Database, StepKind

#: Seconds that a statement of a class takes on a table of about a gigabyte.
_SECONDS = {
    Duration.INSTANT: 0.5,
    Duration.SNAPSHOTS: 30.0,
    Duration.SCAN: 20.0,
    Duration.DATA: 60.0,
    Duration.INDEX_BUILD: 120.0,
    Duration.REWRITE: 180.0,
}
#: Seconds that a walk through a table in small batches takes.
_WALK = 600.0
#: Classes that last as long as a table is large.
LONG = (Duration.SCAN, Duration.INDEX_BUILD, Duration.REWRITE, Duration.DATA)
#: From the least to the worst.
RANK = list(Level)


@dataclass(frozen=True, slots=True)
class StepPrediction:
    """What one step will do.

    `duration` is how long its strongest lock is held. `undo` says how it is taken back, in words; None when it
    cannot be.
    """

    number: int
    name: str
    kind: str
    step_type: str
    statements: tuple[Statement, ...]
    reverse: tuple[Statement, ...]
    lock: Lock
    tables: tuple[str, ...]
    duration: Duration
    transactional: bool
    destroys: bool
    undo: str | None
    seconds: float
    risk: Level
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def blocks(self) -> str:
        """Return what of the application waits behind the step's locks."""
        return self.lock.blocks

    def as_json(self) -> dict[str, Any]:
        """Return the step's prediction for machines."""
        return {
            "number": self.number,
            "name": self.name,
            "kind": self.kind,
            "step_type": self.step_type,
            "lock": self.lock.value or None,
            "blocks": self.blocks,
            "duration_class": self.duration.value,
            "seconds": self.seconds,
            "transactional": self.transactional,
            "destroys": self.destroys,
            "undo": self.undo,
            "risk": self.risk.value,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "tables": list(self.tables),
            "statements": [_statement(statement) for statement in self.statements],
        }


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan will do: its steps in the order in which they run, and the whole in three words."""

    steps: tuple[StepPrediction, ...]
    complexity: Level
    risk: Level
    reasons: tuple[str, ...]
    minutes: int
    tables: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return the prediction for machines."""
        return {
            "predicted": True,
            "complexity": self.complexity.value,
            "risk_level": self.risk.value,
            "reasons": list(self.reasons),
            "estimated_minutes": self.minutes,
            "tables": list(self.tables),
            "steps": [step.as_json() for step in self.steps],
        }


def predict(plan: Plan, kinds: Mapping[str, StepKind], database: Database) -> Prediction:
    """Judge every step of a plan; the plan was read with the same database, so its SQL parses."""
    needs = {step.name: step.needs for step in plan.steps}
    numbers = {step.name: number for number, step in enumerate(plan.steps, 1)}
    by_name = {step.name: step for step in plan.steps}
    order = graph.order(needs)
    sent = _together([kinds[by_name[name].kind].statements(by_name[name], database) for name in order], database)
    steps = tuple(
        _step(numbers[name], by_name[name], kinds[by_name[name].kind], statements, database)
        for name, statements in zip(order, sent, strict=True)
    )
    tables = tuple(sorted({table for step in steps for table in step.tables}))
    reasons = tuple(f'step "{step.name}" {reason}' for step in steps for reason in step.reasons)
    return Prediction(
        steps=steps,
        complexity=_complexity(steps, tables, len(graph.levels(needs))),
        risk=max((step.risk for step in steps), key=RANK.index, default=Level.LOW),
        reasons=reasons,
        minutes=max(1, math.ceil(sum(step.seconds for step in steps) / 60)),
        tables=tables,
    )


def _together(sent: list[list[Statement]], database: Database) -> list[tuple[Statement, ...]]:
    """Judge all statements of a plan as one text: a table that an earlier step made has no users yet.

    And a CHECK that an earlier step validated spares a later one its scan.
    """
    judged = iter(database.statements(";\n".join(statement.sql for statements in sent for statement in statements)))
    return [tuple(next(judged) for _ in statements) for statements in sent]


def _step(
    number: int, params: Any, kind: StepKind, statements: tuple[Statement, ...], database: Database
) -> StepPrediction:
    reverse = tuple(kind.reverse(params, database))
    why_not = kind.irreversible(params)
    # Of a script its plan says what it does.
    step_type = str(getattr(params, "step_type", kind.step_type))
    walks = step_type == StepType.DATA_MIGRATION
    lock = max((statement.lock for statement in statements), key=lambda held: held.rank, default=Lock.NONE)
    seconds = _WALK if walks else sum(_SECONDS[statement.duration] for statement in statements)
    destroys = any(statement.destroys for statement in statements)
    together = len(statements) > 1 and bool(getattr(params, "transaction", False))
    risk, reasons = _risk(statements, walks=walks, together=together, irreversible=why_not, reverse=bool(reverse))
    if kind.effects and not statements and step_type != StepType.VALIDATION:
        # A program: it may do anything.
        risk = max(risk, Level.HIGH, key=RANK.index)
        reasons = [*reasons, f"cannot be analysed ({kind.kind})"]
    undo = None if why_not else getattr(params, "rollback_command", None) or _undo(step_type, reverse)
    return StepPrediction(
        number=number,
        name=params.name,
        kind=kind.kind,
        step_type=step_type,
        statements=statements,
        reverse=reverse,
        lock=lock,
        tables=tuple(dict.fromkeys(held.table for one in statements for held in one.locks if held.known)),
        # In one transaction the strongest lock is held until the end, by itself only for its own statement.
        duration=_longest(statements if together else tuple(one for one in statements if one.lock is lock)),
        transactional=all(statement.transactional for statement in statements),
        destroys=destroys,
        undo=undo,
        seconds=seconds,
        risk=risk,
        reasons=tuple(reasons),
        # What is said of one large UPDATE does not hold for the small batches of a walk.
        notes=()
        if walks or _stands_for_locks(kind, statements)
        else tuple(dict.fromkeys(note for one in statements for note in one.notes)),
    )


def _stands_for_locks(kind: StepKind, statements: tuple[Statement, ...]) -> bool:
    """Return whether statements only stand for the locks that a step takes by itself."""
    return kind.kind != "sql" and all(statement.verb == "LOCK TABLE" for statement in statements)


def _longest(statements: tuple[Statement, ...]) -> Duration:
    return max((one.duration for one in statements), key=lambda one: _SECONDS[one], default=Duration.INSTANT)


def _undo(step_type: str, reverse: tuple[Statement, ...]) -> str:
    if not reverse:
        return "nothing to undo" if step_type == StepType.VALIDATION else "values stay"
    verbs = list(dict.fromkeys(statement.verb for statement in reverse))
    return ", ".join(verbs[:2]) + (" …" if len(verbs) > 2 else "")


def _risk(
    statements: tuple[Statement, ...], *, walks: bool, together: bool, irreversible: str | None, reverse: bool
) -> tuple[Level, list[str]]:
    found: list[tuple[Level, str]] = []
    if together and not any(one.duration in LONG and one.lock.rank >= Lock.SHARE.rank for one in statements):
        lock = max((one.lock for one in statements), key=lambda one: one.rank)
        longest = max(statements, key=lambda one: _SECONDS[one.duration])
        if longest.duration in LONG and lock.rank >= Lock.SHARE.rank:
            level = Level.HIGH if lock is Lock.ACCESS_EXCLUSIVE else Level.MEDIUM
            found.append((level, f"blocks {lock.blocks} during {_a(longest)}: one transaction holds all its locks"))
    for statement in statements:
        unknown = [held for held in statement.locks if not held.known and held.lock is Lock.ACCESS_EXCLUSIVE]
        if statement.duration in LONG and statement.lock is Lock.ACCESS_EXCLUSIVE:
            found.append((Level.HIGH, f"blocks reads and writes during {_a(statement)} ({statement.verb})"))
        elif statement.duration in LONG and statement.lock.rank >= Lock.SHARE.rank:
            found.append((Level.MEDIUM, f"blocks writes during {_a(statement)} ({statement.verb})"))
        elif unknown and statement.verb in ("DO", "CALL"):
            found.append((Level.HIGH, f"cannot be analysed ({statement.verb})"))
        if statement.destroys and not walks:
            level = Level.CRITICAL if irreversible or not reverse else Level.HIGH
            tail = "" if level is Level.CRITICAL else "; its reverse brings back the shape, not the data"
            found.append((level, f"destroys data ({statement.verb}){tail}"))
        writes = any(held.lock is Lock.ROW_EXCLUSIVE for held in statement.locks)
        if not walks and writes and statement.duration in LONG:
            found.append((Level.MEDIUM, f"changes rows in one transaction ({statement.verb})"))
        if any("old name" in note or "old value" in note for note in statement.notes):
            found.append((Level.MEDIUM, f"breaks code that uses the old name ({statement.verb})"))
        if any(note.startswith("fails if") for note in statement.notes):
            found.append((Level.MEDIUM, f"fails on a table with rows ({statement.verb})"))
    if irreversible and not any(level is Level.CRITICAL for level, _ in found):
        found.append((Level.HIGH, f"cannot be undone: {irreversible}"))
    level = max((level for level, _ in found), key=RANK.index, default=Level.LOW)
    return level, list(dict.fromkeys(reason for _, reason in found))


def _a(statement: Statement) -> str:
    words = {Duration.INDEX_BUILD: "an index build", Duration.DATA: "a change of data"}
    return words.get(statement.duration, f"a {statement.duration.value}")


def _complexity(steps: tuple[StepPrediction, ...], tables: tuple[str, ...], depth: int) -> Level:
    walks = sum(step.step_type == StepType.DATA_MIGRATION for step in steps)
    points = len(steps) + 2 * len(tables) + 3 * walks + depth
    for limit, level in ((8, Level.LOW), (30, Level.MEDIUM), (80, Level.HIGH)):
        if points <= limit:
            return level
    return Level.CRITICAL


def _statement(statement: Statement) -> dict[str, Any]:
    return {
        "sql": statement.sql,
        "verb": statement.verb,
        "lock": statement.lock.value or None,
        "blocks": statement.lock.blocks,
        "locks": [{"table": held.table, "lock": held.lock.value, "named": held.known} for held in statement.locks],
        "duration_class": statement.duration.value,
        "transactional": statement.transactional,
        "destroys": statement.destroys,
        "notes": list(statement.notes),
    }
