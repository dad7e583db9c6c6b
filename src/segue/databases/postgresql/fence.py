"""Fences an application off: triggers that refuse its writes while a plan changes what it writes to."""

from __future__ import annotations

import secrets
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.lease import Tenure, check_fence
from segue.databases.postgresql.locking import NotThisTime, lock_in_slices, set_local
from segue.engine import journal
from segue.errors import CannotTell, LockNotGranted, OutcomeUnknown, PrivilegeMissing, StepFailed
from segue.model.fences import FenceState
from segue.model.impact import Duration, Lock, Statement, TableLock
from segue.model.quantities import duration
from segue.ports import Patience, Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

#: How sessions of Segue's own are told from the application's: they know the word that the closed fence's row holds.
PASS = "segue.pass"  # noqa: S105  the name of the setting, not the word
#: How long one table is tried for when its trigger goes; the fence is open by then, and a later run comes back to it.
REMOVAL_SECONDS = 5.0
# How often tables that appear while the fence is made are seen to before the run gives up.
ROUNDS = 5

# Ordinary and partitioned tables. Leaves too: a statement that names a leaf passes its parent's triggers by. What an
# extension brought is its own business, unless it is named.
_OF_SCHEMA = b"""
select c.oid from pg_catalog.pg_class as c
where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident(%(schema)s)) and c.relkind in ('r', 'p')
    and c.relpersistence <> 't'
    and not exists (
        select from pg_catalog.pg_depend as d
        where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    )
"""

_BELOW = b"""
with recursive below as (
    select unnest(%(tables)s::oid[]) as oid
    union
    select i.inhrelid from pg_catalog.pg_inherits as i inner join below as b on b.oid = i.inhparent
)
select c.oid::bigint, c.oid::regclass::text, pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    (
        select t.tgenabled::text from pg_catalog.pg_trigger as t, segue.fence as f
        where t.tgrelid = c.oid and t.tgfoid = pg_catalog.to_regprocedure('segue.fence_guard()')
            and t.tgargs = convert_to(f.window_id, 'UTF8') || '\\000'::bytea
        limit 1
    )
from below inner join pg_catalog.pg_class as c on c.oid = below.oid and c.relkind in ('r', 'p')
-- Parents first, as whoever locks a partitioned table does.
order by c.relispartition, c.oid
"""

_ARMED = """
select t.tgrelid::bigint, t.tgrelid::regclass::text, t.tgname from pg_catalog.pg_trigger as t
where t.tgfoid = pg_catalog.to_regprocedure('segue.fence_guard()') and not t.tgisinternal
order by t.tgrelid
"""

# What `pg_trigger.tgenabled` says of ENABLE ALWAYS, and of DISABLE.
_ALWAYS = "A"
_ENABLED = _ARMED.replace("not t.tgisinternal", "not t.tgisinternal and t.tgenabled <> 'D'")
_SWITCHED_OFF = _ARMED.replace("not t.tgisinternal", "not t.tgisinternal and t.tgenabled <> 'A'")

_STATE = """
select execution, direction, state, closed_at, until, opened_at,
    extract(epoch from until - clock_timestamp())::float8,
    extract(epoch from clock_timestamp() - closed_at)::float8,
    extract(epoch from opened_at - closed_at)::float8
from segue.fence
"""


class Fence:
    """See `segue.ports.ApplicationFence`. Everything here may be called again after a death at any point.

    The triggers are made disabled, and then enabled, each in a transaction of its own under its table's lock: whoever
    has written there has ended by then, and whoever has not will meet the trigger. Of several locks together some would
    be held by transactions that wait for the others. The triggers are ENABLE ALWAYS, so that no setting of a session
    leads around them. Opening is one row, and waits for nobody.
    """

    def __init__(
        self,
        work: psycopg.Connection[tuple[Any, ...]],
        eye: psycopg.Connection[tuple[Any, ...]],
        tenure: Tenure,
        *,
        url: str,
        schema: str,
        waits: Waits,
    ) -> None:
        self._work = work
        self._eye = eye
        self._tenure = tenure
        self._url = url
        self._schema = schema
        self._waits = waits

    def state(self) -> FenceState | None:
        """Return how the fence stands; None where there never was one."""
        return self._told(lambda: state(self._work))

    def arm(
        self,
        direction: str,
        tables: Sequence[str] | None,
        patience: Patience,
        note: Callable[[str], None],
        *,
        triggers: bool = True,
    ) -> int:
        """Make what closing needs, with everybody still in; return on how many tables there is a trigger now.

        `tables`: those named and what is below them, or all of the schema. Without `triggers` only the record is
        made, for a fence that a command closes. Raises Blocked when another execution has left its fence closed,
        PrivilegeMissing when a table is not ours, LockNotGranted.
        """
        return self._told(lambda: self._arm(direction, tables, patience, note, triggers))

    def closing(self, seconds: float) -> FenceState:
        """Record that the fence is about to be closed: the time counts from here."""

        def record() -> FenceState:
            with self._work.transaction():
                self._check()
                self._work.execute(
                    "update segue.fence set state = 'closing', closed_at = clock_timestamp(), "
                    "until = clock_timestamp() + make_interval(secs => %s) where state = 'armed' and execution = %s",
                    [seconds, self._tenure.execution],
                )
            journal.point("fence-closing")
            return self._state()

        return self._told(record)

    def close(
        self,
        tables: Sequence[str] | None,
        patience: Patience,
        note: Callable[[str], None],
        *,
        triggers: bool = True,
    ) -> FenceState:
        """Refuse the application's writes, table by table, and say when all of it is out.

        Without `triggers` a command has kept it out, and only that is recorded. Raises LockNotGranted when somebody's
        transaction stands in the way for longer than there is patience; the fence is open again then.
        """
        return self._told(lambda: self._close(tables, patience, note, triggers))

    def hold(self, patience: Patience, note: Callable[[str], None]) -> list[str]:
        """Switch on what somebody has switched off, and return on which tables: a step may have done so, unawares."""
        return self._told(lambda: list(self._hold(patience, note)))

    def adopt(self, direction: str) -> FenceState:
        """Keep a closed fence for the way back."""

        def record() -> FenceState:
            with self._work.transaction():
                self._check()
                self._work.execute(
                    "update segue.fence set direction = %s where state <> 'open' and execution = %s",
                    [direction, self._tenure.execution],
                )
            return self._state()

        return self._told(record)

    def open(self) -> FenceState:
        """Let the application in again. Waits for no lock."""

        def record() -> FenceState:
            with self._work.transaction():
                self._check()
                self._work.execute(
                    "update segue.fence set state = 'open', opened_at = clock_timestamp() "
                    "where state <> 'open' and execution = %s",
                    [self._tenure.execution],
                )
                journal.point("fence-before-open")
            journal.point("fence-opened")
            return self._state()

        return self._told(record)

    def disarm(self, seconds: float, note: Callable[[str], None]) -> list[str]:
        """Remove the triggers of an open fence, a table at a time; return the tables whose lock could not be had."""
        return self._told(lambda: list(self._disarm(seconds, note)))

    # -- arming

    def _arm(
        self,
        direction: str,
        tables: Sequence[str] | None,
        patience: Patience,
        note: Callable[[str], None],
        triggers: bool,
    ) -> int:
        self._make_support()
        deadline = clock.ticks() + patience.locks
        self._claim(direction, deadline, note)
        learn_pass(self._work, self._tenure)
        if not triggers:
            return 0
        for _ in range(ROUNDS):
            found = self._tables(tables)
            missing = [(oid, name) for oid, name, enabled in found if enabled is None]
            if not missing:
                return len(found)
            for oid, name in missing:
                self._make_trigger(oid, name, _left(deadline), note)
        raise StepFailed(
            "new tables keep appearing while the application's fence is made",
            hint="stop what creates tables or partitions, or name the tables in the plan's `fence`",
        )

    def _make_support(self) -> None:
        """Make the table and the function. With replacing them a crash in between needs no thought."""
        script = files("segue.databases.postgresql").joinpath("sql/fence.sql").read_bytes()
        with self._work.transaction():
            self._check()
            self._work.execute(script)

    def _claim(self, direction: str, deadline: float, note: Callable[[str], None]) -> None:
        """Take the one row there is, unless another execution's fence still stands."""
        before = state(self._work)
        if before is None or before.state == "open":
            # What an earlier window has left would belong to none, and refuse: it goes while the row still lets pass.
            for oid, name, trigger in self._work.execute(_ENABLED).fetchall():
                self._switch(oid, name, trigger, "disable", _left(deadline), note)
        with self._work.transaction():
            self._check()
            if before is not None and before.state != "open":
                if before.execution != self._tenure.execution:
                    raise before.standing()
                if before.direction != direction:
                    self._work.execute("update segue.fence set direction = %s", [direction])
                return
            self._work.execute(
                "insert into segue.fence (execution, direction, state, window_id, pass, fence) "
                "values (%(execution)s, %(direction)s, 'armed', %(window)s, %(pass)s, %(fence)s) "
                "on conflict (one) do update set execution = excluded.execution, direction = excluded.direction, "
                "state = 'armed', window_id = excluded.window_id, pass = excluded.pass, fence = excluded.fence, "
                "closed_at = null, until = null, opened_at = null",
                {
                    "execution": self._tenure.execution,
                    "direction": direction,
                    "window": secrets.token_hex(8),
                    "pass": secrets.token_hex(16),
                    "fence": self._tenure.fence,
                },
            )
        journal.point("fence-claimed")

    def _make_trigger(self, oid: int, name: str, patience: Patience, note: Callable[[str], None]) -> None:
        lock = _Locking("fencing off", [(oid, name)], Lock.SHARE_ROW_EXCLUSIVE)

        def attempt(piece: float) -> None:
            with self._work.transaction():
                self._check()
                if not lock.take(self._work, piece):
                    return  # it is gone meanwhile
                table = sql.SQL(name)
                row = self._work.execute("select window_id from segue.fence").fetchone()
                self._work.execute(
                    sql.SQL(
                        "create or replace trigger segue_fence before insert or update or delete or truncate on {} "
                        "for each statement execute function segue.fence_guard({})"
                    ).format(table, sql.Literal(row[0] if row else ""))
                )
                self._work.execute(sql.SQL("alter table {} disable trigger segue_fence").format(table))

        lock.go(self._work, self._eye, patience, self._waits, attempt, note)
        journal.point("fence-armed")

    def _switch(
        self, oid: int, name: str, trigger: str, how: str, patience: Patience, note: Callable[[str], None]
    ) -> None:
        """Enable or disable one trigger, once whoever has written to its table has ended."""
        lock = _Locking("fencing off", [(oid, name)], Lock.SHARE_ROW_EXCLUSIVE)

        def attempt(piece: float) -> None:
            with self._work.transaction():
                self._check()
                if lock.take(self._work, piece):
                    words = sql.SQL("alter table {} {} trigger {}")
                    self._work.execute(words.format(sql.SQL(name), sql.SQL(how), sql.Identifier(trigger)))

        lock.go(self._work, self._eye, patience, self._waits, attempt, note)

    def _tables(self, tables: Sequence[str] | None) -> list[tuple[int, str, str | None]]:
        """Return oid, name and the state of this window's trigger, None without one, of all tables meant."""
        if tables is None:
            oids = [row[0] for row in self._work.execute(_OF_SCHEMA, {"schema": self._schema}).fetchall()]
        else:
            oids = [self._named(name) for name in tables]
        found = self._work.execute(_BELOW, {"tables": oids}).fetchall()
        foreign = [name for _, name, ours, _ in found if not ours]
        if foreign:
            raise PrivilegeMissing(
                f"{len(foreign)} of {len(found)} tables belong to other roles, and cannot be fenced off",
                details=foreign[:20],
                hint="only their owner may fence tables off: GRANT that role to this one, run as one who owns all, "
                "name the tables that matter in the plan's `fence`, or keep the application out by a command of yours",
            )
        return [(oid, name, enabled) for oid, name, _, enabled in found]

    def _named(self, name: str) -> int:
        row = self._work.execute(
            "select c.oid::bigint, c.relkind::text from pg_catalog.pg_class as c "
            "where c.oid = pg_catalog.to_regclass(%s)",
            [name],
        ).fetchone()
        if row is None or row[1] not in ("r", "p"):
            raise StepFailed(
                f'the plan\'s fence names "{name}", which is {"no table" if row else "not there"}',
                hint="correct `tables` in the plan's `fence`",
            )
        return int(row[0])

    # -- closing

    def _close(
        self, tables: Sequence[str] | None, patience: Patience, note: Callable[[str], None], triggers: bool
    ) -> FenceState:
        before = self._state()
        if before.execution != self._tenure.execution:
            raise before.standing()
        if before.state == "closed":
            return before
        if triggers:
            try:
                self._enable_all(before.direction, tables, clock.ticks() + patience.locks, note)
            except LockNotGranted:
                self.open()
                raise
        with self._work.transaction():
            self._check()
            self._work.execute("update segue.fence set state = 'closed' where state = 'closing'")
            journal.point("fence-before-close")
        journal.point("fence-closed")
        return self._state()

    def _enable_all(
        self, direction: str, tables: Sequence[str] | None, deadline: float, note: Callable[[str], None]
    ) -> None:
        for _ in range(ROUNDS):
            found = self._tables(tables)
            if all(enabled == _ALWAYS for _, _, enabled in found):
                return
            if any(enabled is None for _, _, enabled in found):
                self._arm(direction, tables, _left(deadline), note, triggers=True)
            for oid, name, enabled in found:
                if enabled not in (None, _ALWAYS):
                    self._switch(oid, name, "segue_fence", "enable always", _left(deadline), note)
                    journal.point("fence-enabled")
        raise StepFailed(
            "new tables keep appearing while the application's fence is closed",
            hint="stop what creates tables or partitions, or name the tables in the plan's `fence`",
        )

    def _hold(self, patience: Patience, note: Callable[[str], None]) -> Iterator[str]:
        for oid, name, trigger in self._work.execute(_SWITCHED_OFF).fetchall():
            self._switch(oid, name, trigger, "enable always", patience, note)
            yield name

    # -- afterwards

    def _disarm(self, seconds: float, note: Callable[[str], None]) -> Iterator[str]:
        now = state(self._work)
        if now is None:
            return
        if now.state != "open":
            raise now.standing()
        deadline = clock.ticks() + seconds
        for oid, name, trigger in self._work.execute(_ARMED).fetchall():
            left = max(0.0, min(REMOVAL_SECONDS, deadline - clock.ticks()))
            try:
                remove(self._work, self._eye, (oid, name, trigger), left, self._check, self._waits, note)
            except LockNotGranted:
                yield name

    # -- parts

    def _check(self) -> None:
        check_fence(self._work, self._tenure.execution, self._tenure.fence)

    def _state(self) -> FenceState:
        found = state(self._work)
        if found is None:
            raise CannotTell(
                "the record of the application's fence is gone from the target",
                hint="somebody removed segue.fence; triggers named segue_fence may still refuse writes",
            )
        return found

    def _told(self, ask: Callable[[], T]) -> T:
        self._tenure.alive()
        try:
            return ask()
        except psycopg.Error as error:
            if self._work.closed or self._eye.closed:
                raise OutcomeUnknown(
                    f"the connection to {place(self._url)} was lost at the application's fence",
                    hint="run again: Segue looks at the target before it goes on",
                ) from error
            raise explain(error, place(self._url)) from error


class _Locking:
    """One lock on some tables, taken by one statement: over a slow line each by itself would outlast the slice."""

    def __init__(self, verb: str, tables: Sequence[tuple[int, str]], lock: Lock) -> None:
        self._verb = verb
        self._tables = tables
        self._lock = lock

    def take(self, connection: psycopg.Connection[Any], piece: float) -> bool:
        """Take the lock inside the running transaction; False when a table is gone or has another name by now."""
        if not self._tables:
            return True
        set_local(connection, "statement_timeout", piece)
        only = sql.SQL(", ").join(sql.SQL("only {}").format(sql.SQL(name)) for _, name in self._tables)
        try:
            with connection.transaction():
                connection.execute(sql.SQL("lock table {} in {} mode").format(only, sql.SQL(self._lock.value)))
        except (psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected) as error:
            raise NotThisTime from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return False
        set_local(connection, "statement_timeout", 0)
        now = connection.execute(
            "select pg_catalog.to_regclass(name)::oid::bigint "
            "from unnest(%s::text[]) with ordinality as t (name, place) order by place",
            [[name for _, name in self._tables]],
        ).fetchall()
        return [row[0] for row in now] == [oid for oid, _ in self._tables]

    def go(
        self,
        work: psycopg.Connection[Any],
        eye: psycopg.Connection[Any],
        patience: Patience,
        waits: Waits,
        attempt: Callable[[float], None],
        note: Callable[[str], None],
    ) -> None:
        """Try in slices until it goes through; raises LockNotGranted that says what it was for."""
        statement = Statement(
            sql="",
            offset=0,
            verb=self._verb,
            locks=tuple(TableLock(name, self._lock) for _, name in self._tables),
            duration=Duration.INSTANT,
            transactional=True,
        )
        try:
            lock_in_slices(work, eye, [statement], patience, waits, attempt, note)
        except LockNotGranted as error:
            which = self._tables[0][1] if len(self._tables) == 1 else f"{len(self._tables)} tables"
            raise LockNotGranted(
                f"could not get the locks for {self._verb} {which} within {duration(patience.locks)}",
                details=error.details,
                hint="end the sessions named, or run again when they are done; `lock_timeout` in the plan's `fence` "
                "sets how long to try",
            ) from error


def _left(deadline: float) -> Patience:
    left = max(0.1, deadline - clock.ticks())
    return Patience(locks=left, work=left)


def state(connection: psycopg.Connection[Any]) -> FenceState | None:
    """Return how the fence of a database stands; None where there never was one."""
    row = connection.execute("select pg_catalog.to_regclass('segue.fence') is not null").fetchone()
    if row is None or not row[0]:
        return None
    found = connection.execute(_STATE).fetchone()
    return FenceState(*found) if found else None


def learn_pass(connection: psycopg.Connection[Any], tenure: Tenure) -> bool:
    """Find the word with which this execution's sessions pass its own fence; return whether there is one.

    Sessions under the lease that are opened later have it from the beginning; this one has it from now on.
    """
    row = connection.execute("select pg_catalog.to_regclass('segue.fence') is not null").fetchone()
    if row is None or not row[0]:
        return False
    word = connection.execute("select pass from segue.fence where execution = %s", [tenure.execution]).fetchone()
    if word is None:
        return False
    tenure.pins[PASS] = word[0]
    connection.execute("select pg_catalog.set_config(%s, %s, false)", [PASS, word[0]])
    return True


def remove(
    work: psycopg.Connection[Any],
    eye: psycopg.Connection[Any],
    which: tuple[int, str, str],
    seconds: float,
    check: Callable[[], None],
    waits: Waits,
    note: Callable[[str], None],
) -> None:
    """Drop one trigger of an open fence; raises LockNotGranted when a reader holds its table for too long."""
    oid, name, trigger = which
    lock = _Locking("removing the open fence from", [(oid, name)], Lock.ACCESS_EXCLUSIVE)

    def attempt(piece: float) -> None:
        with work.transaction():
            check()
            if lock.take(work, piece):
                work.execute(sql.SQL("drop trigger {} on {}").format(sql.Identifier(trigger), sql.SQL(name)))

    lock.go(work, eye, Patience(seconds, seconds), waits, attempt, note)
    journal.point("fence-removed")


def clear(connection: psycopg.Connection[Any], url: str) -> None:
    """Remove what open fences have left in a database that nobody works on.

    Raises Blocked while one is armed or closed: it is the application's way in that would be cleaned away.
    """
    now = state(connection)
    if now is not None and now.state != "open":
        raise now.standing()
    found = connection.execute(_ARMED).fetchall() if now is not None else []
    if not found:
        return
    with open_session(url, application="segue clean") as eye:
        for which in found:
            remove(connection, eye, which, REMOVAL_SECONDS, lambda: None, Waits(), lambda words: None)
