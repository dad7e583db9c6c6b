"""Read-only copies of tables in another database, which follow their home for good."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.resources import files
from typing import TYPE_CHECKING, NoReturn

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.errors import place
from segue.databases.postgresql.moving import following, live, schema
from segue.databases.postgresql.moving.fencing import arm, lock_all, set_fence
from segue.databases.postgresql.moving.mirrored import key_of, level, refuse_filled, refuse_referring
from segue.databases.postgresql.moving.preflight import Preflight
from segue.databases.postgresql.moving.slot import Keeper, drop_slot, slot_lives
from segue.databases.postgresql.moving.snapshot import columns_of, refuse_unlike
from segue.databases.postgresql.moving.support import (
    Pair,
    Side,
    alone,
    identity,
    install,
    members,
    qualified,
    require_logical,
    state,
    told,
    where,
)
from segue.databases.postgresql.moving.switching import LEVEL_SECONDS
from segue.engine import journal
from segue.errors import Blocked, InvalidInput, PrivilegeMissing, TargetUnreachable
from segue.model.moves import MoveStanding, MoveStarted, MoveSwitched
from segue.ports import Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.databases.postgresql.moving.support import Connection
    from segue.model.checks import Finding
    from segue.ports import Patience

    Note = Callable[[str], None]


class PostgresMirror:
    """See `segue.ports.moving.Mirror`.

    The source publishes, and nothing closes it. Whatever brings rows to the source is followed too: also what comes
    back to it when the home has moved elsewhere, as long as that move has a way back.
    """

    def __init__(self, id_: str, source: str, target: str, home: str) -> None:
        """Take a copy up; `home` is what people call the source."""
        self._pair = Pair(id_, Side("source", source), Side("target", target))
        self._home = home

    def preflight(self, tables: Sequence[str], *, make_tables: bool, once: bool) -> list[Finding]:
        """Look for all that stands in its way, and change nothing."""
        return Preflight(self._pair, tables, make_tables=make_tables, read_only=True).look()

    def start(
        self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note, make_tables: bool = False
    ) -> MoveStarted:
        """Bring the copy level with the source at one moment, and follow from there. Closed to writers from the start.

        Raises InvalidInput where the target's tables have rows of somebody else, Blocked where keys refer to them.
        """
        pair = self._pair
        began = clock.ticks()
        with ExitStack() as stack:
            a, a2, b, b2 = (
                stack.enter_context(pair.open(side)) for side in (pair.source, pair.source, pair.target, pair.target)
            )
            alone(pair, a)
            alone(pair, b)
            require_logical(pair, pair.source, a)
            with told(where(pair, pair.source)):
                names = [qualified(a, table) for table in tables]
                ours = self._other(b)
                if ours not in (None, identity(a)):
                    raise Blocked(
                        f"{where(pair, pair.target)} follows another database",
                        hint="give this one another name, or have it follow a new home with `segue move rehome`",
                    )
                if ours is not None and self._follows(a, b):
                    return MoveStarted({}, clock.ticks() - began, copied=False)
                made = schema.take(pair, a, names, patience.locks, note) if make_tables else None
            with told(where(pair, pair.target)):
                if made is not None:
                    made.make_tables()
                refuse_unlike(a, b, names)
                if state(pair, b) is None:
                    refuse_filled(b, names)
                refuse_referring(pair, b, names)
            with told(where(pair, pair.source)):
                self._publish(a, a2, names, identity(b), patience, note)
            with told(where(pair, pair.target)):
                install(pair, pair.target, b, names, both_ways=False, other=identity(a))
                self._name_home(b, identity(a))
                arm(pair, b, b2, patience, note, closed=True)
                journal.point("mirror-closed")
                following.unsubscribe(pair, pair.source, a, b)
            counts = self._level(a, b, b2, names, patience, note)
            if made is not None:
                made.make_rest(workers)
            with told(where(pair, pair.target)):
                for name in names:
                    b.execute(f"analyze {name}".encode())
                following.subscribe(pair, pair.source, a, b, relayed=True)
                following.enable(pair, pair.source, b)
                token = following.mark(pair, pair.source, a)
                following.await_marker(pair, pair.source, b, token, max(patience.work, LEVEL_SECONDS))
        journal.point("mirror-followed")
        return MoveStarted(counts, clock.ticks() - began, copied=True)

    def copy(
        self, tables: Sequence[str], *, workers: int, patience: Patience, note: Note, make_tables: bool = False
    ) -> MoveStarted:
        """Raise Blocked: a copy that is not followed is no read-only copy."""
        self._never("copied only once")

    def look(self) -> MoveStanding:
        """Say how far the copy is behind, and what keeps it so."""
        pair = self._pair
        with pair.open(pair.source) as a, pair.open(pair.target) as b:
            if state(pair, a) is None or state(pair, b) is None:
                return MoveStanding("source", 0, both_ways=False, followed=False)
            problem = None
            try:
                refuse_unlike(a, b, members(pair, a))
                refuse_referring(pair, b, members(pair, b))
            except (InvalidInput, Blocked) as error:
                problem = "; ".join([error.message, *error.details])
            lag = following.measure(pair, pair.source, a, b)
            return MoveStanding(
                open="source",
                switches=0,
                both_ways=False,
                followed=following.follows(pair, pair.source, b),
                lag_bytes=lag.bytes,
                lag_seconds=round(lag.seconds, 3),
                caught_up=lag.caught_up,
                problem=problem,
            )

    def turn(self, to: str, *, budget: float, margin: int, patience: Patience, note: Note) -> MoveSwitched:
        """Raise Blocked: the home stays where it is."""
        self._never("switched")

    def recover(self, *, finish: bool, note: Note) -> str:
        """Raise Blocked: there is no switch to recover from."""
        self._never("switched")

    def complete(self, patience: Patience, note: Note) -> None:
        """Raise Blocked: it never ends by itself."""
        self._never("completed")

    def leave(self, patience: Patience, note: Note) -> None:
        """Stop following the source and remove what is there; the copy stays, closed and as it is.

        A source that cannot be reached is told of, and left as it is.
        """
        pair = self._pair
        with ExitStack() as stack:
            b = stack.enter_context(pair.open(pair.target))
            alone(pair, b)
            try:
                a, a2 = (stack.enter_context(pair.open(pair.source)) for _ in range(2))
            except TargetUnreachable as error:
                note(f"{where(pair, pair.source)} keeps its slot and publication, as it cannot be reached: {error}")
                with told(where(pair, pair.target)):
                    following.forget(pair, pair.source, b)
                    self._forget_other(b)
                return
            alone(pair, a)
            with told(f"move {pair.id}"):
                following.unsubscribe(pair, pair.source, a, b)
                self._forget_other(b)
                live.remove(pair, pair.source, a, a2, patience, note)
        journal.point("mirror-left")

    def cancel(self, patience: Patience, note: Note) -> None:
        """End it: the target keeps the tables as they are, and may write to them."""
        pair = self._pair
        self.leave(patience, note)
        with pair.open(pair.target) as b, pair.open(pair.target) as b2, told(where(pair, pair.target)):
            alone(pair, b)
            live.remove(pair, pair.target, b, b2, patience, note)
        journal.point("mirror-removed")

    def _never(self, what: str) -> NoReturn:
        raise Blocked(
            f"{self._pair.id} is a read-only copy, which is never {what}",
            hint="`segue move cancel` ends it; `segue move rehome` has it follow its tables' new home",
        )

    def _other(self, b: Connection) -> str | None:
        """Return which database the target follows; None where it follows none."""
        if state(self._pair, b) is None:
            return None
        query = sql.SQL("select other from {}.state").format(sql.Identifier(self._pair.name))
        row = b.execute(query).fetchone()
        return str(row[0]) if row and row[0] else None

    def _forget_other(self, b: Connection) -> None:
        if state(self._pair, b) is not None:
            b.execute(sql.SQL("update {}.state set other = ''").format(sql.Identifier(self._pair.name)))

    def _follows(self, a: Connection, b: Connection) -> bool:
        """Tell whether an earlier start has come to its end, and the slot has all that is needed to go on."""
        pair = self._pair
        if not slot_lives(a, pair.channel(pair.source)) or not following.follows(pair, pair.source, b):
            return False
        token = following.mark(pair, pair.source, a)
        following.await_marker(pair, pair.source, b, token, LEVEL_SECONDS)
        return True

    def _publish(
        self, a: Connection, a2: Connection, names: Sequence[str], reader: str, patience: Patience, note: Note
    ) -> None:
        pair = self._pair
        install(pair, pair.source, a, names, both_ways=False, other=reader)
        # By this table a move knows that what it ends is still followed: see `mirrored.check_unread`.
        a.execute(
            sql.SQL("create table if not exists {} as select {}::text as place").format(
                sql.Identifier(pair.name, "reader"), sql.Literal(place(pair.target.url))
            )
        )
        following.publish(pair, pair.source, a, a2, patience, note)

    def _name_home(self, b: Connection, other: str) -> None:
        script = files("segue.databases.postgresql").joinpath("sql/mirror.sql").read_text(encoding="utf-8")
        words = (
            f"Its home is {self._home} {place(self._pair.source.url)}, or where it was moved from there: write there"
        )
        own = sql.Identifier(self._pair.name)
        with b.transaction():
            b.execute(sql.SQL(script).format(schema=own, home=sql.Literal(words)))
            b.execute(sql.SQL("update {}.state set other = {}").format(own, sql.Literal(other)))

    def _level(
        self, a: Connection, b: Connection, b2: Connection, names: Sequence[str], patience: Patience, note: Note
    ) -> dict[str, int]:
        """Make the copy what the source is at the moment of a new slot, in one transaction; return the rows."""
        pair = self._pair
        with told(where(pair, pair.source)):
            drop_slot(a, pair.channel(pair.source))
            columns = {name: list(columns_of(a, name).values()) for name in names}
            keys = {name: key_of(a, name) for name in names}
        keeper = Keeper(pair, pair.source, patience.work)
        try:
            with pair.open(pair.source) as reading, told(where(pair, pair.target)):
                reading.execute("begin isolation level repeatable read, read only")
                reading.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(keeper.snapshot)))
                lock_all(pair, b, b2, patience, Waits(), note)
                try:
                    b.execute("set local session_replication_role = replica")
                except psycopg.errors.InsufficientPrivilege as error:
                    raise PrivilegeMissing(
                        "the role may not fill the copies without firing their triggers",
                        hint="on the target: GRANT SET ON PARAMETER session_replication_role, or use a role that may",
                    ) from error
                set_fence(pair, b, closed=False)
                first = self._first(b)
                if first:
                    refuse_filled(b, names)
                counts = {name: level(reading, b, name, columns[name], keys[name]) for name in names}
                set_fence(pair, b, closed=True)
                b.execute(sql.SQL("update {}.state set epoch = 1").format(sql.Identifier(pair.name)))
                b.execute("commit")
        finally:
            keeper.close()
        journal.point("mirror-level")
        for name, rows in counts.items():
            note(f"{'copied' if first else 'brought up to date'} {rows} rows of {name}")
        return counts

    def _first(self, b: Connection) -> bool:
        found = state(self._pair, b)
        return found is None or found.epoch == 0
