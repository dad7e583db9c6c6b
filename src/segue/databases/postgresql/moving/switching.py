"""Switches a move to its other side, and finds out after a crash where it was."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.errors import explain
from segue.databases.postgresql.moving import following
from segue.databases.postgresql.moving.fencing import MARGIN, lock_all, seal, sealed, set_fence, unseal
from segue.databases.postgresql.moving.slot import drop_slot, make_slot, slot_exists
from segue.databases.postgresql.moving.support import alone, check_drift, check_referenced, known_state, standing, where
from segue.engine import journal
from segue.errors import Blocked, NotCaughtUp, OutcomeUnknown, SafelyUndone
from segue.model.quantities import duration
from segue.ports import Patience, Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.databases.postgresql.moving.support import Connection, Pair, Side

    Note = Callable[[str], None]

#: How long a switch may keep writers waiting unless somebody says otherwise, in seconds.
BUDGET = 2.0
#: How long the sides may take to get level before writers are made to wait.
LEVEL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Switched:
    """What a switch took, in seconds: `stopped`, for which nobody could write, and of that `drain`."""

    to: str
    stopped: float
    drain: float
    #: How often the locks were tried for, and the longest that writers queued behind a try that was given up.
    slices: int
    longest: float


def switch(
    pair: Pair,
    to: Side,
    *,
    budget: float = BUDGET,
    patience: Patience | None = None,
    margin: int = MARGIN,
    note: Note = lambda words: None,
) -> Switched:
    """Close the open side and open the other, losing nothing; the same call takes it back, with the sides swapped.

    Raises SafelyUndone (NotCaughtUp among it) when writers would have waited longer than the budget, LockNotGranted
    when a transaction keeps the tables, DriftFound after DDL, Blocked where there is nothing to switch: each leaves
    everything as it was. OutcomeUnknown when a connection was lost at the commits: `recover` finds out.
    """
    patience = patience or Patience(30, 60)
    away = pair.other(to)
    with ExitStack() as stack:
        a, a2, b, b2 = (stack.enter_context(pair.open(side)) for side in (away, away, to, to))
        alone(pair, a)
        alone(pair, b)
        now, then = known_state(pair, away, a), known_state(pair, to, b)
        if now.open is False:
            raise Blocked(
                f"{where(pair, away)} is not open"
                + ("; the other side is" if then.open else ", nor is the other side"),
                hint="nothing to switch" if then.open else "`segue move status` tells how to finish or undo a switch",
            )
        for side, connection in ((away, a), (to, b)):
            check_drift(pair, side, connection)
        check_referenced(pair, away, a)
        settle(pair, note)
        token = following.mark(pair, away, a2)
        following.await_marker(pair, away, b2, token, LEVEL_SECONDS)
        waits = Waits()
        try:
            began = lock_all(pair, a, a2, patience, waits, note, lambda until: seal(pair, a, margin, until))
        except psycopg.Error as error:
            raise explain(error, where(pair, away)) from error
        journal.point("move-locked")
        turn = _Turn(pair, away, to, (a, a2, b, b2), began, budget)
        drain = turn.carry_out(max(now.epoch, then.epoch) + 1, both_ways=now.both_ways)
        stopped = clock.ticks() - began
    settle(pair, note)
    note(f"writers waited {duration(stopped)}")
    return Switched(to.name, stopped, drain, waits.slices, waits.longest)


class _Turn:
    """One switch, from the locks to the commits."""

    def __init__(
        self,
        pair: Pair,
        away: Side,
        to: Side,
        sessions: tuple[Connection, Connection, Connection, Connection],
        began: float,
        budget: float,
    ) -> None:
        self._pair = pair
        self._away = away
        self._to = to
        self._a, self._a2, self._b, self._b2 = sessions
        self._began = began
        self._budget = budget

    def carry_out(self, epoch: int, *, both_ways: bool) -> float:
        """Drain, close, open; return how long the drain took. All is undone before the first commit."""
        try:
            token = following.mark(self._pair, self._away, self._a2)
            check_drift(self._pair, self._away, self._a)
            following.await_marker(self._pair, self._away, self._b2, token, self._left())
            drained = clock.ticks() - self._began
            journal.point("move-drained")
            if not both_ways:
                self._turn_round()
            self._prepare(epoch)
            self._left()
        except BaseException as error:
            self._undo(both_ways=both_ways)
            if isinstance(error, psycopg.errors.QueryCanceled):
                raise self._late() from error
            if isinstance(error, psycopg.Error):
                raise explain(error, f"move {self._pair.id}") from error
            raise
        try:
            self._a.execute("commit")
            journal.point("move-fenced")
            self._b.execute("commit")
        except psycopg.Error as error:
            raise OutcomeUnknown(
                f"a connection was lost while move {self._pair.id} was switched",
                hint="`segue move switch` or `segue move reverse` again: it looks at both databases first",
            ) from error
        journal.point("move-opened")
        return drained

    def _prepare(self, epoch: int) -> None:
        """Write both transactions, and leave their commits."""
        state = sql.SQL("update {}.state set open = {}, epoch = {}")
        schema = sql.Identifier(self._pair.name)
        for connection in (self._a, self._b):
            if connection is self._b:
                connection.execute("begin")
            connection.execute(
                "select pg_catalog.set_config('statement_timeout', %s, true)", [f"{round(self._left() * 1000) + 1}ms"]
            )
        set_fence(self._pair, self._b, closed=False)
        unseal(self._pair, self._b, sealed(self._pair, self._a))
        set_fence(self._pair, self._a, closed=True)
        for connection, opened in ((self._a, False), (self._b, True)):
            connection.execute(state.format(schema, sql.Literal(opened), sql.Literal(epoch)))

    def _turn_round(self) -> None:
        """Where only one direction can be followed at a time: end this one, and begin the way back where it ended."""
        following.disable(self._pair, self._away, self._b2)
        drop_slot(self._b2, self._pair.channel(self._to))
        make_slot(self._pair, self._to, self._left())
        journal.point("move-turned")

    def _undo(self, *, both_ways: bool) -> None:
        for connection in (self._a, self._b):
            with suppress(psycopg.Error):
                connection.execute("rollback")
        if not both_ways:
            with suppress(psycopg.Error):
                following.enable(self._pair, self._away, self._b2)
                drop_slot(self._b2, self._pair.channel(self._to))

    def _left(self) -> float:
        """Return what is left of the budget, in seconds; raises SafelyUndone when nothing is."""
        left = self._budget - (clock.ticks() - self._began)
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> SafelyUndone:
        return SafelyUndone(
            f"the switch of move {self._pair.id} would have stopped writes for longer than {duration(self._budget)}",
            hint=f"nothing was changed, and {where(self._pair, self._away)} is open; try again when there is less to "
            "do, or allow it more time",
        )


def stand(pair: Pair) -> Side | None:
    """Return the side that is open; None when a switch was cut off between closing one and opening the other."""
    with pair.open(pair.source) as a, pair.open(pair.target) as b:
        return standing(pair, known_state(pair, pair.source, a), known_state(pair, pair.target, b))


def recover(pair: Pair, *, finish: bool = True, note: Note = lambda words: None) -> Side:
    """Find out where a switch that was cut off had come to, and finish it or take it back; return the open side.

    The databases say it. One side open: that is where the application writes, and nothing is to be done. None: the
    closing was committed, so the drain was complete, and either side may be opened.
    """
    with ExitStack() as stack:
        open_ = {side.name: stack.enter_context(pair.open(side)) for side in (pair.source, pair.target)}
        eyes = {side.name: stack.enter_context(pair.open(side)) for side in (pair.source, pair.target)}
        for connection in open_.values():
            alone(pair, connection)
        states = {side.name: known_state(pair, side, open_[side.name]) for side in (pair.source, pair.target)}
        found = standing(pair, states["source"], states["target"])
        if found is None:
            # The side that was closed last has the higher number.
            away = pair.source if states["source"].epoch > states["target"].epoch else pair.target
            side = pair.other(away) if finish else away
            note(f"the switch had closed {where(pair, away)} and opened nothing: opening {where(pair, side)}")
            if finish:
                _require_way_back(pair, side, eyes[side.name], both_ways=states["source"].both_ways)
            work = open_[side.name]
            lock_all(pair, work, eyes[side.name], Patience(30, 60), Waits(), note)
            set_fence(pair, work, closed=False)
            unseal(pair, work, sealed(pair, open_[away.name]) if finish else None)
            epoch = max(state.epoch for state in states.values())
            work.execute(
                sql.SQL("update {}.state set open = true, epoch = {}").format(
                    sql.Identifier(pair.name), sql.Literal(epoch)
                )
            )
            work.execute("commit")
            journal.point("move-recovered")
            found = side
    settle(pair, note)
    return found


def _require_way_back(pair: Pair, side: Side, connection: Connection, *, both_ways: bool) -> None:
    if not both_ways and not slot_exists(connection, pair.channel(side)):
        raise Blocked(
            f"the way back from {where(pair, side)} is gone: there is no slot {pair.channel(side)}",
            hint="undo the switch instead, or make the slot while both sides are closed",
        )


def settle(pair: Pair, note: Note = lambda words: None) -> None:
    """Have the closed side follow the open one, and nothing else, where only one direction can be followed.

    With both directions followed all the time there is nothing to do.
    """
    with pair.open(pair.source) as a, pair.open(pair.target) as b:
        at_source, at_target = known_state(pair, pair.source, a), known_state(pair, pair.target, b)
        live = standing(pair, at_source, at_target)
        if at_source.both_ways or live is None:
            return
        mine, theirs = (a, b) if live is pair.source else (b, a)
        closed = pair.other(live)
        following.disable(pair, closed, mine)
        # Its slot would keep the closed side's log for nobody; the next switch makes another.
        drop_slot(theirs, pair.channel(closed))
        if not slot_exists(mine, pair.channel(live)):
            raise NotCaughtUp(
                f"the slot {pair.channel(live)} is gone, so what {where(pair, live)} has written since cannot follow",
                hint="copy the tables anew: `segue move cancel`, and begin again",
            )
        following.enable(pair, live, theirs)
        note(f"{where(pair, closed)} follows {where(pair, live)}")
