"""One online change on a target, put together: what is done is in `segue.change`, and every act may be repeated."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.online import (
    alive,
    capture,
    choosing,
    conflicts,
    copying,
    dependents,
    drain,
    ghost,
    keygraph,
    moves,
    parity,
    planners,
    preflight,
    shadow,
    swap,
    verify,
    watching,
)
from segue.databases.postgresql.online.blueprint import Blueprint, Index, Member
from segue.databases.postgresql.online.building import Builder, drop_plain
from segue.databases.postgresql.online.drain import Drainer
from segue.databases.postgresql.online.orphans import Orphans
from segue.engine import journal
from segue.errors import LockNotGranted, OutcomeUnknown, PrivilegeMissing, SegueError, StepFailed, WouldLose
from segue.model.lifecycles import OnlineChangePhase as Phase
from segue.model.online import Chosen, Drained, Swapped, Verified, readable
from segue.model.online import Member as SeenMember
from segue.ports import BACKWARD, FORWARD, EffectKey, Pace, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.databases.postgresql.online.site import Connection, Site
    from segue.model.online import ChangeSpec, Conflict, Rehearsed, Retained
    from segue.ports import ChunkedWork

#: How often the definition of the tables is looked at while work goes on.
WATCH_SECONDS = 1.0
#: Keys in a drain while no unique index but the key's exists.
DRAIN_KEYS = 2_000
FEW_KEYS = 100
#: How often rows that refer to nothing are looked for again before they are believed, while others are written.
TRIES = 3
ORPHANED = "23503"
#: A source that was emptied is brought up to date by its log, if that has fewer entries than this; else copied anew.
FRESH = 200_000
#: A log of so many entries is reduced to distinct keys before it is drained.
CROWDED = 100_000
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class PostgresChange:
    """See `segue.ports.online.OnlineChange`."""

    def __init__(self, site: Site, key: EffectKey, spec: ChangeSpec) -> None:
        self._site = site
        self._key = key
        self._spec = spec
        self._sessions: list[Connection] = []
        self._drainers: dict[tuple[str, int], Drainer] = {}
        self._swappers: dict[tuple[str, int], Drainer] = {}
        self._keys: dict[str, Orphans] = {}
        self._reader: ghost.Reader | None = None
        self._watched = 0.0
        self._pace: Callable[[], Pace] = Pace
        self._blueprint: Blueprint | None = None
        self._phase = Phase.PENDING
        self._round = 1
        self._detail: dict[str, Any] = {}
        self._done: dict[str, Any] = {}
        with self._telling():
            self._load()

    # -- what is kept

    @staticmethod
    def exists(connection: Connection, key: EffectKey) -> bool:
        """Return whether a step's change was drawn up on this target."""
        found = connection.execute("select pg_catalog.to_regclass('segue.change') is not null").fetchone()
        if not (found and found[0]):
            return False
        row = connection.execute(
            "select 1 from segue.change where execution = %s and step = %s", [key.execution, key.step]
        ).fetchone()
        return row is not None

    def _load(self) -> None:
        if not self.exists(self._site.look, self._key):
            return
        row = self._site.look.execute(
            "select blueprint, phase, round, detail, done, plan_hash from segue.change "
            "where execution = %s and step = %s",
            [self._key.execution, self._key.step],
        ).fetchone()
        if row is None:
            return
        blueprint, phase, self._round, self._detail, self._done, plan_hash = row
        self._blueprint = Blueprint.model_validate(blueprint)
        self._phase = Phase(phase)
        if plan_hash != self._key.plan_hash:
            raise StepFailed(
                "the online change on this target was drawn up for another plan",
                hint="take it back with `segue rollback` of its execution",
            )
        identifier, timeline = _system(self._site.look)
        if (identifier, timeline) != (self._blueprint.system_identifier, self._blueprint.timeline):
            raise StepFailed(
                "this is not the server on which the change began: "
                f"system {identifier}, timeline {timeline}; it was system {self._blueprint.system_identifier}, "
                f"timeline {self._blueprint.timeline}",
                hint="after a failover, what was committed last may be missing here: take the change back with "
                "`segue rollback`, and begin anew",
            )

    def _keep(self, connection: Connection, **values: Any) -> None:
        """Move on, in the transaction of what was done."""
        sets = [sql.SQL("fence = {}").format(self._site.lease.fence)]
        for name, value in values.items():
            adapted = sql.Literal(json.dumps(value)) if isinstance(value, dict) else sql.Literal(value)
            sets.append(sql.SQL("{} = {}").format(sql.Identifier(name), adapted))
        connection.execute(
            sql.SQL("update segue.change set {} where id = {}").format(sql.SQL(", ").join(sets), self.blueprint.id)
        )

    def _advance(self, phase: Phase, **values: Any) -> None:
        with self._site.transaction() as connection:
            self._keep(connection, phase=phase.value, **values)
        self._phase = phase

    def _tick(self, what: str) -> None:
        """Record that a part of the phase is done."""
        with self._ticking(self._site.work, what):
            pass

    @contextmanager
    def _ticking(self, connection: Connection, what: str) -> Iterator[None]:
        """Give a transaction that records what is done in it; several sessions may do so at a time."""
        with self._site.transaction(connection):
            yield
            connection.execute(
                "update segue.change set done = done || pg_catalog.jsonb_build_object(%s::text, true), fence = %s "
                "where id = %s",
                [what, self._site.lease.fence, self.blueprint.id],
            )
        self._done[what] = True

    def _lasting(self) -> dict[str, Any]:
        """Return what stays done when the copy begins anew: what was made on the shadows beside their rows."""
        return {what: True for what in self._done if what.startswith(("made ", "built ", "dressed "))}

    @property
    def blueprint(self) -> Blueprint:
        """Return the change as it was drawn up."""
        if self._blueprint is None:
            raise StepFailed("the change has not been drawn up")
        return self._blueprint

    @property
    def phase(self) -> Phase:
        """Return what is to be done next."""
        return self._phase

    @property
    def chosen(self) -> Chosen:
        """Return how it is done, and why."""
        drawn = self.blueprint
        return Chosen(
            strategy=drawn.strategy,
            reasons=tuple(map(readable, drawn.reasons)),
            warnings=tuple(map(readable, drawn.warnings)),
            native=drawn.native,
            native_undo=drawn.native_undo,
            native_lost=drawn.native_lost,
            native_groups=drawn.native_groups,
            members=tuple(
                SeenMember(
                    member.number,
                    readable(str(member.table)),
                    readable(str(member.forward.into)),
                    member.rows,
                    member.bytes,
                    tuple(column.name for column in member.forward.key),
                )
                for member in drawn.members
            ),
        )

    # -- beginning

    def prepare(self, note: Callable[[str], None]) -> Chosen:
        """Choose, and draw the change up."""
        if self._blueprint is None:
            with self._telling():
                self._draw_up(note)
        return self.chosen

    def _draw_up(self, note: Callable[[str], None]) -> None:
        site = self._site
        spec, reasons = keygraph.widen(site.work, self._spec)
        choice = choosing.choose(site, spec)
        strategy, reasons = choice.strategy, [*reasons, *choice.reasons]
        change_id = secrets.choice(_ALPHABET[:26]) + "".join(secrets.choice(_ALPHABET) for _ in range(7))
        identifier, timeline = _system(site.look)
        blueprint = Blueprint(
            id=change_id,
            strategy=strategy,
            reasons=tuple(reasons),
            native=choice.native,
            native_undo=choice.undo,
            native_lost=choice.lost,
            native_groups=choice.groups,
            system_identifier=identifier,
            timeline=timeline,
        )
        if not choice.native:
            members = shadow.draw_up(site, change_id, spec, strategy)
            refused = choosing.refusals(site, members)
            if strategy == "ghost":
                refused += ghost.problems(site, members)
            found = []
            for member in members:
                hanging = {**member.dependents, **dependents.find(site.look, member, members)}
                refused += dependents.refusals(hanging)
                found.append(member.model_copy(update={"dependents": hanging}))
            preflight.refuse(refused)
            blueprint = blueprint.model_copy(update={"members": tuple(found)})
            warnings = [line for member in found for line in dependents.warnings(site.look, member, blueprint)]
            if strategy == "ghost":
                warnings += ghost.hints(site)
            blueprint = blueprint.model_copy(update={"warnings": tuple(warnings)})
        script = files("segue.databases.postgresql").joinpath("sql/online.sql").read_text()
        with site.transaction() as connection:
            connection.execute(script.encode())
            connection.execute(
                "insert into segue.change (id, execution, step, plan_hash, phase, strategy, blueprint, fence) "
                "values (%s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    change_id,
                    self._key.execution,
                    self._key.step,
                    self._key.plan_hash,
                    Phase.CREATING_SHADOW.value,
                    strategy,
                    blueprint.model_dump_json(),
                    site.lease.fence,
                ],
            )
            journal.point("online-drawn-before-commit")
        self._blueprint = blueprint
        self._phase = Phase.CREATING_SHADOW
        journal.point("online-drawn")

    def create(self, patience: Patience, note: Callable[[str], None]) -> None:
        """Make the shadows and the logs."""
        with self._telling():
            shadow.create(self._site, self.blueprint)
            for member in self.blueprint.members:
                log = self.blueprint.log(member, FORWARD)
                capture.make_log(self._site, member.forward, log)
                capture.make_functions(self._site, member.forward, log)
            with self._site.transaction() as connection:
                alive.begin(connection, self.blueprint)
            journal.point("online-created")
            self._advance(Phase.CAPTURING)

    def capture(self, patience: Patience, note: Callable[[str], None]) -> None:
        """Begin to log what the application touches."""
        with self._telling():
            drawn = self.blueprint
            if drawn.strategy == "ghost":
                ghost.begin(self._site, drawn, patience, note)
            else:
                for member in drawn.members:
                    capture.install(
                        self._site,
                        member.old,
                        member.forward,
                        drawn.log(member, FORWARD),
                        drawn.id,
                        patience,
                        note,
                    )
            # Captured anew, the tables must still be what they were.
            if "signature" not in self._detail:
                self._detail = {
                    **self._detail,
                    "signature": watching.signature(self._site.work, drawn, FORWARD),
                    f"objects {FORWARD}": watching.objects(self._site.work, drawn, FORWARD),
                }
            self._detail = {**self._detail, "triggers": watching.captured(self._site.work, drawn, FORWARD)}
            self._advance(Phase.COPYING_DATA, detail=self._detail)

    # -- copying

    def copying(self, member: int, patience: Patience) -> ChunkedWork:
        """Return the copy of a member's rows."""
        with self._telling():
            self._follow()
            one = self._member(member)
            step = f"{self._key.step}:{member}.{self._round}"
            key = EffectKey(
                self._key.execution, self._key.plan, self._key.plan_hash, step, self._key.direction, self._key.part
            )
            return copying.Copy(self._site, key, one.forward, self.blueprint.id, member, FORWARD)

    def copied(self) -> None:
        """Record that everything is copied."""
        with self._telling():
            self._done = self._lasting()
            self._advance(Phase.DRAINING, done=self._done)

    def restart(self, patience: Patience, note: Callable[[str], None], *, lost: bool = False) -> None:
        """Empty the shadows and the logs, and begin the copy anew."""
        with self._telling():
            drawn = self.blueprint
            if not lost:
                note(self._why_anew())
            # Of a slot that is made anew nothing shows that it was; so what was copied is given up before there is one.
            phase = Phase.CAPTURING if lost else Phase.COPYING_DATA
            if lost:
                self._end_sessions()
            with self._site.transaction() as connection:
                for member in drawn.members:
                    connection.execute(sql.SQL("truncate {}").format(member.forward.into.sql))
                # What the log held of before the copy is in what is copied now; the rest is taken from it as ever.
                connection.execute("delete from segue.conflict where change = %s", [drawn.id])
                for member in drawn.members:
                    connection.execute(
                        sql.SQL("delete from {} where {} is null").format(
                            drawn.log(member, FORWARD).sql, sql.Identifier("segue_k1")
                        )
                    )
                alive.begin(connection, drawn)
                dropped = {what for member in drawn.members for what in drop_plain(connection, member)}
                done = {what: True for what in self._lasting() if what not in dropped}
                self._keep(connection, phase=phase.value, round=self._round + 1, done=done)
            self._round += 1
            self._done = done
            self._phase = phase
            journal.point("online-restarted")
            if lost:
                ghost.end(self._site, drawn)

    def _why_anew(self) -> str:
        tables = ", ".join(str(member.table) for member in self.blueprint.members)
        if alive.emptied(self._site.look, self.blueprint):
            return (
                f"{tables}: the server has emptied unlogged tables when it started after a crash; the copy begins anew"
            )
        return f"{tables}: emptied by TRUNCATE; the copy begins anew"

    # -- catching up

    def drain(self, member: int, most: int | None, *, compare: bool = False) -> Drained:
        """Bring touched keys up to date."""
        with self._telling():
            self._follow()
            return self._drain(self._member(member), most, compare=compare, direction=FORWARD)

    def _drain(self, member: Member, most: int | None, *, compare: bool, direction: str) -> Drained:
        if direction == FORWARD and alive.emptied(self._site.look, self.blueprint):
            return Drained(emptied=True)
        drainer = self._drainers.get((direction, member.number))
        if drainer is None:
            session = self._session()
            flow = member.forward if direction == FORWARD else member.backward
            drainer = Drainer(
                session, flow, self.blueprint.log(member, direction), self.blueprint.id, member.number, direction
            )
            self._drainers[(direction, member.number)] = drainer
        if self._reader is not None and direction == FORWARD:
            return ghost.drain(self._site, self._reader, drainer, most, compare=compare)
        drained = drain.drain(self._site, drainer, most, compare=compare)
        log = self.blueprint.log(member, direction)
        if drained.emptied and (direction == BACKWARD or drain.backlog(self._site.look, log, FRESH) < FRESH):
            # Every row that came since is in the log.
            drained = drain.drain(self._site, drainer, None, compare=compare, anew=True)
            return replace(drained, emptied=False)
        return drained

    def settle(
        self,
        patience: Patience,
        note: Callable[[str], None],
        boundary: Callable[[], None],
        pace: Callable[[], Pace],
        rest: Callable[[float], None],
    ) -> None:
        """Key, drain, build the other indexes, and make everything on the shadows that the swap would have to make."""
        with self._telling():
            self._follow()
            for member in self.blueprint.members:
                self._pace = pace
                if not self._settle(member, patience, note, boundary, rest):
                    return
            self._take_out(FORWARD, note, boundary, every=True)
            self._done = {**self._lasting(), **{what: True for what in self._done if what.startswith("vacuumed ")}}
            self._advance(Phase.VERIFYING, done=self._done)

    def _settle(
        self,
        member: Member,
        patience: Patience,
        note: Callable[[str], None],
        boundary: Callable[[], None],
        rest: Callable[[float], None],
    ) -> bool:
        """Return False when the source was emptied: the copy begins anew."""
        site, drawn = self._site, self.blueprint
        name = str(member.number)
        builder = self._builder(boundary)
        if f"keyed {name}" not in self._done:
            # What is not unique fits whatever the rows are. The log is drained into it then, a key at a time.
            first = [index for index in member.indexes if index.early or (index.sql and not index.unique)]
            builder.build(member, first, self._is_done)
            self._tick(f"keyed {name}")
            journal.point("online-keyed")
        if f"indexed {name}" not in self._done:
            if not self._level(member, note, boundary, rest):
                self.restart(patience, note)
                return False
            for index in member.indexes:
                if index.added and index.unique and index.sql:
                    boundary()
                    moved = conflicts.duplicates(site, drawn.id, member, index)
                    if moved:
                        note(f'{moved:,} rows of {member.table} do not fit "{index.name}"')
                elif index.added and not index.sql:
                    self._build_apart(member, index, builder, note)
            builder.build(member, member.indexes, self._is_done)
            self._tick(f"indexed {name}")
        if f"dressed {name}" not in self._done:
            self._dress(member, patience, note, builder)
            self._tick(f"dressed {name}")
        if builder.gentle and f"vacuumed {name}" not in self._done:
            builder.run(_vacuum(member))
            self._tick(f"vacuumed {name}")
        return True

    def _builder(self, boundary: Callable[[], None]) -> Builder:
        return Builder(
            self._site, self._spec.sessions(watched=self._pace().watched), self._pace, boundary, self._ticking
        )

    def _is_done(self, what: str) -> bool:
        return what in self._done

    def _build_apart(self, member: Member, index: Index, builder: Builder, note: Callable[[str], None]) -> None:
        """Build a constraint that makes its own index; where it refuses rows, take them out of the shadow instead."""
        try:
            builder.build(member, [index], self._is_done)
        except (psycopg.errors.ExclusionViolation, psycopg.errors.UniqueViolation):
            with builder.session() as session:
                moved = conflicts.excluded(self._site, self.blueprint.id, member, index, connection=session)
            note(f'{moved:,} rows of {member.table} do not fit "{index.name}"')

    def _compact(self, member: Member, note: Callable[[str], None]) -> None:
        """Drop entries of a long log that say again what others say: a drain would copy a row for each of them."""
        log = self.blueprint.log(member, FORWARD)
        if self._reader is not None or drain.backlog(self._site.look, log, CROWDED) < CROWDED:
            return
        gone = drain.compact(self._site, self._site.work, member.forward, log)
        note(f"{member.table}: {gone:,} entries of the log said again what others say, and were dropped")

    def _level(
        self,
        member: Member,
        note: Callable[[str], None],
        boundary: Callable[[], None],
        rest: Callable[[float], None],
    ) -> bool:
        """Drain until the shadow equals the table as one snapshot sees it: no unique value stands twice then.

        Returns False when the source was emptied, and the copy begins anew.
        """
        self._compact(member, note)
        drained = Drained(keys=DRAIN_KEYS)
        while drained.keys >= FEW_KEYS:
            boundary()
            began = clock.ticks()
            drained = self._drain(member, DRAIN_KEYS, compare=False, direction=FORWARD)
            if drained.emptied:
                return False
            rest(clock.ticks() - began)
        return not self._drain(member, None, compare=False, direction=FORWARD).emptied

    def _take_out(
        self, direction: str, note: Callable[[str], None], boundary: Callable[[], None], *, every: bool
    ) -> dict[str, int]:
        """Take rows out of the other side that its foreign keys would refuse; return how many, by foreign key."""
        found = self._orphans(direction).take_out(self._builder(boundary).session, boundary, every=every)
        for name, rows in found.items():
            note(f'{rows:,} rows do not fit "{name}": what they refer to is not there')
        return found

    def _orphans(self, direction: str) -> Orphans:
        if direction not in self._keys:
            self._keys[direction] = Orphans(self._site, self.blueprint, direction)
        return self._keys[direction]

    def _dress(self, member: Member, patience: Patience, note: Callable[[str], None], builder: Builder) -> None:
        """Give a shadow everything that the table has, as far as nobody notices, and the triggers for the way back."""
        site, drawn = self._site, self.blueprint
        with site.transaction() as connection:
            _run(connection, dependents.before(member, drawn))
        journal.point("online-dressed")
        if self._spec.reversible:
            log = drawn.log(member, BACKWARD)
            capture.make_log(site, member.backward, log)
            capture.make_functions(site, member.backward, log)
            capture.install(site, member.new, member.backward, log, drawn.id, patience, note, enabled=False)
            moves.install(site, member.new, member.backward, log, drawn.id)
        views = dependents.matviews_before(member, drawn)
        if views:
            with builder.session() as session:
                swap.drop_views(session, drawn.new_schema)
                for text in views:
                    session.execute(text.encode())
            journal.point("online-views-built")

    # -- comparing

    def verify(
        self,
        member: int,
        pace: Callable[[], Pace],
        note: Callable[[Verified], None],
        boundary: Callable[[], None],
    ) -> Verified:
        """Compare every row, repair, compare again."""
        with self._telling():
            self._follow()
            one = self._member(member)
            drawn = self.blueprint
            self._pace = pace

            def settle() -> None:
                self._drain(one, None, compare=False, direction=FORWARD)

            log = drawn.log(one, FORWARD)
            verifier = verify.Verifier(
                self._site,
                one.forward,
                log,
                drawn.id,
                one.number,
                FORWARD,
                settle=settle,
                late=partial(self._reader.late, log) if self._reader is not None else None,
            )
            try:
                with self._vacuumed_meanwhile(one, boundary):
                    return verifier.run(
                        workers=self._spec.sessions(watched=pace().watched), pace=pace, note=note, boundary=boundary
                    )
            except verify.SourceEmptied:
                # Too much was written since to be brought up to date by the log.
                self.restart(Patience(locks=0, work=0), lambda _: None)
                return Verified(0, 0, 0, "0", "0", 0)

    @contextmanager
    def _vacuumed_meanwhile(self, member: Member, boundary: Callable[[], None]) -> Iterator[None]:
        """Vacuum and analyse the shadow, if that was not done: it must be planned for and read well after the swap."""
        name = f"vacuumed {member.number}"
        if name in self._done:
            yield
            return
        with self._builder(boundary).beside(_vacuum(member)):
            yield
        self._tick(name)
        journal.point("online-vacuumed")

    def verified(self) -> None:
        """Record that the swap may come."""
        with self._telling():
            self._advance(Phase.SWAPPING)

    def watch(self) -> None:
        """Raise when somebody has changed the tables."""
        now = clock.ticks()
        if now - self._watched < WATCH_SECONDS or "signature" not in self._detail:
            return
        self._watched = now
        with self._telling():
            if self._reader is not None:
                self._reader.check()
            if self._phase in (Phase.REVERSIBLE, Phase.COMPLETED, Phase.ROLLED_BACK):
                return
            triggers = self._detail.get("triggers")
            if triggers is not None and watching.captured(self._site.look, self.blueprint, FORWARD) != triggers:
                raise watching.missed(FORWARD)
            if lost := watching.rights_lost(self._site.look, self.blueprint):
                raise PrivilegeMissing(
                    "the tables could not be swapped any more: rights were taken away since the change began",
                    details=lost,
                    hint="nothing is lost: grant them again, and `segue resume` goes on",
                )
            if watching.signature(self._site.look, self.blueprint, FORWARD) != self._detail["signature"]:
                raise watching.changed(
                    self._altered(FORWARD), ", ".join(str(member.table) for member in self.blueprint.members)
                )

    def _altered(self, direction: str) -> list[str]:
        """Say what others changed of the tables since they were looked at first."""
        return watching.altered(
            self._site.look, self.blueprint, direction, self._detail.get(f"objects {direction}", {})
        )

    def retained(self) -> Retained | None:
        """Return what is kept back of the server's log, as the reader saw last; None where nothing is."""
        return self._reader.retained() if self._reader is not None else None

    def parity(self) -> list[str]:
        """Compare everything beside the rows."""
        with self._telling():
            return [
                line
                for member in self.blueprint.members
                for line in parity.compare(self._site.look, self.blueprint, member)
            ]

    def slower(self) -> list[str]:
        """Return statements that would be planned worse."""
        with self._telling():
            return planners.slower(self._site, self.blueprint)

    # -- swapping

    def rehearse(self, probes: int) -> Rehearsed:
        """Try the swap's locks."""
        with self._telling():
            return swap.rehearse(self._site, self.blueprint, probes)

    def swap(
        self,
        patience: Patience,
        budget: float,
        note: Callable[[str], None],
        *,
        most: int = 300,
        cancel: Sequence[str] = (),
    ) -> Swapped:
        """Put the new tables in place."""
        with self._telling():
            self._follow()
            if cancel:
                swap.cancel(self._site, cancel, note)
            left = self._take_out(FORWARD, note, lambda: None, every=False)
            if left:
                raise LockNotGranted(f"the swap waits: {sum(left.values()):,} rows do not fit the new foreign keys")
            swapped = self._swap(FORWARD, patience, budget, note, most, self._detail["signature"])
            self._phase = Phase.REVERSIBLE
            return swapped

    def _swap(
        self,
        direction: str,
        patience: Patience,
        budget: float,
        note: Callable[[str], None],
        most: int,
        expected: str,
    ) -> Swapped:
        drawn = self.blueprint
        for member in drawn.members:
            if (direction, member.number) not in self._swappers:
                flow = member.forward if direction == FORWARD else member.backward
                self._swappers[(direction, member.number)] = Drainer(
                    self._site.work, flow, drawn.log(member, direction), drawn.id, member.number, direction
                )
        reader = self._reader
        key = EffectKey(self._key.execution, self._key.plan, self._key.plan_hash, self._key.step, direction, swap.SWAP)
        swapped = swap.swap(
            self._site,
            drawn,
            {number: drainer for (way, number), drainer in self._swappers.items() if way == direction},
            key,
            direction=direction,
            patience=patience,
            budget=budget,
            note=note,
            most=most,
            expected=expected,
            known=self._detail.get(f"objects {direction}", {}),
            triggers=self._detail.get("triggers" if direction == FORWARD else f"triggers after {FORWARD}"),
            check=self._orphans(direction).check,
            barrier=reader.barrier if reader is not None and direction == FORWARD else None,
        )
        row = self._site.look.execute("select detail from segue.change where id = %s", [drawn.id]).fetchone()
        self._detail = row[0] if row else self._detail
        return swapped

    def complete(self, patience: Patience, note: Callable[[str], None], boundary: Callable[[], None]) -> None:
        """Do what was left for after the swap."""
        with self._telling():
            direction = BACKWARD if self._phase is Phase.ROLLED_BACK else FORWARD
            if direction == FORWARD and self._reader is not None:
                self._reader.stop()
                self._reader = None
            if direction == FORWARD and self.blueprint.strategy == "ghost":
                ghost.end(self._site, self.blueprint)
            for member in self.blueprint.members:
                for text in dependents.after(member, self.blueprint, direction):
                    boundary()
                    try:
                        self._alone(text, patience, note)
                    except psycopg.errors.ForeignKeyViolation as error:
                        raise StepFailed(
                            f"{error.diag.message_primary}: {error.diag.message_detail}",
                            hint="the swap has taken place, and rows that are written now are checked; mend this one, "
                            "and `segue resume`",
                        ) from error
                    journal.point("online-completed-part")
            lines = parity.compare_after(self._site.look, self.blueprint, direction)
            for line in lines:
                note(f"not as before: {line}")
            if direction == FORWARD and "after" not in self._detail:
                self._detail = {
                    **self._detail,
                    "after": watching.signature(self._site.work, self.blueprint, BACKWARD),
                    f"objects {BACKWARD}": watching.objects(self._site.work, self.blueprint, BACKWARD),
                    "parity": lines,
                }
                with self._site.transaction() as connection:
                    self._keep(connection, detail=self._detail)

    def _alone(self, text: str, patience: Patience, note: Callable[[str], None]) -> None:
        """Run a statement that takes only weak locks, again where it could not have them at once."""
        from segue.databases.postgresql import parse
        from segue.databases.postgresql.locking import NotThisTime, lock_in_slices, set_local

        statements = parse.statements(text)

        def attempt(piece: float) -> None:
            with self._site.transaction() as connection:
                set_local(connection, "lock_timeout", piece)
                try:
                    connection.execute(text.encode())
                except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                    raise NotThisTime from error

        lock_in_slices(self._site.work, self._site.look, statements, patience, self._site.waits, attempt, note)

    # -- the way back

    def losses(self) -> list[Conflict]:
        """Bring the old tables up to date; return what they cannot hold."""
        with self._telling():
            if self._phase is Phase.ROLLED_BACK:
                return []
            self._check_way_back()
            for member in self.blueprint.members:
                while True:
                    drained = self._drain(member, None, compare=True, direction=BACKWARD)
                    if drained.differing:
                        raise StepFailed(
                            f"{drained.differing:,} rows of {member.table} differ right after they were brought back",
                            hint="is something else writing to the old table? Nothing was swapped back; look at it",
                        )
                    if drained.keys < FEW_KEYS:
                        break
            # What the new tables allow: the application may have used it.
            self._fit_again(BACKWARD)
            self._take_out(BACKWARD, lambda _: None, lambda: None, every=False)
            lost = conflicts.listed(self._site.look, self.blueprint, 1000, direction=BACKWARD)
            for _ in range(TRIES):
                if all(one.sqlstate != ORPHANED for one in lost):
                    break
                # Each table is brought up to date by itself: a row may have come before the one that it refers to.
                self._fit_again(BACKWARD)
                lost = conflicts.listed(self._site.look, self.blueprint, 1000, direction=BACKWARD)
            return lost

    def _fit_again(self, direction: str) -> None:
        """Bring everything up to date, and then the rows that what they refer to is there for by now."""
        for _ in range(2):
            for member in self.blueprint.members:
                self._drain(member, None, compare=False, direction=direction)
            self._orphans(direction).again()
        for member in self.blueprint.members:
            self._drain(member, None, compare=False, direction=direction)

    def _check_way_back(self) -> None:
        drawn = self.blueprint
        if "retiring" in self._detail:
            raise StepFailed(
                "the way back is being ended: the old tables are not kept current any more",
                hint="`segue change cleanup` drops the rest; change the tables again, the other way round",
            )
        if alive.emptied(self._site.look, drawn):
            old = alive.old_is(drawn.members)
            raise WouldLose(
                f"the server has emptied the unlogged {'old' if old else 'new'} table when it started after a crash: "
                "taking the change back would lose rows, or bring back what is gone",
                hint="nothing was changed; "
                + (
                    "to have the old definition again, change the table the other way round"
                    if old
                    else f"what the old table has is in schema {drawn.old_schema}: copy from there what is wanted"
                )
                + "; `segue change cleanup` ends the way back",
            )
        triggers = self._detail.get(f"triggers after {FORWARD}")
        if triggers is not None and watching.captured(self._site.look, drawn, BACKWARD) != triggers:
            raise watching.missed(BACKWARD)
        if "after" not in self._detail:
            return  # it was killed right after the swap, and nobody had time to change anything
        if watching.signature(self._site.look, drawn, BACKWARD) != self._detail["after"]:
            raise StepFailed(
                "somebody has changed the new tables since the swap: the old ones are not their past any more",
                details=self._altered(BACKWARD),
                hint="take that change back first; the way back stays open until the retention is over",
            )

    def swap_back(
        self,
        patience: Patience,
        budget: float,
        note: Callable[[str], None],
        *,
        most: int = 300,
        lossy: bool = False,
    ) -> Swapped:
        """Put the old tables back."""
        with self._telling():
            if self._phase is Phase.ROLLED_BACK:
                return Swapped(0.0, 0, 0)
            self._check_way_back()
            expected = watching.signature(self._site.work, self.blueprint, BACKWARD)
            swapped = self._swap(BACKWARD, patience, budget, note, most, expected)
            self._phase = Phase.ROLLED_BACK
            return swapped

    def conflicts(self, limit: int = 100) -> tuple[int, list[Conflict]]:
        """Return how many rows are refused, and some of them."""
        with self._telling():
            if self._phase is Phase.SWAPPING:
                self._orphans(FORWARD).again()
            return (
                conflicts.count(self._site.look, self.blueprint),
                conflicts.listed(self._site.look, self.blueprint, limit),
            )

    def backlog(self) -> int:
        """Return about how many entries are in the logs."""
        with self._telling():
            return sum(
                drain.backlog(self._site.look, self.blueprint.log(member, FORWARD)) for member in self.blueprint.members
            )

    # -- the end

    def discard(self, patience: Patience, note: Callable[[str], None]) -> None:
        """Remove everything that the change made."""
        with self._telling():
            if self._blueprint is None:
                return
            self._end_sessions()
            if self._phase is not Phase.ROLLED_BACK:
                # Before anything is removed: what is half removed must never be gone on with.
                self._advance(Phase.CANCELLED)
                journal.point("online-given-up")
            if self.blueprint.strategy == "ghost":
                ghost.end(self._site, self.blueprint)
            swap.remove(self._site, self.blueprint, patience, note)
            with self._site.transaction() as connection:
                self._keep(connection, ended_at=clock.now())

    def retire(self, patience: Patience, note: Callable[[str], None]) -> None:
        """End the way back."""
        with self._telling():
            self._end_sessions()
            if "retiring" not in self._detail:
                # Before anything is removed: an old table that is not kept current any more must never come back.
                self._detail = {**self._detail, "retiring": True}
                with self._site.transaction() as connection:
                    self._keep(connection, detail=self._detail)
                journal.point("online-retiring")
            swap.remove(self._site, self.blueprint, patience, note)
            shadow.remove_extras(self._site, self.blueprint, patience, note)
            with self._site.transaction() as connection:
                self._keep(connection, phase=Phase.COMPLETED.value, ended_at=clock.now())
            self._phase = Phase.COMPLETED

    def close(self) -> None:
        """End sessions that were opened for this change."""
        self._end_sessions()

    # -- sessions and errors

    def _follow(self) -> None:
        """See that what the application writes is followed, where that needs a reader."""
        if self.blueprint.strategy != "ghost" or self._reader is not None:
            return
        if self._phase in (Phase.COPYING_DATA, Phase.DRAINING, Phase.VERIFYING, Phase.SWAPPING):
            self._reader = ghost.Reader(self._site, self.blueprint, retained=self._spec.wal_limit)
            self._reader.start()

    def _session(self) -> Connection:
        session = self._site.open(synchronous_commit="off", jit="off")
        self._sessions.append(session)
        return session

    def _end_sessions(self) -> None:
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
        for session in self._sessions:
            session.close()
        self._sessions.clear()
        self._drainers.clear()
        self._swappers.clear()

    def _member(self, number: int) -> Member:
        return next(member for member in self.blueprint.members if member.number == number)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Let no error of the driver's leave, and no name in more quotes than it needs."""
        try:
            yield
        except psycopg.Error as error:
            raise self._explained(error) from error
        except StepFailed as error:
            error.message, error.details = readable(error.message), [*map(readable, error.details)]
            error.args = (error.message,)
            raise

    def _explained(self, error: psycopg.Error) -> SegueError:
        sessions = [self._site.work, self._site.look, *self._sessions]
        if any(session.closed for session in sessions) or isinstance(error, psycopg.errors.AdminShutdown):
            return OutcomeUnknown(
                f"the connection to {place(self._site.url)} was lost during an online change",
                hint="run again: how far it is stands in the target",
            )
        return explain(error, place(self._site.url))


def _system(connection: Connection) -> tuple[str, int]:
    """Return what tells this server's history from any other's."""
    row = connection.execute(
        "select (select system_identifier::text from pg_catalog.pg_control_system()), "
        "(select timeline_id from pg_catalog.pg_control_checkpoint())"
    ).fetchone()
    return (str(row[0]), int(row[1])) if row else ("", 0)


def _vacuum(member: Member) -> sql.Composed:
    return sql.SQL("vacuum (analyze) {}").format(member.forward.into.sql)


def _run(connection: Connection, texts: Sequence[str]) -> None:
    if texts:
        connection.execute(";\n".join(texts).encode())
