"""A live move as the rest of Segue asks for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from segue import clock
from segue.databases.postgresql.moving import copying, live, once, ranges, schema, snapshot, switching
from segue.databases.postgresql.moving.preflight import Preflight
from segue.databases.postgresql.moving.slot import drop_slot, slot_lives
from segue.databases.postgresql.moving.support import (
    Pair,
    Side,
    alone,
    check_other,
    identity,
    qualified,
    sequences,
    state,
    told,
    where,
)
from segue.databases.postgresql.schema_state import adopt
from segue.engine import journal
from segue.model.moves import MoveStanding, MoveStarted, MoveSwitched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.databases.postgresql.moving.support import Connection
    from segue.model.checks import Finding
    from segue.ports import Patience

    Note = Callable[[str], None]


class PostgresMover:
    """See `segue.ports.moving.Mover`."""

    def __init__(self, id_: str, source: str, target: str) -> None:
        self._pair = Pair(id_, Side("source", source), Side("target", target))

    def preflight(self, tables: Sequence[str], *, make_tables: bool, once: bool) -> list[Finding]:
        """Look for all that stands in its way, and change nothing."""
        return Preflight(self._pair, tables, make_tables=make_tables, once=once).look()

    def start(
        self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note, make_tables: bool = False
    ) -> MoveStarted:
        """Copy the tables and follow them; with `make_tables` they need not be there."""
        pair = self._pair
        began = clock.ticks()
        with (
            pair.open(pair.source) as a,
            pair.open(pair.target) as b,
            pair.open(pair.target) as guard,
        ):
            alone(pair, guard)
            with told(where(pair, pair.source)):
                names = [qualified(a, table) for table in tables]
                followed = state(pair, b) is not None
            if not followed:
                made = schema.take(pair, a, names, patience.locks, note) if make_tables else None
                if made is not None and self._copied(a, b, names):
                    note("the copy is complete, and its slot has kept what was written since: going on after it")
                else:
                    self._copy(a, b, names, made, workers, patience, note)
                if made is not None:
                    made.make_rest(workers)
                with told(where(pair, pair.target)):
                    counts = ranges.counted(pair, b)
                    for name in names:
                        b.execute(f"analyze {name}".encode())
        live.follow(pair, names, patience, note)
        return MoveStarted({} if followed else counts, clock.ticks() - began, copied=not followed)

    def copy(
        self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note, make_tables: bool = False
    ) -> MoveStarted:
        """Copy the tables at one moment, and leave nothing else behind."""
        pair = self._pair
        began = clock.ticks()
        with pair.open(pair.source) as a, pair.open(pair.target) as b, pair.open(pair.target) as guard:
            alone(pair, guard)
            with told(where(pair, pair.source)):
                names = [qualified(a, table) for table in tables]
                made = schema.take(pair, a, names, patience.locks, note) if make_tables else None
            counts = once.copy(pair, a, b, names, made, workers, note)
        return MoveStarted(counts, clock.ticks() - began, copied=True)

    def _copied(self, a: Connection, b: Connection, names: Sequence[str]) -> bool:
        """Tell whether an earlier start has copied all, and the slot of that time is there.

        Ranges are struck out before a slot is made anew, so those that are done are of the slot that is there.
        """
        pair = self._pair
        with told(where(pair, pair.source)):
            lives = slot_lives(a, pair.channel(pair.source)) and state(pair, a) is not None
        with told(where(pair, pair.target)):
            check_other(pair, pair.source, a, identity(b))
            return lives and ranges.finished(pair, b) and set(ranges.counted(pair, b)) == set(names)

    def _copy(
        self,
        a: Connection,
        b: Connection,
        names: Sequence[str],
        made: schema.Schema | None,
        workers: int,
        patience: Patience,
        note: Note,
    ) -> None:
        pair = self._pair
        begun = state(pair, a) is not None
        with told(where(pair, pair.target)):
            check_other(pair, pair.source, a, identity(b))
            if made is not None:
                made.make_tables()
            snapshot.refuse_unlike(a, b, names)
            if snapshot.claim(pair, b, names) or begun:
                note("an earlier copy was not finished, and its snapshot is gone: copying anew")
                drop_slot(a, pair.channel(pair.source))
        keeper = live.begin(pair, names, patience, note)
        try:
            copying.copy(pair, keeper.snapshot, names, workers, note, alive=lambda: keeper.alive)
        finally:
            keeper.close()
        journal.point("move-copied")

    def look(self) -> MoveStanding:
        """Say how it stands."""
        with self._pair.open(self._pair.source) as a, self._pair.open(self._pair.target) as b:
            begun, followed = state(self._pair, a) is not None, state(self._pair, b) is not None
        if not begun and not followed:
            return MoveStanding("source", 0, both_ways=False, followed=False)
        found = live.look(self._pair)
        lag = found.lag
        return MoveStanding(
            open=found.open,
            switches=found.epoch,
            both_ways=found.both_ways,
            followed=followed,
            lag_bytes=lag.bytes if lag else None,
            lag_seconds=round(lag.seconds, 3) if lag else None,
            caught_up=lag.caught_up if lag else None,
        )

    def turn(self, to: str, *, budget: float, margin: int, patience: Patience, note: Note) -> MoveSwitched:
        """Open one side and close the other."""
        side = self._pair.target if to == "target" else self._pair.source
        with self._limiting():
            done = switching.switch(self._pair, side, budget=budget, margin=margin, patience=patience, note=note)
        return MoveSwitched(done.to, done.stopped, done.drain, done.slices, done.longest)

    def recover(self, *, finish: bool, note: Note) -> str:
        """Finish or undo a switch that was cut off."""
        with self._limiting():
            return switching.recover(self._pair, finish=finish, note=note).name

    def complete(self, patience: Patience, note: Note) -> None:
        """End it with the target in use."""
        with self._limiting():
            live.complete(self._pair, patience, note)

    def cancel(self, patience: Patience, note: Note) -> None:
        """Give it up with the source in use."""
        with self._limiting():
            live.cancel(self._pair, patience, note)

    @contextmanager
    def _limiting(self) -> Iterator[None]:
        """Change sequences' limits: in no later run is that somebody else's doing."""
        pair = self._pair
        found: dict[Side, list[str]] = {}
        for side in (pair.source, pair.target):
            with pair.open(side) as connection:
                if state(pair, connection) is not None:
                    found[side] = [one.name for one in sequences(pair, connection)]
        yield
        for side, names in found.items():
            with pair.open(side) as connection, told(where(pair, side)):
                adopt(connection, names)
