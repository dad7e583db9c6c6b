"""A prediction made sharper by what a target shows: how long each lock is held there, who waits, what it risks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.model.facts import ChangeFacts, Holder, StatementFacts, TableFacts, TargetFacts, Touched
from segue.model.impact import Duration, Lock
from segue.model.quantities import count, duration, size
from segue.model.vocabulary import Level, StepType
from segue.planning import graph
from segue.planning.prediction import LONG, RANK, Prediction, StepPrediction

if TYPE_CHECKING:
    from datetime import datetime

    from segue.planning.planfile import Plan

#: Seconds for which a lock may be held before it counts as a low, a medium, a high risk; beyond the last: critical.
_READS_WAIT = (0.2, 2.0, 30.0)
_WRITES_WAIT = (0.5, 10.0, 120.0)
#: Rows that one transaction changes, by the same measure.
_ROWS_AT_ONCE = (10_000, 1_000_000, 100_000_000)
#: Statements a second from which a table is busy: even a lock of a moment is felt there.
BUSY = 1000.0
#: Statements that would queue from which a risk counts one level higher.
QUEUED = 500
#: Bytes from which a table is large: whatever is done to it is felt.
LARGE = 100_000_000_000
#: Tables listed one by one in what is kept; a table may have thousands of partitions.
LISTED = 200
#: Seconds from which a session in the way is worth a word.
IN_THE_WAY = 5.0


@dataclass(frozen=True, slots=True)
class Queue:
    """What of the application would wait behind a step's locks: statements a second now, and in all while it holds."""

    per_second: float
    statements: int

    def as_json(self) -> dict[str, Any]:
        """Return the queue for machines."""
        return {"statements_per_second": self.per_second, "statements": self.statements}


@dataclass(frozen=True, slots=True)
class WalkEstimate:
    """What a walk through a table in batches comes to."""

    keys: int
    rows: int
    batches: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the estimate for machines."""
        return {"keys": self.keys, "rows": self.rows, "batches": self.batches, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class AssessedStep:
    """One step on one target.

    `seconds` is the work, None where it cannot be told; `held` how long the lock is held that keeps the application
    out, 0 where none does.
    """

    predicted: StepPrediction
    facts: tuple[StatementFacts, ...]
    lock: Lock
    duration: Duration
    touched: tuple[Touched, ...]
    rows: int | None
    bytes: int
    seconds: float | None
    held: float | None
    walk: WalkEstimate | None
    queue: Queue | None
    waits_for: tuple[Holder, ...]
    waits_unseen: int
    risk: Level
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    change: ChangeFacts | None = None

    @property
    def name(self) -> str:
        """Return the step's name."""
        return self.predicted.name

    @property
    def does(self) -> str:
        """Return the step's work in words."""
        if self.change is not None and self.change.seconds:
            much = f"{count(self.change.rows)} rows of {_few(self.change.tables)} ({size(self.change.bytes)})"
            return f"copies {much} beside the application, builds the indexes, and compares every row"
        words = [one.does for one in self.facts if one.does and one.does != "changes the catalogue only"]
        if self.walk is not None:
            return f"walks {count(self.walk.keys)} keys in about {count(self.walk.batches)} batches"
        return "; ".join(dict.fromkeys(words)) or (self.facts[0].does if self.facts else "")

    def as_json(self) -> dict[str, Any]:
        """Return the step for machines."""
        return {
            "number": self.predicted.number,
            "name": self.name,
            "kind": self.predicted.kind,
            "lock": self.lock.value or None,
            "blocks": self.lock.blocks,
            "duration_class": self.duration.value,
            "does": self.does,
            "rows": self.rows,
            "bytes": self.bytes,
            "seconds": _rounded(self.seconds),
            "held_seconds": _rounded(self.held),
            "walk": self.walk.as_json() if self.walk is not None else None,
            "change": self.change.as_json() if self.change is not None else None,
            "tables": [one.as_json() for one in self.touched[:LISTED]],
            "tables_more": max(0, len(self.touched) - LISTED),
            "waits_for": [one.as_json() for one in self.waits_for],
            "waits_for_more": self.waits_unseen,
            "would_queue": self.queue.as_json() if self.queue is not None else None,
            "triggers": sorted({name for one in self.facts for name in one.triggers}),
            "depends": sorted({name for one in self.facts for name in one.depends}),
            "fails": [why for one in self.facts for why in one.fails],
            "risk": self.risk.value,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "statements": [_statement(one) for one in self.facts],
        }


@dataclass(frozen=True, slots=True)
class Assessment:
    """A plan on one target at one time. Where the target could not be looked at, it is the prediction alone."""

    plan: str
    plan_hash: str
    environment: str
    at: datetime
    steps: tuple[AssessedStep, ...]
    complexity: Level
    risk: Level
    reasons: tuple[str, ...]
    seconds: float
    tables: tuple[TableFacts, ...] = ()
    facts: TargetFacts | None = None
    unknown: tuple[str, ...] = field(default=())

    @property
    def assessed(self) -> bool:
        """Return whether the target was looked at."""
        return self.facts is not None

    @property
    def minutes(self) -> int:
        """Return the time in whole minutes, as the store keeps it."""
        return max(1, math.ceil(self.seconds / 60))

    @property
    def summary(self) -> str:
        """Return the whole in one line for people."""
        how = "" if self.assessed else " (predicted: the target was not looked at)"
        words = [f"risk {self.risk.value}", f"complexity {self.complexity.value}", f"about {duration(self.seconds)}"]
        longest = max((step for step in self.steps if step.held), key=lambda step: step.held or 0.0, default=None)
        if longest is not None and longest.held is not None and longest.held >= _READS_WAIT[0]:
            words.append(f'{longest.lock.blocks} wait up to {duration(longest.held)} in "{longest.name}"')
        elif self.assessed:
            words.append("nothing waits longer than a moment")
        in_the_way = {holder.pid for step in self.steps for holder in step.waits_for}
        if in_the_way:
            words.append(f"{len(in_the_way)} session{'s' if len(in_the_way) > 1 else ''} in the way now")
        return ", ".join(words) + how

    def as_json(self) -> dict[str, Any]:
        """Return the assessment for machines, and for the store."""
        facts = self.facts
        return {
            "summary": self.summary,
            "plan": self.plan,
            "plan_hash": self.plan_hash,
            "environment": self.environment,
            "at": self.at.isoformat(),
            "assessed": self.assessed,
            "complexity": self.complexity.value,
            "risk_level": self.risk.value,
            "reasons": list(self.reasons),
            "estimated_seconds": round(self.seconds, 3),
            "estimated_minutes": self.minutes,
            "server_version": facts.server_version if facts is not None else None,
            "speeds": facts.speeds.as_json() if facts is not None else None,
            "rates_from": facts.rates if facts is not None else None,
            "took_seconds": round(facts.took, 3) if facts is not None else None,
            "tables": [_table(one) for one in self.tables[:LISTED]],
            "tables_more": max(0, len(self.tables) - LISTED),
            "steps": [step.as_json() for step in self.steps],
            "unknown": list(self.unknown),
        }


def assess(
    plan: Plan, plan_hash: str, environment: str, prediction: Prediction, facts: TargetFacts, at: datetime
) -> Assessment:
    """Judge a plan by what a look at the target found."""
    params = {step.name: step for step in plan.steps}
    steps = tuple(
        _step(predicted, params[predicted.name], found, facts, facts.changes.get(place))
        for place, (predicted, found) in enumerate(zip(prediction.steps, facts.steps, strict=True))
    )
    named = {one.table for step in steps for one in step.touched}
    tables = [facts.tables[name] for name in facts.tables if name in named]
    unknown = [*facts.unknown]
    for step in steps:
        if step.seconds is None and not step.facts:
            unknown.append(f'how long step "{step.name}" ({step.predicted.kind}) takes')
    for table in tables:
        if table.stale:
            unknown.append(f"how many rows {table.name} has exactly: {table.stale}")
    needs = {step.name: step.needs for step in plan.steps}
    return Assessment(
        plan=plan.plan,
        plan_hash=plan_hash,
        environment=environment,
        at=at,
        steps=steps,
        complexity=_complexity(steps, tables, len(graph.levels(needs))),
        risk=max((step.risk for step in steps), key=RANK.index, default=Level.LOW),
        reasons=tuple(f'step "{step.name}" {reason}' for step in steps for reason in step.reasons),
        seconds=sum(step.seconds or 0.0 for step in steps),
        tables=tuple(sorted(tables, key=lambda table: -table.total_bytes)),
        facts=facts,
        unknown=tuple(dict.fromkeys(unknown)),
    )


def unlooked(
    plan: Plan, plan_hash: str, environment: str, prediction: Prediction, why: str, at: datetime
) -> Assessment:
    """Return what can be said of a plan on a target that could not be looked at: the prediction, and why."""
    steps = tuple(
        AssessedStep(
            predicted=predicted,
            facts=(),
            lock=predicted.lock,
            duration=predicted.duration,
            touched=tuple(Touched(held.table, held.lock) for one in predicted.statements for held in one.locks),
            rows=None,
            bytes=0,
            seconds=predicted.seconds,
            held=None,
            walk=None,
            queue=None,
            waits_for=(),
            waits_unseen=0,
            risk=predicted.risk,
            reasons=predicted.reasons,
            notes=predicted.notes,
        )
        for predicted in prediction.steps
    )
    return Assessment(
        plan=plan.plan,
        plan_hash=plan_hash,
        environment=environment,
        at=at,
        steps=steps,
        complexity=prediction.complexity,
        risk=prediction.risk,
        reasons=prediction.reasons,
        seconds=sum(step.seconds for step in prediction.steps),
        unknown=(why,),
    )


# -- one step


def _step(
    predicted: StepPrediction,
    params: Any,
    found: Sequence[StatementFacts],
    facts: TargetFacts,
    change: ChangeFacts | None = None,
) -> AssessedStep:
    walks = predicted.step_type == StepType.DATA_MIGRATION and bool(found)
    together = len(found) > 1 and bool(getattr(params, "transaction", False))
    lock = max((one.statement.lock for one in found), key=lambda one: one.rank, default=Lock.NONE)
    walk = _walk(params, found, facts) if walks else None
    seconds = walk.seconds if walk is not None else _total(found)
    if not found:
        # A step that waits for a length of time says so; what a script does, nobody can tell.
        seconds = getattr(params, "lasting", None)
    copies = change is not None and bool(change.seconds)
    if change is not None and copies:
        seconds = change.total + (seconds or 0.0)
    waits = {holder.pid: holder for one in found for holder in one.waits_for}
    queue = _queue(found, facts.tables, together=together)
    risk, reasons = _risk(predicted, params, found, facts.tables, walk, seconds, change, together=together)
    touched: dict[str, Touched] = {}
    for each in (touch for one in found for touch in one.touched):
        if each.table not in touched or each.lock.rank > touched[each.table].lock.rank:
            touched[each.table] = each
    strongest = [one.statement.duration for one in found if one.statement.lock is lock or together]
    rows = [one.rows for one in found]
    return AssessedStep(
        predicted=predicted,
        facts=tuple(found),
        lock=lock,
        duration=max(strongest, key=list(_ORDER).index, default=Duration.INSTANT),
        touched=tuple(touched.values()),
        rows=change.rows
        if change is not None and copies
        else None
        if None in rows or not rows
        else max((row for row in rows if row is not None), default=0),
        bytes=change.bytes if change is not None and copies else sum(one.bytes for one in found),
        seconds=seconds,
        held=0.0 if walks else _held(found, together=together),
        walk=walk,
        queue=queue,
        waits_for=tuple(waits.values()),
        waits_unseen=max((one.waits_unseen for one in found), default=0),
        risk=risk,
        reasons=tuple(reasons),
        notes=() if walks or copies else tuple(dict.fromkeys(note for one in found for note in one.statement.notes)),
        change=change,
    )


_ORDER = (
    Duration.INSTANT,
    Duration.SNAPSHOTS,
    Duration.SCAN,
    Duration.DATA,
    Duration.INDEX_BUILD,
    Duration.REWRITE,
)


def _total(found: Sequence[StatementFacts]) -> float | None:
    times = [one.seconds for one in found]
    known = [time for time in times if time is not None]
    return sum(known) if len(known) == len(times) else None


def _blocking(one: StatementFacts) -> bool:
    return one.statement.lock.rank >= Lock.SHARE.rank


def _held(found: Sequence[StatementFacts], *, together: bool) -> float | None:
    """Return how long the application is kept out of a table: by the longest statement, or by a whole transaction."""
    blocking = [one for one in found if _blocking(one)]
    if not blocking:
        return 0.0
    if together:
        # All locks are taken at the beginning, so that they come in one order.
        return _total(found)
    times = [one.seconds for one in blocking]
    return None if None in times else max(time for time in times if time is not None)


def _rate(one: StatementFacts, tables: Mapping[str, TableFacts]) -> float:
    """Return how many statements a second would wait behind a statement's locks."""
    rate = 0.0
    leaves_counted = {touch.table for touch in one.touched}
    for touch in one.touched:
        table = tables.get(touch.table)
        if table is None or touch.lock.rank < Lock.SHARE.rank:
            continue
        if touch.why.startswith("partition of") and touch.why.removeprefix("partition of ") in leaves_counted:
            continue  # a partitioned table's rate is that of its partitions together
        rate += (table.writes or 0.0) + ((table.reads or 0.0) if touch.lock is Lock.ACCESS_EXCLUSIVE else 0.0)
    return rate


def _queue(found: Sequence[StatementFacts], tables: Mapping[str, TableFacts], *, together: bool) -> Queue | None:
    rates = [(one, _rate(one, tables)) for one in found if _blocking(one)]
    if not rates:
        return None
    rate = max(rate for _, rate in rates)
    whole = _total(found) or 0.0
    held = max(rate * (whole if together else one.seconds or 0.0) for one, rate in rates)
    return Queue(round(rate, 1), math.ceil(held))


def _walk(params: Any, found: Sequence[StatementFacts], facts: TargetFacts) -> WalkEstimate | None:
    """Estimate a walk in batches; they follow the time that they take, up to the most keys that the step allows."""
    if any(one.seconds is None for one in found):
        return None
    written = [
        touch.table
        for one in found
        for touch in one.touched
        if touch.lock is Lock.ROW_EXCLUSIVE and not touch.why and touch.table in facts.tables
    ]
    # Where rows go from one table to another one, the keys are those of the table that they come from.
    source = str(getattr(params, "source", ""))
    walked = [source] if source in facts.tables else written
    keys = max((facts.tables[name].rows or 0 for name in walked), default=0)
    rows = min(keys, max((one.rows or 0 for one in found), default=0)) if keys else 0
    work = sum(one.seconds or 0.0 for one in found) + facts.speeds.round_trip
    batch = getattr(params, "batch", None)
    target, most = getattr(batch, "target", 0.3), getattr(batch, "max", 50_000)
    per_batch = max(1, min(most, round(keys / work * target))) if keys else 1
    batches = math.ceil(keys / per_batch)
    # Two labourers on one table are not twice as fast: they share disk, log and locks.
    workers = max(1, getattr(params, "workers", 1))
    overhead = 6 * facts.speeds.round_trip + getattr(params, "pause", 0.0) / workers
    return WalkEstimate(keys, rows, batches, work / math.sqrt(workers) + batches * overhead)


# -- risk


def _risk(
    predicted: StepPrediction,
    params: Any,
    found: Sequence[StatementFacts],
    tables: Mapping[str, TableFacts],
    walk: WalkEstimate | None,
    seconds: float | None,
    change: ChangeFacts | None,
    *,
    together: bool,
) -> tuple[Level, list[str]]:
    if not found:
        # Nothing of it goes to the target as a statement: what was predicted stands.
        return predicted.risk, list(predicted.reasons)
    risks: list[tuple[Level, str]] = []
    for one in found:
        risks += [(Level.HIGH, f"would fail: {why}") for why in one.fails]
        risks += _of_waiting(one)
        if walk is None:
            risks += _of_blocking(one, tables, seconds if together else one.seconds, together=together)
            risks += _of_data(one, tables, predicted, irreversible=predicted.undo is None)
        if any("old name" in note or "old value" in note for note in one.statement.notes):
            users = f"; {', '.join(one.depends[:3])} go along" if one.depends else ""
            risks.append((Level.MEDIUM, f"breaks code that uses the old name ({one.statement.verb}){users}"))
    if walk is not None:
        risks += _of_walk(walk)
    if change is not None:
        risks += _of_change(change)
    risks += _of_time(params, seconds)
    if predicted.undo is None and not any(level is Level.CRITICAL for level, _ in risks):
        why = next((one for one in predicted.reasons if one.startswith("cannot be undone")), "cannot be undone")
        risks.append((Level.HIGH, why))
    shown = [reason for level, reason in risks if level is not Level.LOW]
    return max((level for level, _ in risks), key=RANK.index, default=Level.LOW), list(dict.fromkeys(shown))


def _of_waiting(one: StatementFacts) -> list[tuple[Level, str]]:
    known = [holder for holder in one.waits_for if (holder.seconds or 0.0) >= IN_THE_WAY]
    if not known:
        return []
    longest = max(known, key=lambda holder: holder.seconds or 0.0)
    more = f" and {len(known) - 1} more" if len(known) > 1 else ""
    return [(Level.MEDIUM, f"would wait now for {longest.line()}{more} ({one.statement.verb})")]


def _of_blocking(
    one: StatementFacts, tables: Mapping[str, TableFacts], held: float | None, *, together: bool
) -> list[tuple[Level, str]]:
    """Judge a lock that keeps the application out by the time for which it does, and by how much waits meanwhile."""
    statement = one.statement
    if not _blocking(one):
        return []
    everything = statement.lock is Lock.ACCESS_EXCLUSIVE
    if held is None:
        unnamed = any(not lock.known for lock in statement.locks)
        return [(Level.HIGH, f"cannot be analysed ({statement.verb})")] if unnamed else []
    rate = _rate(one, tables)
    level = _graded(held, _READS_WAIT if everything else _WRITES_WAIT)
    queued = math.ceil(rate * held)
    if level is not Level.LOW and queued >= QUEUED:
        level = RANK[min(RANK.index(level) + 1, len(RANK) - 1)]
    long = statement.duration in LONG or together
    if long and level is not Level.LOW:
        queue = f"; about {count(queued)} statements would queue" if queued else ""
        what = f"{statement.verb} {one.does}" if statement.duration in LONG else "one transaction holds all its locks"
        blocks = statement.lock.blocks
        return [(level, f"{what} ≈ {duration(held)} while holding {statement.lock.value}: {blocks} wait{queue}")]
    found = []
    if rate >= BUSY:
        found.append(
            (Level.MEDIUM, f"locks out a busy table for a moment: {count(rate)} statements/s ({statement.verb})")
        )
    large = [tables[touch.table] for touch in one.touched if touch.table in tables and not touch.why]
    for table in large:
        if table.total_bytes >= LARGE:
            found.append((Level.MEDIUM, f"locks out {table.name}, which has {size(table.total_bytes)}"))
    return found


def _of_data(
    one: StatementFacts, tables: Mapping[str, TableFacts], predicted: StepPrediction, *, irreversible: bool
) -> list[tuple[Level, str]]:
    statement = one.statement
    named = [tables[touch.table] for touch in one.touched if not touch.why and touch.table in tables]
    rows = sum(table.rows or 0 for table in named)
    unknown = any(table.rows is None for table in named) or not named
    found = []
    if statement.destroys:
        lost = (one.rows or 0) if statement.verb == "DELETE" else rows
        if lost or unknown:
            level = Level.CRITICAL if irreversible or not predicted.reverse else Level.HIGH
            tail = "" if level is Level.CRITICAL else "; its reverse brings back the shape, not the data"
            much = (
                "data"
                if unknown
                else f"{count(lost)} rows' data"
                if statement.verb != "DELETE"
                else f"{count(lost)} rows"
            )
            found.append((level, f"destroys {much} ({statement.verb}){tail}"))
    writes = any(touch.lock is Lock.ROW_EXCLUSIVE and not touch.why for touch in one.touched)
    if writes and statement.duration in LONG:
        level = Level.MEDIUM if one.rows is None else _graded(one.rows, _ROWS_AT_ONCE)
        took = f" ≈ {duration(one.seconds)}" if one.seconds is not None else ""
        much = f"about {count(one.rows)} rows" if one.rows is not None else "rows"
        found.append((level, f"changes {much} in one transaction{took} ({statement.verb})"))
    return found


def _of_walk(walk: WalkEstimate) -> list[tuple[Level, str]]:
    level = Level.LOW
    if walk.keys > 10_000_000 or walk.seconds > 3600:
        level = Level.MEDIUM
    if walk.keys > 1_000_000_000 or walk.seconds > 86400:
        level = Level.HIGH
    return [(level, f"walks {count(walk.keys)} keys ≈ {duration(walk.seconds)}")]


def _of_change(change: ChangeFacts) -> list[tuple[Level, str]]:
    risks = [(Level.HIGH, f"would be refused: {why}") for why in change.refused]
    if change.seconds:
        much = f"copies {count(change.rows)} rows ≈ {duration(change.total)}, and needs {size(change.disk)} of disk"
        # It hurts nobody, and may be stopped at any time: only a long one is worth a word.
        risks.append((Level.MEDIUM if change.total > 3600 or change.disk > LARGE else Level.LOW, much))
    return risks


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _of_time(params: Any, seconds: float | None) -> list[tuple[Level, str]]:
    limit = getattr(params, "timeout", None)
    if seconds is None or limit is None or seconds < 1 or seconds <= limit / 2:
        return []
    if seconds > limit:
        return [(Level.HIGH, f"would take about {duration(seconds)}, and its timeout is {duration(limit)}")]
    return [(Level.MEDIUM, f"takes about {duration(seconds)}, not far from its timeout of {duration(limit)}")]


def _graded(value: float, limits: tuple[float, float, float]) -> Level:
    for limit, level in zip(limits, (Level.LOW, Level.MEDIUM, Level.HIGH), strict=True):
        if value < limit:
            return level
    return Level.CRITICAL


def _complexity(steps: Sequence[AssessedStep], tables: Sequence[TableFacts], depth: int) -> Level:
    """Count what there is to keep in mind; an empty table's walk is a step like others, a large one's is not."""
    named = {touch.table for step in steps for touch in step.touched if not touch.why}
    others = len(tables) - sum(table.name in named for table in tables)
    walks = sum(step.walk is not None and step.walk.keys > 10_000 for step in steps)
    total = sum(table.total_bytes for table in tables if table.name in named)
    large = 0 if total < LARGE / 10 else 10 if total < LARGE else 30
    points = len(steps) + 2 * len(named) + others // 2 + 3 * walks + depth + large
    for limit, level in ((8, Level.LOW), (30, Level.MEDIUM), (80, Level.HIGH)):
        if points <= limit:
            return level
    return Level.CRITICAL


# -- JSON


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if value is not None else None


def _table(table: TableFacts) -> dict[str, Any]:
    content = table.as_json()
    content["analyzed_at"] = table.analyzed_at.isoformat() if table.analyzed_at is not None else None
    return content


def _statement(one: StatementFacts) -> dict[str, Any]:
    return {
        "sql": one.statement.sql,
        "verb": one.statement.verb,
        "lock": one.statement.lock.value or None,
        "blocks": one.statement.lock.blocks,
        "duration_class": one.statement.duration.value,
        "does": one.does,
        "rows": one.rows,
        "bytes": one.bytes,
        "seconds": _rounded(one.seconds),
        "fails": list(one.fails),
        "notes": list(one.statement.notes),
    }
