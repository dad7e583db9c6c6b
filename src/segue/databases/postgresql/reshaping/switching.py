"""Switches a move between different shapes to its other side, and finds out after a crash where it was."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.errors import explain
from segue.databases.postgresql.moving.fencing import lock_all, seal, sealed, set_fence, unseal
from segue.databases.postgresql.moving.support import (
    alone,
    check_drift,
    check_referenced,
    known_state,
    sequences,
    standing,
    where,
)
from segue.databases.postgresql.moving.switching import LEVEL_SECONDS
from segue.databases.postgresql.reshaping.applying import Applier
from segue.databases.postgresql.reshaping.capture import check, set_capture, set_rows
from segue.engine import journal
from segue.errors import Blocked, NotCaughtUp, OutcomeUnknown, SafelyUndone, SegueError
from segue.model.moves import MoveSwitched
from segue.model.quantities import duration
from segue.ports import Patience, Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.databases.postgresql.moving.support import Connection, Pair, Side
    from segue.databases.postgresql.reshaping.ways import Fit, Log, Way

    Note = Callable[[str], None]

#: Writers are made to wait once a whole turn takes less than this share of the budget.
SHARE = 0.4


def switch(
    pair: Pair, found: Fit, to: Side, *, budget: float, margin: int, patience: Patience, note: Note
) -> MoveSwitched:
    """Close the open side and open the other, losing nothing; the same takes it back, with the sides swapped.

    Raises SafelyUndone (NotCaughtUp among it) when writers would have waited longer than the budget, LockNotGranted
    when a transaction keeps the tables, DriftFound after DDL, Blocked where there is nothing to switch: each leaves
    everything as it was. OutcomeUnknown when a connection was lost at the commits: `recover` finds out.
    """
    away = pair.other(to)
    way = _way(found, pair, away)
    with ExitStack() as stack:
        a, a2 = (stack.enter_context(pair.open(away)) for _ in range(2))
        b = stack.enter_context(pair.open(to))
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
        check(pair, a, _logs(found, pair, away))
        applier = stack.enter_context(Applier(pair, away, way))
        _level(pair, away, applier, budget)
        waits = Waits()
        try:
            began = lock_all(pair, a, a2, patience, waits, note, lambda until: seal(pair, a, margin, until))
        except psycopg.Error as error:
            raise explain(error, where(pair, away)) from error
        journal.point("move-locked")
        turn = _Turn(pair, found, away, to, a, b, began, budget)
        drain = turn.carry_out(applier, max(now.epoch, then.epoch) + 1, margin)
        stopped = clock.ticks() - began
    note(f"writers waited {duration(stopped)}")
    return MoveSwitched(to.name, stopped, drain, waits.slices, waits.longest)


def _way(found: Fit, pair: Pair, away: Side) -> Way:
    way = found.there if away is pair.source else found.back
    if way is None:
        raise Blocked(
            f"the shape of move {pair.id} has no way back",
            hint="move the tables back by a move with a shape of its own",
        )
    return way


def _level(pair: Pair, away: Side, applier: Applier, budget: float) -> None:
    """Carry over until a whole turn is short; raises NotCaughtUp."""
    until = clock.ticks() + LEVEL_SECONDS
    while True:
        began = clock.ticks()
        turned = applier.turn()
        if turned.more is False and clock.ticks() - began < budget * SHARE:
            return
        if clock.ticks() > until:
            raise NotCaughtUp(
                f"what {where(pair, away)} writes was not carried over within {duration(LEVEL_SECONDS)}",
                hint="nothing was changed; `segue move follow` first, and switch when there is less to do",
            )
        if turned.more is None:
            clock.sleep(0.05)


class _Turn:
    """One switch, from the locks to the commits."""

    def __init__(
        self, pair: Pair, found: Fit, away: Side, to: Side, a: Connection, b: Connection, began: float, budget: float
    ) -> None:
        self._pair, self._found = pair, found
        self._away, self._to = away, to
        self._a, self._b = a, b
        self._began, self._budget = began, budget

    def carry_out(self, applier: Applier, epoch: int, margin: int) -> float:
        """Drain, close, open; return how long the drain took. All is undone before the first commit."""
        pair = self._pair
        try:
            check_drift(pair, self._away, self._a)
            check(pair, self._a, _logs(self._found, pair, self._away))
            while applier.turn(None, limit=self._left()).more is None:
                clock.sleep(0.01)
                self._left()
            if strays := applier.strays():
                raise Blocked(
                    f"{len(strays)} rows of {where(pair, self._away)} have no place on the other side",
                    details=strays,
                    hint="their keys have another constant than any part of the shape, or are none of the other "
                    "side's type: change or delete them, or stay here",
                )
            drained = clock.ticks() - self._began
            journal.point("move-drained")
            self._prepare(epoch, margin)
            self._left()
        except BaseException as error:
            for connection in (self._a, self._b):
                with suppress(psycopg.Error):
                    connection.execute("rollback")
            if isinstance(error, psycopg.errors.QueryCanceled):
                raise self._late() from error
            if isinstance(error, SegueError) and isinstance(error.__cause__, psycopg.errors.QueryCanceled):
                raise self._late() from error
            if isinstance(error, psycopg.Error):
                raise explain(error, f"move {pair.id}") from error
            raise
        try:
            self._a.execute("commit")
            journal.point("move-fenced")
            self._b.execute("commit")
        except psycopg.Error as error:
            raise OutcomeUnknown(
                f"a connection was lost while move {pair.id} was switched",
                hint="`segue move switch` or `segue move reverse` again: it looks at both databases first",
            ) from error
        journal.point("move-opened")
        return drained

    def _prepare(self, epoch: int, margin: int) -> None:
        """Write both transactions, and leave their commits."""
        for connection in (self._a, self._b):
            if connection is self._b:
                connection.execute("begin")
            connection.execute(
                "select pg_catalog.set_config('statement_timeout', %s, true)", [f"{round(self._left() * 1000) + 1}ms"]
            )
        beyond = limits(self._pair, self._found, self._away, self._a, margin)
        close(self._pair, self._found, self._away, self._a, epoch)
        open_(self._pair, self._found, self._to, self._b, epoch, beyond)

    def _left(self) -> float:
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


def _logs(found: Fit, pair: Pair, side: Side) -> tuple[Log, ...]:
    way = found.there if side is pair.source else found.back
    return way.logs if way is not None else ()


def _filtered(found: Fit, pair: Pair, side: Side) -> tuple[str, ...]:
    return tuple(found.filters) if side is pair.source else ()


def close(pair: Pair, found: Fit, side: Side, connection: Connection, epoch: int) -> None:
    """Close a side, within a transaction that has its tables' locks."""
    set_fence(pair, connection, closed=True)
    set_rows(pair, connection, _filtered(found, pair, side), closed=True)
    set_capture(pair, connection, _logs(found, pair, side), on=False)
    _settle(pair, connection, epoch, opened=False)


def open_(
    pair: Pair, found: Fit, side: Side, connection: Connection, epoch: int, beyond: dict[str, int] | None
) -> None:
    """Open a side, whose writes are logged from here on. `beyond`: by sequence, after which value it goes on."""
    set_capture(pair, connection, _logs(found, pair, side), on=True)
    set_fence(pair, connection, closed=False)
    set_rows(pair, connection, _filtered(found, pair, side), closed=False)
    unseal(pair, connection, beyond)
    # Where some rows stay, their table's sequence is nobody's alone, and is not among those that were sealed.
    known = {one.name for one in sequences(pair, connection)}
    for name in (beyond or {}).keys() - known:
        connection.execute(
            sql.SQL("select pg_catalog.setval(%s::regclass, greatest(last_value, %s::bigint), true) from {}").format(
                sql.SQL(name)
            ),
            [name, (beyond or {})[name]],
        )
    _settle(pair, connection, epoch, opened=True)


def _settle(pair: Pair, connection: Connection, epoch: int, *, opened: bool) -> None:
    connection.execute(
        sql.SQL("update {}.state set open = {}, epoch = {}").format(
            sql.Identifier(pair.name), sql.Literal(opened), sql.Literal(epoch)
        )
    )


def limits(pair: Pair, found: Fit, away: Side, connection: Connection, margin: int) -> dict[str, int]:
    """Return after which value each sequence of the side that opens goes on, by what the side that closes may draw."""
    result: dict[str, int] = {}
    ends = sealed(pair, connection)
    for target, source in found.sequences.items():
        mine, theirs = (source, target) if away is pair.source else (target, source)
        last = ends.get(mine)
        if last is None:
            row = connection.execute(sql.SQL("select last_value from {}").format(sql.SQL(mine))).fetchone()
            last = int(row[0]) + margin if row else margin
        result[theirs] = last
    return result


def recover(pair: Pair, found: Fit, *, finish: bool = True, note: Note = lambda words: None) -> Side:
    """Find out where a switch that was cut off had come to, and finish it or take it back; return the open side.

    The databases say it. One side open: that is where the application writes, and nothing is to be done. None: the
    closing was committed, so everything was carried over, and either side may be opened.
    """
    with ExitStack() as stack:
        work = {side.name: stack.enter_context(pair.open(side)) for side in (pair.source, pair.target)}
        for connection in work.values():
            alone(pair, connection)
        states = {side.name: known_state(pair, side, work[side.name]) for side in (pair.source, pair.target)}
        side = standing(pair, states["source"], states["target"])
        if side is not None:
            return side
        # The side that was closed last has the higher number.
        away = pair.source if states["source"].epoch > states["target"].epoch else pair.target
        side = pair.other(away) if finish else away
        note(f"the switch had closed {where(pair, away)} and opened nothing: opening {where(pair, side)}")
        beyond = limits(pair, found, away, work[away.name], 0) if finish else None
        eye = stack.enter_context(pair.open(side))
        connection = work[side.name]
        lock_all(pair, connection, eye, Patience(30, 60), Waits(), note)
        open_(pair, found, side, connection, max(one.epoch for one in states.values()), beyond)
        connection.execute("commit")
        journal.point("move-recovered")
        return side
