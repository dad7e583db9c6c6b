"""Carries what was touched to the other side: a turn at a time, each one snapshot of the side that is written to."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain
from segue.databases.postgresql.locking import set_local
from segue.databases.postgresql.moving.support import check_drift, told, where
from segue.databases.postgresql.passing import pass_through
from segue.databases.postgresql.reshaping import wording
from segue.databases.postgresql.reshaping.capture import backlog, check, log_name
from segue.databases.postgresql.reshaping.searching import culprit
from segue.engine import journal
from segue.errors import Blocked, DriftFound, PrivilegeMissing, StepFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from segue.databases.postgresql.moving.support import Connection, Pair, Side
    from segue.databases.postgresql.reshaping.ways import Group, Landing, Way

#: So many entries of a log are taken in a turn, unless a value moved between rows.
ENTRIES = 5_000
#: Before a turn waits longer than this for a table that is being emptied or altered, or for another one's turn, it
#: gives way.
LOCK_WAIT = 0.3
#: So often, in seconds, is looked at what seldom changes.
LOOK_AGAIN = 1.0
# A list is never analysed, so the planner knows nothing of it; of so few keys each is looked up in the key's index.
_SHUNNED = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
_FEW = "set local jit = off; " + "; ".join(f"set local {name} = off" for name in _SHUNNED)
_MANY = "set local jit = off; " + "; ".join(f"set local {name} = on" for name in _SHUNNED)


@dataclass(frozen=True, slots=True)
class Turned:
    """What a turn did. `more`: whether something may be left; None when another process was at it."""

    entries: int
    more: bool | None


class _GiveWay(Exception):
    """Another process is at it."""


class _Collision(Exception):
    """A value stands in another row, which may be about to lose it."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__()
        self.error = error


class _Unread(Exception):
    """The side that rows come from could not give them."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__()
        self.error = error


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise _Unread(error) from error


class Applier:
    """Sessions on both sides that carry rows one way. Any number of processes may have one: they take turns."""

    def __init__(self, pair: Pair, away: Side, way: Way) -> None:
        self._pair, self._away, self._into, self._way = pair, away, pair.other(away), way
        self._stack = ExitStack()
        self._watched: float | None = None
        self._leveled = -LOOK_AGAIN

    def __enter__(self) -> Applier:
        pins = {"idle_in_transaction_session_timeout": "0"}
        name = f"segue move {self._pair.id}"
        try:
            self.out = self._stack.enter_context(open_session(self._away.url, application=name, pins=pins))
            self.into = self._stack.enter_context(open_session(self._into.url, application=name, pins=pins))
            with told(where(self._pair, self._away)):
                for group in self._way.groups:
                    self.out.execute(wording.make_keys(group))
            with told(where(self._pair, self._into)):
                for group in self._way.groups:
                    for landing in group.landings:
                        self.into.execute(wording.make_stage(landing))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def backlog(self) -> int:
        """Return how many entries wait."""
        with told(where(self._pair, self._away)):
            return backlog(self._pair, self.out, map(log_name, self._way.logs))

    def strays(self) -> list[str]:
        """Return rows that were touched and that no part of the shape takes; entries of rows that are gone are dropped.

        Only while nobody else writes.
        """
        found: list[str] = []
        with told(where(self._pair, self._away)):
            for log in self._way.logs:
                self.out.execute(wording.forget_gone(self._pair, log))
                rows = self.out.execute(wording.kept_back(self._pair, log)).fetchall()
                found += [f"{row[0]} of {log.table}" for row in rows]
        return found

    def turn(self, most: int | None = ENTRIES, *, limit: float = 0.0) -> Turned:
        """Carry over what was touched: entries up to `most` of each log, or all that there are.

        `limit`: seconds that a statement may take, 0 for any time. Raises Blocked where the side is not open, or
        StepFailed for a row that the other side cannot take.
        """
        try:
            return self._turn(most, limit)
        except _Collision as collision:
            if most is None:
                raise self._refused(collision.error) from collision.error
        # A value that moved between rows: at a whole snapshot both of them are brought up to date.
        try:
            return self._turn(None, limit)
        except _Collision as collision:
            raise self._refused(collision.error) from collision.error

    def _turn(self, most: int | None, limit: float) -> Turned:
        pair = self._pair
        try:
            with told(where(pair, self._away)), self.out.transaction():
                self._enter(limit)
                if not self._waits():
                    self._say_level()
                    return Turned(0, False)
                self._watch()
                number, snapshot = self._count()
                with told(where(pair, self._into)), self.into.transaction():
                    self._begin(number, snapshot, limit)
                    turned = self._carry(most)
                # The other side has it: were this undone, it would be carried over again, to the same end.
                journal.point("reshape-applied")
        except _GiveWay:
            return Turned(0, None)
        journal.point("reshape-turned")
        return turned

    def _enter(self, limit: float) -> None:
        """Begin: locks first, since a snapshot from before them would not know that a table was emptied."""
        out, schema = self.out, sql.Identifier(self._pair.name)
        tables = sql.SQL(", ").join(map(sql.SQL, self._way.origins))
        out.execute("set transaction isolation level repeatable read, read write")
        set_local_before_snapshot(out, "lock_timeout", LOCK_WAIT)
        set_local_before_snapshot(out, "statement_timeout", limit)
        try:
            out.execute(sql.SQL("lock table {} in exclusive mode").format(sql.Identifier(self._pair.name, "turn")))
            out.execute(sql.SQL("lock table {} in access share mode").format(tables))
        except psycopg.errors.LockNotAvailable as error:
            raise _GiveWay from error
        set_local_before_snapshot(out, "lock_timeout", 0)
        if not _yes(out, sql.SQL("select open from {}.state").format(schema)):
            raise Blocked(f"{where(self._pair, self._away)} is not open, so nothing goes from there")

    def _waits(self) -> bool:
        """Tell whether there is anything to carry over."""
        looks = sql.SQL(" or ").join(
            sql.SQL("exists (select from {})").format(sql.Identifier(self._pair.name, f"log_{log.number}"))
            for log in self._way.logs
        )
        return _yes(self.out, sql.SQL("select {}").format(looks))

    def _say_level(self) -> None:
        """Note on the other side that there was nothing, if it was not noted just now."""
        if clock.ticks() - self._leveled < LOOK_AGAIN:
            return
        self._leveled = clock.ticks()
        with told(where(self._pair, self._into)), self.into.transaction():
            set_local(self.into, "lock_timeout", LOCK_WAIT)
            self.into.execute(
                sql.SQL("update {0}.position set level_at = now() where not (select open from {0}.state)").format(
                    sql.Identifier(self._pair.name)
                )
            )

    def _watch(self) -> None:
        """See now and then whether what is followed is still what it was; raises DriftFound."""
        if self._watched is None or clock.ticks() - self._watched > LOOK_AGAIN:
            check_drift(self._pair, self._away, self.out)
            check(self._pair, self.out, self._way.logs)
            self._watched = clock.ticks()

    def _count(self) -> tuple[int, str]:
        """Return this turn's number and the snapshot that it sees."""
        row = self.out.execute(
            sql.SQL(
                "update {}.position set sent = sent + 1 returning sent, pg_catalog.pg_current_snapshot()::text"
            ).format(sql.Identifier(self._pair.name))
        ).fetchone()
        return (int(row[0]), str(row[1])) if row else (0, "")

    def _begin(self, number: int, snapshot: str, limit: float) -> None:
        """Begin on the side that rows go to, past its fence. Raises DriftFound where it was set back."""
        pair, into = self._pair, self.into
        set_local(into, "statement_timeout", limit)
        skip_triggers(into)
        # What would be found at the commit alone could not be answered by a whole snapshot.
        into.execute("set constraints all immediate")
        set_local(into, "lock_timeout", LOCK_WAIT)
        query = sql.SQL(
            "update {0}.position set xact = pg_catalog.pg_current_xact_id(), snapshot = %(snapshot)s::pg_snapshot, "
            "at = now(), taken = case when taken = %(number)s - 1 then %(number)s else taken end "
            "returning taken = %(number)s, (select open from {0}.state)"
        )
        try:
            row = into.execute(
                query.format(sql.Identifier(pair.name)), {"snapshot": snapshot, "number": number}
            ).fetchone()
        except psycopg.errors.LockNotAvailable as error:
            raise _GiveWay from error
        set_local(into, "lock_timeout", 0)
        if row is None or row[1]:
            raise Blocked(f"{where(pair, self._into)} is open, so nothing is carried there")
        if not row[0]:
            raise DriftFound(
                f"{where(pair, self._into)} and {where(pair, self._away)} do not know of the same turns",
                hint="one of them was restored from a backup, or failed over to a standby that was behind: what was "
                "carried over since is gone there. `segue move cancel`, and begin again",
            )

    def _carry(self, most: int | None) -> Turned:
        pair, out, into = self._pair, self.out, self.into
        with told(where(pair, self._away)):
            emptied = {log.number for log in self._way.logs if _yes(out, wording.emptied(pair, log.number))}
        entries, more = 0, False
        for group in self._way.groups:
            anew = any(feed.log in emptied for feed in group.feeds)
            with told(where(pair, self._away)):
                taken, keys = self._list(group, None if anew else most, anew=anew)
            entries += taken
            more = more or (most is not None and not anew and taken >= most)
            if keys or anew:
                for landing in group.landings:
                    self._land(group, landing, keys, anew=anew)
        with told(where(pair, self._away)):
            for number in emptied:
                out.execute(wording.forget_emptied(pair, number))
        if not more:
            into.execute(sql.SQL("update {}.position set level_at = at").format(sql.Identifier(pair.name)))
        return Turned(entries + len(emptied), more)

    def _list(self, group: Group, most: int | None, *, anew: bool) -> tuple[int, int]:
        out = self.out
        row = out.execute(wording.take(self._pair, group, most)).fetchone()
        taken, keys = (int(row[0]), int(row[1])) if row else (0, 0)
        if anew:
            keys += out.execute(wording.take_all(group)).rowcount
        if keys > ENTRIES:
            out.execute(sql.SQL("analyze {}").format(wording.keys_table(group)))
        out.execute(_MANY if keys > ENTRIES else _FEW)
        return taken, keys

    def _land(self, group: Group, landing: Landing, keys: int, *, anew: bool) -> None:
        pair, out, into = self._pair, self.out, self.into
        query = wording.copy_out(wording.read_listed(group, landing), landing)
        with told(where(pair, self._away)):
            out.execute("savepoint segue_read")
            try:
                pass_through(out, query, into, wording.copy_in(landing), reading=_reading)
            except _Unread as unread:
                error = unread.error
                if out.closed or isinstance(error, psycopg.OperationalError):
                    raise error from None
                out.execute("rollback to savepoint segue_read")
                raise self._refused(error, culprit(out, group, landing), self._away) from error
            except psycopg.Error as error:
                raise explain(error, where(pair, self._into)) from error
            out.execute("release savepoint segue_read")
        if keys > ENTRIES:
            into.execute(sql.SQL("analyze {}").format(wording.stage(landing)))
        into.execute(_MANY if keys > ENTRIES else _FEW)
        if anew and landing.leads:
            into.execute(wording.clear_others(landing))
        try:
            with into.transaction():
                self._put(wording.put(landing))
        except _Collision:
            # Of what has come in itself, perhaps: an UPDATE looks at a unique value before its last row.
            self._put(wording.put_anew(landing))
        if landing.guard is not None and (row := into.execute(wording.strangers(landing)).fetchone()):
            raise StepFailed(
                f"the row {row[0]} of {landing.origin} would not be among those of {landing.into} that have moved",
                hint="give it under `reverse` what `where` demands, or correct the row",
            )

    def _put(self, statements: Iterable[sql.Composed]) -> None:
        try:
            for statement in statements:
                self.into.execute(statement)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
            raise _Collision(error) from error

    def _refused(self, error: psycopg.Error, row: str | None = None, side: Side | None = None) -> StepFailed:
        said = explain(error, where(self._pair, side or self._into))
        return StepFailed(
            said.message if row is None else f"{said.message}, at the row {row}",
            hint="correct the row where it is written, and go on: nothing is lost meanwhile",
            details=said.details,
        )


def set_local_before_snapshot(connection: Connection, name: str, seconds: float) -> None:
    """Set a timeout by a statement that takes no snapshot."""
    connection.execute(
        sql.SQL("set local {} = {}").format(sql.Identifier(name), sql.Literal(f"{round(seconds * 1000)}ms"))
    )


def skip_triggers(connection: Connection) -> None:
    """Let the transaction's writes fire no trigger and no foreign key: what they did is carried over by itself."""
    try:
        connection.execute("set local session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege as error:
        raise PrivilegeMissing(
            "the role may not write without firing triggers",
            hint="GRANT SET ON PARAMETER session_replication_role, or use a role that may",
        ) from error


def _yes(connection: Connection, query: sql.Composed) -> bool:
    row = connection.execute(query).fetchone()
    return bool(row and row[0])
