"""Assesses a plan on a target: what each of its statements touches, who is in the way, how much work it is.

Everything here looks, and nothing waits: short time-outs on locks and statements, no scan, an overall deadline after
which what is left is said to be unknown.
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg

from segue import clock
from segue.databases.postgresql import costing
from segue.databases.postgresql.catalogue import BLOCK, Catalogue, Relation
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.locking import CONFLICTS
from segue.databases.postgresql.parse import node
from segue.databases.postgresql.rates import Rate, Rates
from segue.databases.postgresql.touching import Outcome, Scene, names_in
from segue.model import values
from segue.model.facts import ChangeFacts, Holder, StatementFacts, TableFacts, TargetFacts
from segue.model.impact import Duration, Lock
from segue.model.quantities import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segue.databases.postgresql.online import foreseeing
    from segue.model.facts import Speeds
    from segue.model.impact import Statement
    from segue.model.online import ChangeSpec

_Holders = dict[int, list[tuple[str, Holder]]]

#: Seconds that everything together should take at most, not counting the way there.
BUDGET = 1.6
#: Rates over less time than this would say nothing.
RATES_SECONDS = 0.4
#: No statement of the assessment waits longer than this for a lock, nor works longer than the other.
PINS = {"lock_timeout": "100ms", "statement_timeout": "700ms", "idle_in_transaction_session_timeout": "5s"}
#: Seconds below which a transaction is over before anybody could wait for it.
PASSING = 1.0
#: Sessions named for one statement; the others are counted.
NAMED_HOLDERS = 5


def assess(
    url: str, *, schema: str, steps: Sequence[Sequence[Statement]], changes: Mapping[int, ChangeSpec]
) -> TargetFacts:
    """See `segue.ports.Database.assess`."""
    began = clock.ticks()
    connection = open_session(url, application="segue assess", schema=schema, pins=PINS)
    try:
        found = _Assessment(connection, schema, steps, changes)
        return found.facts(began)
    except psycopg.Error as error:
        raise explain(error, place(url)) from error
    finally:
        connection.close()


class _Assessment:
    def __init__(
        self,
        connection: psycopg.Connection[Any],
        schema: str,
        steps: Sequence[Sequence[Statement]],
        changes: Mapping[int, ChangeSpec],
    ) -> None:
        self._connection = connection
        self._deadline = clock.ticks() + BUDGET
        self._schema = schema
        self._unknown: list[str] = []
        self._workers = {number: spec.sessions(watched=False) for number, spec in changes.items()}
        self._foreseen = self._foresee(steps, changes)
        # What would really be sent, or locked, stands for what was predicted without a look.
        self._steps = [
            self._foreseen[number].statements if number in self._foreseen else statements
            for number, statements in enumerate(steps)
        ]
        self._nodes = [[node(statement.sql) for statement in statements] for statements in self._steps]

    def facts(self, began: float) -> TargetFacts:
        names, types = names_in((node for nodes in self._nodes for node in nodes), self._schema)
        names |= {each.index.name for statements in self._steps for each in statements if each.index is not None}
        catalogue = Catalogue(self._connection, names, types)
        if catalogue.unmeasured:
            self._unknown.append("present sizes: a table is locked; the sizes are those of the last VACUUM or ANALYZE")
        scene = Scene(catalogue, self._schema)
        outcomes = [
            [scene.read(node, statement) for node, statement in zip(nodes, statements, strict=True)]
            for nodes, statements in zip(self._nodes, self._steps, strict=True)
        ]
        concerned = {each.oid: each for group in outcomes for one in group for each in one.relations.values()}
        for relation in list(concerned.values()):
            concerned |= {each.oid: each for each in catalogue.below(relation)}
        rates = Rates(self._connection, concerned.values())
        largest = max(
            (each for each in concerned.values() if each.relkind in ("r", "m")),
            key=lambda each: each.pages,
            default=None,
        )
        speeds = costing.measure(self._connection, largest)
        holders, snapshots = self._holders(concerned), self._snapshots()
        steps = [tuple(self._statement(outcome, speeds, holders, snapshots) for outcome in group) for group in outcomes]
        changes = {}
        for number, foreseen in self._foreseen.items():
            steps[number] = tuple(map(_explained, steps[number], foreseen.why))
            changes[number] = self._change(number, outcomes[number], catalogue, speeds)
        if (rest := rates_due(rates) - clock.ticks()) > 0:
            clock.sleep(min(rest, RATES_SECONDS))
        now = self._rates(rates)
        return TargetFacts(
            server_version=_version(self._connection),
            tables=self._tables(concerned, catalogue, now, holders, outcomes),
            steps=tuple(steps),
            speeds=speeds,
            rates=rates.source,
            unknown=tuple(dict.fromkeys(self._unknown)),
            took=clock.ticks() - began,
            changes=changes,
        )

    # -- online changes

    def _foresee(
        self, steps: Sequence[Sequence[Statement]], changes: Mapping[int, ChangeSpec]
    ) -> dict[int, foreseeing.Foreseen]:
        """Return how each online change would be done, as far as its tables are there."""
        found: dict[int, foreseeing.Foreseen] = {}
        if not changes:
            return found
        # What it takes with it is a good part of a short run's start, and most plans have no such step.
        from segue.databases.postgresql.online import foreseeing

        for number, spec in changes.items():
            try:
                foreseen = foreseeing.foresee(self._connection, spec, self._schema, steps[number])
            except psycopg.Error:
                if self._connection.closed:
                    raise
                self._unknown.append("how the tables would be changed: the server did not answer in time")
                continue
            if foreseen is not None:
                found[number] = foreseen
        return found

    def _change(self, number: int, group: Sequence[Outcome], catalogue: Catalogue, speeds: Speeds) -> ChangeFacts:
        """Return what an online change takes: the tables that are copied, read twice, and indexed."""
        foreseen = self._foreseen[number]
        tables = [
            outcome.relations[name]
            for outcome in (group[at] for at in foreseen.copied)
            for name, touched in outcome.touched.items()
            if not touched.why and name in outcome.relations
        ]
        stored = list({leaf.oid: leaf for table in tables for leaf in catalogue.stored(table)}.values())
        cost = costing.copied(stored, speeds, self._workers[number])
        if any(leaf.rows is None for leaf in stored):
            self._unknown.append("how long the copy takes exactly: a table was never analysed")
        return ChangeFacts(
            strategy=foreseen.strategy,
            reasons=foreseen.reasons,
            tables=tuple(dict.fromkeys(table.name for table in tables)),
            rows=cost.rows,
            bytes=cost.bytes,
            disk=cost.disk,
            wal=cost.disk,
            seconds=cost.seconds if stored else {},
            refused=foreseen.refused,
        )

    # -- one statement

    def _statement(
        self,
        outcome: Outcome,
        speeds: Speeds,
        holders: _Holders,
        snapshots: list[Holder],
    ) -> StatementFacts:
        statement = outcome.sharpened()
        costs = [costing.weigh(work, speeds, self._connection, self._deadline) for work in outcome.works]
        seconds: float | None = sum(cost.seconds for cost in costs) + speeds.round_trip
        if outcome.missing:
            seconds = None
            self._unknown.append(f"what becomes of {', '.join(outcome.missing)}: there is no such table now")
        if outcome.opaque:
            seconds = None
            self._unknown.append(f"how long {statement.verb} takes: what it does cannot be told beforehand")
        waits, unseen = self._waits(outcome, statement, holders, snapshots)
        # Several looks at one table are at the same rows; those at its partitions are at others.
        by_table: dict[int, int] = {}
        for cost in costs:
            by_table[cost.table] = max(by_table.get(cost.table, 0), cost.rows)
        rows = sum(by_table.values())
        return StatementFacts(
            statement=values.replace(statement, destroys=statement.destroys and not outcome.fresh),
            touched=tuple(outcome.touched.values()),
            does=_words(costs, outcome, statement),
            rows=None if outcome.opaque else rows,
            bytes=sum(cost.bytes for cost in costs),
            seconds=seconds,
            waits_for=tuple(waits[:NAMED_HOLDERS]),
            waits_unseen=max(0, len(waits) - NAMED_HOLDERS) + unseen,
            triggers=tuple(dict.fromkeys(outcome.triggers)),
            depends=tuple(dict.fromkeys(outcome.depends)),
            fails=tuple(dict.fromkeys(outcome.fails)),
        )

    def _waits(
        self,
        outcome: Outcome,
        statement: Statement,
        holders: _Holders,
        snapshots: list[Holder],
    ) -> tuple[list[Holder], int]:
        """Return who would be waited for now, longest first."""
        found: dict[int, Holder] = {}
        for touched in outcome.touched.values():
            relation = outcome.relations.get(touched.table)
            if relation is None or touched.lock is Lock.NONE:
                continue
            # Rows that are locked by others are another matter, and cannot be seen.
            for mode, holder in holders.get(relation.oid, []):
                if mode in CONFLICTS[touched.lock]:
                    found.setdefault(holder.pid, holder)
        if "CONCURRENTLY" in statement.verb:
            # Each of them is waited for until its transaction ends, whatever it does.
            for holder in snapshots:
                if holder.seconds is None or holder.seconds >= PASSING:
                    found.setdefault(holder.pid, holder)
        return sorted(found.values(), key=lambda each: -(each.seconds or 0.0)), 0

    # -- looking

    def _holders(self, concerned: Mapping[int, Relation]) -> _Holders:
        """Return who holds which lock on which table, with the lock's name as the server's views have it."""
        query = files("segue.databases.postgresql").joinpath("sql/assess_holders.sql").read_bytes()
        found: _Holders = {}
        try:
            rows = self._connection.execute(query, {"tables": list(concerned)}).fetchall()
        except psycopg.Error:
            if self._connection.closed:
                raise
            self._unknown.append("who holds locks now: the server did not answer in time")
            return {}
        for oid, mode, *rest in rows:
            pid, role, application, state, seconds, text, table, autovacuum = rest
            if application.startswith("segue assess"):
                continue
            holder = Holder(pid, role, application, state, seconds, text, _lock_words(mode), table, autovacuum)
            found.setdefault(oid, []).append((mode, holder))
        return found

    def _snapshots(self) -> list[Holder]:
        query = files("segue.databases.postgresql").joinpath("sql/assess_snapshots.sql").read_bytes()
        try:
            rows = self._connection.execute(query).fetchall()
        except psycopg.Error:
            if self._connection.closed:
                raise
            return []
        return [
            Holder(pid, role, application, state, seconds, text, "has a transaction open", "")
            for pid, role, application, state, seconds, text in rows
            if not application.startswith("segue assess")
        ]

    def _rates(self, rates: Rates) -> Mapping[int, Rate]:
        try:
            return rates.read()
        except psycopg.Error:
            if self._connection.closed:
                raise
            self._unknown.append("how busy the tables are: their counters did not answer in time")
            return {}

    # -- tables

    def _tables(
        self,
        concerned: Mapping[int, Relation],
        catalogue: Catalogue,
        rates: Mapping[int, Rate],
        holders: _Holders,
        outcomes: Sequence[Sequence[Outcome]],
    ) -> dict[str, TableFacts]:
        found = {}
        for relation in concerned.values():
            parts = catalogue.stored(relation)
            rate = [rates[each.oid] for each in (relation, *catalogue.below(relation)) if each.oid in rates]
            sessions = {holder.pid for each in (relation, *parts) for _, holder in holders.get(each.oid, [])}
            stale = next((each.stale for each in parts if each.stale), None)
            times = [each.analyzed_at for each in parts if each.analyzed_at is not None]
            found[relation.name] = TableFacts(
                name=relation.name,
                kind=relation.kind,
                rows=None if relation.rows is None else round(sum(each.rows or 0 for each in parts)),
                heap_bytes=sum(each.pages for each in parts) * BLOCK,
                index_bytes=sum(index.pages for each in parts for index in each.indexes) * BLOCK,
                toast_bytes=sum(each.toast_pages for each in parts) * BLOCK,
                indexes=len(relation.indexes),
                partitions=sum(each.oid != relation.oid for each in parts),
                analyzed_at=min(times) if times and len(times) == len(parts) else None,
                stale=stale,
                reads=round(sum(each.reads for each in rate), 1) if rate else None,
                writes=round(sum(each.writes for each in rate), 1) if rate else None,
                sessions=len(sessions),
            )
        for outcome in (one for group in outcomes for one in group):
            for name in outcome.missing:
                found.setdefault(name, TableFacts(name, "not there", rows=None))
        return found


def _explained(facts: StatementFacts, why: str) -> StatementFacts:
    """Return a statement's facts with the reason why its table is touched, where the plan does not name it."""
    if not why:
        return facts
    return replace(facts, touched=tuple(each if each.why else replace(each, why=why) for each in facts.touched))


def _lock_words(mode: str) -> str:
    """Return a lock's name as SQL writes it: `AccessShareLock` is ACCESS SHARE."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()


def rates_due(rates: Rates) -> float:
    """Return when enough time has passed since the first look at the counters."""
    return rates.began + RATES_SECONDS


def _words(costs: list[costing.Cost], outcome: Outcome, statement: Statement) -> str:
    if outcome.opaque:
        return "cannot be told beforehand"
    if outcome.missing:
        return f"{', '.join(outcome.missing)} is not there now"
    words = [cost.words for cost in costs if cost.words]
    if len(words) > 2:
        return f"{words[0]} and {len(words) - 1} more like it ({size(sum(cost.bytes for cost in costs))} in all)"
    if words:
        return "; ".join(words)
    if outcome.fresh:
        return "works on a table that the plan makes: it is empty"
    if statement.duration is Duration.SNAPSHOTS:
        return "waits for transactions that use the table"
    return "changes the catalogue only"


def _version(connection: psycopg.Connection[Any]) -> str:
    number = connection.info.server_version
    return f"{number // 10000}.{number % 10000}"
