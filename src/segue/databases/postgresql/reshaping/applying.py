"""Carries what was touched to the other side: a turn at a time, each one snapshot of the side that is written to."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain
from segue.databases.postgresql.locking import set_local
from segue.databases.postgresql.moving.support import told, where
from segue.databases.postgresql.passing import pass_through
from segue.databases.postgresql.reshaping import wording
from segue.databases.postgresql.reshaping.capture import backlog
from segue.databases.postgresql.reshaping.searching import culprit
from segue.engine import journal
from segue.errors import Blocked, PrivilegeMissing, StepFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from segue.databases.postgresql.moving.support import Connection, Pair, Side
    from segue.databases.postgresql.reshaping.ways import Group, Landing, Way

#: So many entries of a log are taken in a turn, unless a value moved between rows.
ENTRIES = 5_000
#: Before a turn waits longer than this for a table that is being emptied or altered, or for another one's turn, it
#: gives way.
LOCK_WAIT = 0.3
# A list is never analysed, so the planner knows nothing of it; of so few keys each is looked up in the key's index.
_SHUNNED = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
_FEW = "set local jit = off; " + "; ".join(f"set local {name} = off" for name in _SHUNNED)
_MANY = "set local jit = off; " + "; ".join(f"set local {name} = on" for name in _SHUNNED)


@dataclass(frozen=True, slots=True)
class Turned:
    """What a turn did. `more`: whether something may be left; None when another process was at it."""

    entries: int
    more: bool | None


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
            return backlog(self._pair, self.out, self._way.logs)

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
        with told(where(pair, self._away)):
            try:
                with self.out.transaction():
                    if (snapshot := self._enter(limit)) is None:
                        return Turned(0, None)
                    with told(where(pair, self._into)), self.into.transaction():
                        turned = self._carry(most, snapshot, limit)
                    # The other side has it: were this undone, it would be carried over again, to the same end.
                    journal.point("reshape-applied")
            except psycopg.errors.LockNotAvailable:
                return Turned(0, None)
        journal.point("reshape-turned")
        return turned

    def _enter(self, limit: float) -> str | None:
        """Begin: locks first, since a snapshot from before them would not know that a table was emptied."""
        out, schema = self.out, sql.Identifier(self._pair.name)
        tables = sql.SQL(", ").join(map(sql.SQL, self._way.origins))
        out.execute("set transaction isolation level repeatable read, read write")
        set_local_before_snapshot(out, "lock_timeout", LOCK_WAIT)
        set_local_before_snapshot(out, "statement_timeout", limit)
        out.execute(sql.SQL("lock table {} in exclusive mode").format(sql.Identifier(self._pair.name, "turn")))
        out.execute(sql.SQL("lock table {} in access share mode").format(tables))
        set_local_before_snapshot(out, "lock_timeout", 0)
        row = out.execute(sql.SQL("select open, pg_current_snapshot()::text from {}.state").format(schema)).fetchone()
        if row is None or not row[0]:
            raise Blocked(f"{where(self._pair, self._away)} is not open, so nothing goes from there")
        return str(row[1])

    def _carry(self, most: int | None, snapshot: str, limit: float) -> Turned:
        pair, out, into = self._pair, self.out, self.into
        set_local(into, "statement_timeout", limit)
        skip_triggers(into)
        row = into.execute(
            sql.SQL(
                "update {0}.position set xact = pg_current_xact_id(), snapshot = %s::pg_snapshot, at = now() "
                "returning (select open from {0}.state)"
            ).format(sql.Identifier(pair.name)),
            [snapshot],
        ).fetchone()
        if row is None or row[0]:
            raise Blocked(f"{where(pair, self._into)} is open, so nothing is carried there")
        with told(where(pair, self._away)):
            emptied = {log.number for log in self._way.logs if _yes(out, wording.emptied(pair, log.number))}
        entries, more = 0, False
        for group in self._way.groups:
            anew = any(feed.log in emptied for feed in group.feeds)
            with told(where(pair, self._away)):
                taken, keys = self._list(group, None if anew else most, anew=anew)
            entries += taken
            more = more or (most is not None and not anew and taken >= most)
            if anew:
                for landing in group.landings:
                    if landing.leads:
                        into.execute(wording.clear(landing))
            if keys:
                for landing in group.landings:
                    self._land(group, landing, keys)
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

    def _land(self, group: Group, landing: Landing, keys: int) -> None:
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
        try:
            for statement in wording.put(landing):
                into.execute(statement)
        except psycopg.errors.UniqueViolation as error:
            raise _Collision(error) from error
        if landing.guard is not None and (row := into.execute(wording.strangers(landing)).fetchone()):
            raise StepFailed(
                f"the row {row[0]} of {landing.origin} would not be among those of {landing.into} that have moved",
                hint="give it under `reverse` what `where` demands, or correct the row",
            )

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
