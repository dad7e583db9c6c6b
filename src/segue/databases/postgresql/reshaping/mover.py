"""A live move between different shapes as the rest of Segue asks for it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from psycopg import sql

from segue import clock
from segue.databases.postgresql.moving import snapshot
from segue.databases.postgresql.moving.fencing import arm, disarm, sealed, unseal
from segue.databases.postgresql.moving.support import (
    Pair,
    Side,
    alone,
    check_other,
    identity,
    install,
    known_state,
    relations,
    sequences,
    standing,
    state,
    told,
    where,
)
from segue.databases.postgresql.reshaping import capture, comparing, copying, switching
from segue.databases.postgresql.reshaping.applying import ENTRIES, Applier, skip_triggers
from segue.databases.postgresql.reshaping.fitting import fit
from segue.databases.postgresql.schema_state import adopt
from segue.engine import journal
from segue.errors import Blocked, DriftFound, InvalidInput, NotFound, SegueError, UsageError
from segue.model.checks import Finding, Light
from segue.model.moves import MoveStanding, MoveStarted, MoveSwitched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from segue.databases.postgresql.moving.support import Connection
    from segue.databases.postgresql.reshaping.ways import Fit, Way
    from segue.model.shapes import Shape
    from segue.model.verifying import TableVerdict, VerifySpec
    from segue.ports import Patience

    Note = Callable[[str], None]

#: How long a status waits for what is behind to move, in seconds.
LOOK_SECONDS = 1.0
#: How long to rest when there is nothing to carry over: at first, and at most.
REST_SECONDS, LONGEST_REST = 0.05, 1.0

_FORGET_SHARED = """
delete from {}.sequence as q where exists (
    select from (
        select d.objid as sequence, d.refobjid as relation from pg_catalog.pg_depend as d
        where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
        union all
        select d.refobjid, f.adrelid from pg_catalog.pg_depend as d
        join pg_catalog.pg_attrdef as f on f.oid = d.objid
        where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
    ) as u
    where u.sequence = pg_catalog.to_regclass(q.name)
        and (u.relation <> all(%(moved)s::regclass[]) or u.relation = any(%(parted)s::regclass[]))
)
"""


class ReshapingMover:
    """See `segue.ports.moving.Reshaper`."""

    def __init__(self, id_: str, source: str, target: str, shape: Shape) -> None:
        self._pair = Pair(id_, Side("source", source), Side("target", target))
        self._shape = shape

    def check(self) -> list[str]:
        """Fit the shape to both databases; return what a person should know."""
        return list(self._fit().warnings)

    def preflight(self, tables: Sequence[str], *, make_tables: bool, once: bool) -> list[Finding]:
        """Say what does not fit; the shape names the tables."""
        try:
            warnings = self._fit().warnings
        except SegueError as error:
            return [Finding(Light.RED, "the shape", error.message, error.hint or "", tuple(error.details))]
        fits = Finding(Light.GREEN, "the shape", f"{len(self._shape.sources)} tables fit")
        return [*(Finding(Light.AMBER, "the shape", warning) for warning in warnings), fits]

    def copy(
        self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note, make_tables: bool = False
    ) -> MoveStarted:
        """Refuse: what a shape names is copied and followed."""
        raise UsageError("a move to another shape is followed", hint="leave out --once")

    def start(
        self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note, make_tables: bool = False
    ) -> MoveStarted:
        """Copy the tables at one moment and carry over what was touched since. The shape names them."""
        pair = self._pair
        began = clock.ticks()
        found = self._fit()
        counts: dict[str, int] = {}
        with self._told(), ExitStack() as stack:
            a, eye = (stack.enter_context(pair.open(pair.source)) for _ in range(2))
            b, guard, eye_b = (stack.enter_context(pair.open(pair.target)) for _ in range(3))
            alone(pair, guard)
            followed = state(pair, b) is not None
            if not followed:
                check_other(pair, pair.source, a, identity(b))
                self._log(found, a, eye, identity(b), patience, note)
                counts = self._copy(found, b, workers, note)
                journal.point("reshape-copied")
                self._close(found, b, eye_b, identity(a), patience, note)
            if known_state(pair, pair.source, a).open:
                self._level(found, note)
                note("the target is level; `segue move follow` keeps it so")
        return MoveStarted(counts, clock.ticks() - began, copied=not followed)

    def _log(self, found: Fit, a: Connection, eye: Connection, other: str, patience: Patience, note: Note) -> None:
        """Have every write to the source logged from here on."""
        pair = self._pair
        with told(where(pair, pair.target)), pair.open(pair.target) as b, b.transaction():
            skip_triggers(b)
        with told(where(pair, pair.source)):
            if found.back is not None:
                with a.transaction():
                    skip_triggers(a)
            install(pair, pair.source, a, found.sources, both_ways=found.back is not None, other=other)
            capture.prepare(pair, a, found.there.logs, found.filters)
            # A target that was begun anew counts from nothing.
            a.execute(sql.SQL("update {}.position set sent = 0, taken = 0").format(sql.Identifier(pair.name)))
            _unseal_shared(pair, a, found)
            capture.arm_rows(pair, a, eye, found.there.logs, found.filters, patience, note)
            arm(pair, a, eye, patience, note, closed=False)
            capture.capture(pair, a, eye, found.there.logs, patience, note, on=True)

    def _copy(self, found: Fit, b: Connection, workers: int, note: Note) -> dict[str, int]:
        """Copy everything at a moment after the first logged write; rows that no expression takes are named."""
        pair = self._pair
        with told(where(pair, pair.target)):
            if snapshot.claim(pair, b, found.targets):
                note("an earlier copy was not finished, and its snapshot is gone: copying anew")
        landings = [landing for group in found.there.groups for landing in group.landings]
        rows = copying.copy(pair, landings, workers, note)
        with told(where(pair, pair.target)):
            for name in found.targets:
                b.execute(sql.SQL("analyze {}").format(sql.SQL(name)))
        return {name: rows[name] for name in found.targets}

    def _close(self, found: Fit, b: Connection, eye: Connection, other: str, patience: Patience, note: Note) -> None:
        """Make the target's part of the move: closed, and with the way back prepared."""
        pair = self._pair
        logs = found.back.logs if found.back is not None else ()
        with told(where(pair, pair.target)):
            with b.transaction():
                install(pair, pair.target, b, found.targets, both_ways=bool(logs), other=other)
                capture.prepare(pair, b, logs, {})
            arm(pair, b, eye, patience, note, closed=True)
            capture.capture(pair, b, eye, logs, patience, note, on=False)
        journal.point("reshape-closed")

    def follow(self, *, once: bool, patience: Patience, note: Note, stop: Callable[[], bool] = lambda: False) -> int:
        """Carry over what is touched on the open side until told to stop, or the move has ended; return the entries.

        `once`: until nothing is left. Any number of processes may do so; they take turns.
        """
        found = self._fit()
        total = 0
        lost = 0.0
        while not stop():
            try:
                side = self._open_side()
            except NotFound:
                return total
            way = None if side is None else found.there if side is self._pair.source else found.back
            if side is None or way is None:
                if once:
                    raise Blocked(
                        "nothing is followed: " + ("a switch was cut off" if side is None else "there is no way back"),
                        hint="`segue move status` tells how it stands",
                    )
                clock.sleep(LONGEST_REST)
                continue
            try:
                total += self._follow(side, way, once=once, stop=stop)
                lost = 0.0
                if once:
                    return total
            except DriftFound:
                raise
            except Blocked:
                # Switched meanwhile: look anew which side is open.
                clock.sleep(REST_SECONDS)
            except SegueError as error:
                if error.exit_code not in (69, 75) or lost > patience.work:
                    raise
                note(f"{error.message}; trying again")
                lost += LONGEST_REST
                clock.sleep(LONGEST_REST)
        return total

    def _follow(self, side: Side, way: Way, *, once: bool, stop: Callable[[], bool]) -> int:
        total, rest = 0, REST_SECONDS
        with Applier(self._pair, side, way) as applier:
            while not stop():
                turned = applier.turn()
                total += turned.entries
                if turned.more:
                    continue
                if once and turned.more is False:
                    return total
                rest = REST_SECONDS if turned.entries else min(rest * 1.5, LONGEST_REST)
                clock.sleep(rest)
        return total

    def look(self) -> MoveStanding:
        """Say how it stands."""
        pair = self._pair
        with self._told(), pair.open(pair.source) as a, pair.open(pair.target) as b:
            at_source, at_target = state(pair, a), state(pair, b)
            if at_source is None or at_target is None:
                return MoveStanding("source", 0, both_ways=False, followed=False)
            side = standing(pair, at_source, at_target)
            epoch = max(at_source.epoch, at_target.epoch)
            if side is None or (side is pair.target and not at_source.both_ways):
                return MoveStanding(
                    None if side is None else side.name, epoch, both_ways=at_source.both_ways, followed=True
                )
            mine, theirs = (a, b) if side is pair.source else (b, a)
            seconds, size, entries = self._behind(mine, theirs)
            until = clock.ticks() + LOOK_SECONDS
            caught_up = seconds < LOOK_SECONDS
            while not caught_up and clock.ticks() < until:
                clock.sleep(0.1)
                caught_up = self._behind(mine, theirs)[0] < LOOK_SECONDS
        return MoveStanding(
            side.name, epoch, both_ways=at_source.both_ways, followed=True, lag_bytes=size,
            lag_seconds=round(seconds, 3), caught_up=caught_up, lag_rows=entries,
        )  # fmt: skip

    def _behind(self, mine: Connection, theirs: Connection) -> tuple[float, int, int]:
        """Return since how many seconds something waits, what the logs take in bytes, and how many entries they have.

        Entries are counted up to a million in each log.
        """
        schema = sql.Identifier(self._pair.name)
        row = theirs.execute(
            sql.SQL(
                "select coalesce(extract(epoch from clock_timestamp() - level_at), 0)::float8 from {}.position"
            ).format(schema)
        ).fetchone()
        sizes = mine.execute(
            "select coalesce(sum(pg_catalog.pg_relation_size(oid)), 0)::bigint, array_agg(relname::text) "
            "from pg_catalog.pg_class where relnamespace = pg_catalog.to_regnamespace(%s) and relkind = 'r' "
            "and relname like 'log\\_%%'",
            [self._pair.name],
        ).fetchone()
        entries = capture.backlog(self._pair, mine, (sizes[1] if sizes else None) or ())
        return (float(row[0]) if row and entries else 0.0), int(sizes[0]) if sizes else 0, entries

    def verify(self, spec: VerifySpec, note: Note, *, way_back: bool = False) -> list[TableVerdict]:
        """Compare what the rows of the source become with those of the target, the open side first.

        `way_back`: the other way round, to see which rows would not come back as they are.
        """
        found = self._fit()
        side = self._open_side()
        live = found.there if side is self._pair.source else found.back
        way = found.back if way_back else found.there
        if way is None:
            raise UsageError(f"the shape of move {self._pair.id} has no way back")
        origin = self._pair.target if way_back else self._pair.source
        follow = None if side is None or live is None else (side, live)
        return list(comparing.compare(self._pair, origin, way, spec, note, live=follow))

    def turn(self, to: str, *, budget: float, margin: int, patience: Patience, note: Note) -> MoveSwitched:
        """Open one side and close the other."""
        side = self._pair.target if to == "target" else self._pair.source
        found = self._fit()
        with self._told():
            done = switching.switch(self._pair, found, side, budget=budget, margin=margin, patience=patience, note=note)
        self._adopt()
        return done

    def recover(self, *, finish: bool, note: Note) -> str:
        """Finish or undo a switch that was cut off."""
        with self._told():
            side = switching.recover(self._pair, self._fit(), finish=finish, note=note)
        self._adopt()
        return side.name

    def complete(self, patience: Patience, note: Note) -> None:
        """End it with the target in use."""
        self._end(self._pair.target, "reverse instead, or cancel", patience, note)

    def cancel(self, patience: Patience, note: Note) -> None:
        """Give it up with the source in use."""
        self._end(self._pair.source, "complete it, or reverse it first", patience, note)

    def _end(self, wanted: Side, instead: str, patience: Patience, note: Note) -> None:
        pair = self._pair
        with self._told(), ExitStack() as stack:
            a, a2 = (stack.enter_context(pair.open(pair.source)) for _ in range(2))
            b, b2 = (stack.enter_context(pair.open(pair.target)) for _ in range(2))
            alone(pair, a)
            alone(pair, b)
            at_source, at_target = state(pair, a), state(pair, b)
            if at_source and at_target:
                found = standing(pair, at_source, at_target)
            else:
                # An earlier end was cut off, or the target was never reached.
                found = pair.source if at_source and at_source.open else wanted
            if found is not wanted:
                which = where(pair, found) if found else "neither side"
                raise Blocked(f"{which} of move {pair.id} is open", hint=instead)
            # The side that stays in use last: until the other is gone, its state says which one it is.
            sides = [(pair.target, b, b2), (pair.source, a, a2)]
            for side, work, eye in sides if wanted is pair.source else reversed(sides):
                with told(where(pair, side)):
                    self._remove(work, eye, patience, note)
                note(f"nothing of the move is left in {where(pair, side)}")
                journal.point("reshape-removed")

    def _remove(self, work: Connection, eye: Connection, patience: Patience, note: Note) -> None:
        pair = self._pair
        names: list[str] = []
        if state(pair, work) is not None:
            names = [one.name for one in sequences(pair, work)]
            if sealed(pair, work):
                with work.transaction():
                    unseal(pair, work)
            capture.remove(pair, work, eye, patience, note)
            disarm(pair, work, eye, patience, note)
        work.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(pair.name)))
        adopt(work, names)

    # -- what several of them need

    def _told(self) -> AbstractContextManager[None]:
        """Have what the driver says, of whichever side, be one of our errors."""
        return told(f"move {self._pair.id}")

    def _fit(self) -> Fit:
        pair = self._pair
        with pair.open(pair.source) as a, pair.open(pair.target) as b, self._told():
            if identity(a) == identity(b) and set(self._shape.sources) & set(self._shape.targets):
                raise InvalidInput("a table cannot become itself", hint="name another table, or another database")
            return fit(self._shape, a, b)

    def _open_side(self) -> Side | None:
        pair = self._pair
        with self._told(), pair.open(pair.source) as a, pair.open(pair.target) as b:
            return standing(pair, known_state(pair, pair.source, a), known_state(pair, pair.target, b))

    def _level(self, found: Fit, note: Note) -> None:
        """Carry over until little is left."""
        with Applier(self._pair, self._pair.source, found.there) as applier:
            waiting = applier.backlog()
            if waiting > ENTRIES:
                note(f"carrying over {waiting} entries that were logged during the copy")
            while applier.turn().more is not False:
                clock.sleep(0)

    def _adopt(self) -> None:
        """Sequences' limits were changed: in no later run is that somebody else's doing."""
        pair = self._pair
        for side in (pair.source, pair.target):
            with pair.open(side) as connection, told(where(pair, side)):
                adopt(connection, [one.name for one in sequences(pair, connection)])


def _unseal_shared(pair: Pair, connection: Connection, found: Fit) -> None:
    """Leave sequences alone that rows which stay go on drawing from, of these tables or of others."""
    moved = [relation.name for relation in relations(connection, found.sources)]
    connection.execute(
        sql.SQL(_FORGET_SHARED).format(sql.Identifier(pair.name)), {"moved": moved, "parted": list(found.filters)}
    )
