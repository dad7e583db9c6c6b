"""Reads how a target bears the work: replicas, slots, archive, sessions, locks, and the application's latency.

Everything is read with ordinary privileges. What a role cannot see is said to be hidden, never taken for nothing.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.errors import StepFailed
from segue.model.quantities import count, duration, size
from segue.model.throttling import Reading, Signals, judged, stopping, unreadable
from segue.ports import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.model.throttling import ThrottleSettings

    Connection = psycopg.Connection[Any]

T = TypeVar("T")

# No question of ours lasts longer than this; one that would, says more than its answer.
ASK_SECONDS = 5
# What stands for the application's latency where nothing else does: a round trip with a look at the sessions.
PROBE = "select count(*) from pg_catalog.pg_stat_activity where state = 'active'"
# A server's own limits, as shares: of its connections at work, of what its slots may keep.
BUSY_SHARE = 0.8
SLOT_SHARE = 0.5
# How often statements that are not the application's are looked for.
FOREIGN_SECONDS = 5.0

_SEES_ALL = 'GRANT pg_monitor TO "{}" shows it'
# A function may be taken from the role, and some of those who run servers for others offer not all of them.
_NOT_FOR_US = (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)
_CHECKPOINTS = "select checkpoints_req from pg_catalog.pg_stat_bgwriter"
_CHECKPOINTS_17 = "select num_requested from pg_catalog.pg_stat_checkpointer"


def sample(connection: Connection) -> Sample:
    """Time a round trip, and count who works and who waits in this database."""
    began = clock.ticks()
    connection.execute("select pg_catalog.pg_backend_pid()")
    took = clock.ticks() - began
    row = connection.execute(
        "select count(*) filter (where wait_event_type = 'Lock'), count(*) filter (where state = 'active'), "
        "pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::bigint "
        "from pg_catalog.pg_stat_activity where datname = current_database()"
    ).fetchone()
    waiters, active, wal = row or (0, 0, 0)
    return Sample(round_trip_ms=took * 1000, lock_waiters=waiters, active=active, wal_bytes=wal)


def visible(connection: Connection) -> dict[str, str | None]:
    """Return, for each signal that limits may be set for, why this role cannot see it; None where it can.

    `statements` stands for the latency out of pg_stat_statements.
    """
    hidden: dict[str, str | None] = {}
    questions = {
        "replica-lag": "signals_replicas",
        "replica-delay": "signals_replicas",
        "slot-backlog": "signals_slots",
        "archive-backlog": "signals_server",
        "wal-rate": "signals_server",
        "active-sessions": "signals_server",
        "lock-waiters": "signals_waiters",
        "blocked-sessions": "signals_waiters",
    }
    server = None
    for name, question in questions.items():
        try:
            with connection.transaction():
                rows = _rows(connection, question)
        except _NOT_FOR_US as error:
            hidden[name] = str(error.diag.message_primary)
            continue
        server = rows[0] if question == "signals_server" else server
        hidden[name] = None
    if server is not None and not server.sees_all:
        who = _SEES_ALL.format(server.me)
        hidden["replica-lag"] = hidden["replica-delay"] = f"what replicas have replayed is hidden; {who}"
        hidden["active-sessions"] = f"the states of other roles' sessions are hidden; {who}"
    with connection.transaction():
        hidden["statements"] = _Statements(connection).missing()
    return hidden


class Gauge:
    """See `segue.ports.Gauge`. Two sessions, opened when used and again when lost: a slow probe holds up no look."""

    def __init__(self, url: str, *, application: str, schema: str) -> None:
        self._url = url
        self._application = application
        self._schema = schema
        self._sessions: dict[str, Connection] = {}
        self._closed = False
        self._closing = threading.Lock()
        self._locks = {"eye": threading.Lock(), "probe": threading.Lock()}
        self._past: deque[tuple[float, int]] = deque(maxlen=1800)
        self._checkpoints: deque[tuple[float, int]] = deque(maxlen=3)
        self._statements: _Statements | None = None

    def close(self) -> None:
        """End both sessions, and what they are asking."""
        with self._closing:
            self._closed = True
            sessions = dict(self._sessions)
        for name, session in sessions.items():
            if not (held := self._locks[name].acquire(timeout=0.2)):
                with suppress(psycopg.Error):
                    session.cancel_safe(timeout=2)
                held = self._locks[name].acquire(timeout=ASK_SECONDS)
            session.close()
            if held:
                self._locks[name].release()

    def sample(self) -> Sample:
        """Take a quick look."""
        return self._asked("eye", sample)

    def signals(self, limits: ThrottleSettings, replicas: Sequence[str]) -> Signals:
        """Read every signal that has not been turned off, and compare it with its limit."""
        return self._asked("eye", lambda connection: _Look(connection, limits, self._past, self._checkpoints)(replicas))

    def time(self, query: str | None) -> float:
        """Run a probe read-only; return its milliseconds."""

        def run(connection: Connection) -> float:
            began = clock.ticks()
            try:
                # In binary: so the server takes one statement and no more.
                connection.cursor(binary=True).execute((query or PROBE).encode(), binary=True)
            except psycopg.errors.QueryCanceled as error:
                raise StepFailed(f"the latency probe took longer than {ASK_SECONDS} s") from error
            except psycopg.Error as error:
                if connection.closed:
                    raise
                raise StepFailed(f"the latency probe failed: {error.diag.message_primary or error}") from error
            return (clock.ticks() - began) * 1000

        return self._asked("probe", run)

    def statements(self) -> float | None:
        """Return the mean milliseconds of the statements that the application ended since the last call.

        None when it ended none, or at the first call. Raises StepFailed when pg_stat_statements cannot be read.
        """

        def ask(connection: Connection) -> float | None:
            if self._statements is None or self._statements.connection is not connection:
                self._statements = _Statements(connection)
            return self._statements.mean()

        return self._asked("probe", ask)

    def statements_missing(self) -> str | None:
        """Return why pg_stat_statements cannot be read here; None when it can."""
        return self._asked("probe", lambda connection: _Statements(connection).missing())

    def _asked(self, name: str, ask: Callable[[Connection], T]) -> T:
        """Ask on a session; once more on a new one where it was lost."""
        with self._locks[name]:
            for last in (False, True):
                session = self._session(name)
                try:
                    return ask(session)
                except psycopg.Error as error:
                    if not session.closed or last or self._closed:
                        raise explain(error, place(self._url)) from error
        raise AssertionError("unreachable")

    def _session(self, name: str) -> Connection:
        session = self._sessions.get(name)
        if session is not None and not session.closed:
            return session
        pins = {"statement_timeout": f"{ASK_SECONDS}s", "default_transaction_read_only": "on"}
        session = open_session(self._url, application=self._application, schema=self._schema, pins=pins)
        with self._closing:
            self._sessions[name] = session
            if self._closed:
                session.close()
        return session


class _Look:
    """One look at all signals."""

    def __init__(
        self,
        connection: Connection,
        limits: ThrottleSettings,
        past: deque[tuple[float, int]],
        checkpoints: deque[tuple[float, int]],
    ) -> None:
        self.connection = connection
        self.limits = limits
        self.past = past
        self.checkpoints = checkpoints
        self.readings: list[Reading] = []
        self.unseen: dict[str, str] = {}

    def __call__(self, replicas: Sequence[str]) -> Signals:
        names = ["archive_backlog", "wal_rate", "active_sessions", "replica_lag", "replica_delay", "slot_backlog"]
        server = self._ask("signals_server", names)
        if not server:
            self._blind(replicas)
        else:
            self.past.append((clock.ticks(), server[0].lsn))
            self._archive(server[0])
            self._wal_rate()
            self._sessions(server[0])
            self._replicas(server[0], replicas)
            self._slots(server[0])
        self._waiters()
        self._checkpoint_gap()
        return Signals(self.readings, self.unseen)

    def _ask(self, question: str, names: Sequence[str]) -> list[Any]:
        """Ask one question for signals; where the role may not, each of them is hidden."""
        try:
            return _rows(self.connection, question)
        except _NOT_FOR_US as error:
            for name in names:
                self._hidden(name, _worded(name), str(error.diag.message_primary))
            return []

    def _hidden(self, limit: str, reading: str, why: str) -> None:
        """Say that a signal is hidden: it stops the work where somebody asked for it, and is named elsewhere."""
        known = self.limits.limit(limit)
        if known.off:
            return
        if known.asked:
            self.readings.append(unreadable(reading, f"{reading} cannot be read: {why}"))
        else:
            self.unseen[reading] = why

    # -- the server as a whole

    def _archive(self, server: Any) -> None:
        limit = self.limits.limit("archive_backlog")
        if limit.off or not server.archives:
            return
        behind = _segments(server.wal_file, server.last_archived_wal, server.segment)
        if behind is None:
            self._hidden("archive_backlog", "archive", "nothing has been archived since the statistics began")
            return
        backlog = behind * server.segment
        fails = ", and archiving fails" if server.archive_fails else ""
        words = f"{size(backlog)} of WAL wait to be archived{fails}"
        self.readings.append(judged("archive", backlog, "bytes", limit.value, words, slow=0.5, stop=1.0))

    def _wal_rate(self) -> None:
        limit = self.limits.limit("wal_rate")
        now, lsn = self.past[-1]
        before = next(((at, then) for at, then in self.past if now - at <= 6), self.past[-1])
        if limit.off or now - before[0] < 1:
            return
        rate = max(0.0, (lsn - before[1]) / (now - before[0]))
        self.readings.append(
            judged("WAL", rate, "bytes/s", limit.value, f"the server writes {size(rate)} of WAL a second")
        )

    def _sessions(self, server: Any) -> None:
        limit = self.limits.limit("active_sessions")
        if limit.off:
            return
        if not server.sees_all:
            who = _SEES_ALL.format(server.me)
            self._hidden("active_sessions", "sessions", f"the states of other roles' sessions are hidden; {who}")
            return
        most = limit.value if limit.value is not None else int(server.max_connections * BUSY_SHARE)
        words = f"{count(server.active)} other sessions work"
        self.readings.append(judged("sessions", server.active, "sessions", most, words))

    def _checkpoint_gap(self) -> None:
        limit = self.limits.limit("checkpoint_gap")
        if limit.off:
            return
        newer = self.connection.info.server_version >= 170000
        row = self.connection.execute(_CHECKPOINTS_17 if newer else _CHECKPOINTS).fetchone()
        now, asked = clock.ticks(), row[0] if row else 0
        if not self.checkpoints or self.checkpoints[-1][1] != asked:
            self.checkpoints.append((now, asked))
        if len(self.checkpoints) < 3:
            return  # the first is where the look began, not a checkpoint
        (then, before), (last, after) = self.checkpoints[-2], self.checkpoints[-1]
        gap = max((last - then) / max(1, after - before), now - last, 0.1)
        words = f"volume forces a checkpoint every {duration(gap)}"
        pressure = (limit.value or 0.0) / gap
        state = "ok" if pressure < 1 else "slow" if pressure < 4 else "stop"
        self.readings.append(Reading("checkpoints", gap, "s", limit.value, state, words, pressure, 4.0))

    # -- replicas and slots

    def _replicas(self, server: Any, expected: Sequence[str]) -> None:
        if self.limits.limit("replica_lag").off and self.limits.limit("replica_delay").off:
            return
        rows = self._ask("signals_replicas", ["replica_lag", "replica_delay"])
        if "replica lag" in self.unseen:
            self._blind(expected)
            return
        missing = Counter(expected)
        for row in rows:
            names = [name for name in (row.application_name, row.slot_name) if name]
            wanted = next((name for name in names if missing[name] > 0), None)
            if wanted is not None:
                missing[wanted] -= 1
            # Every standby is called "walreceiver" that was not given a name; its slot has one.
            name = wanted or next((name for name in reversed(names) if name != "walreceiver"), "walreceiver")
            self._replica(server, row, name, expected=wanted is not None)
        for name in missing.elements():
            self.readings.append(stopping(f"replica {name}", f'replica "{name}" is not connected', unit="bytes"))

    def _blind(self, expected: Sequence[str]) -> None:
        """Stop for the replicas that must be there, where nothing can be seen of any."""
        if self.limits.limit("replica_lag").off and self.limits.limit("replica_delay").off:
            return
        for name in expected:
            self.readings.append(unreadable(f"replica {name}", f'replica "{name}" cannot be seen', unit="bytes"))

    def _replica(self, server: Any, row: Any, name: str, *, expected: bool) -> None:
        lag, delay = self.limits.limit("replica_lag"), self.limits.limit("replica_delay")
        position = row.replayed if row.replayed is not None else row.received
        if position is None:
            why = f'how far replica "{name}" is behind cannot be seen'
            who = "" if server.sees_all else f"; {_SEES_ALL.format(server.me)}"
            if expected or lag.asked or delay.asked:
                self.readings.append(unreadable(f"replica {name}", why + who, unit="bytes"))
            else:
                self.unseen[f"replica {name}"] = why + who
            return
        behind = max(0, server.lsn - position)
        seconds = self._seconds_behind(position, server.lsn, row.delay)
        verb = "is" if row.replayed is not None else "has received all but the last"
        words = f'replica "{name}" {verb} {size(behind)}' + (" behind" if row.replayed is not None else "")
        if seconds >= 1:
            words += f" ({duration(seconds)})"
        by_bytes = judged(f"replica {name}", behind, "bytes", lag.value, words, slow=0.5, stop=1.0)
        by_time = judged(f"replica {name}", seconds, "s", delay.value, words, slow=0.5, stop=1.0)
        self.readings.append(by_time if by_time.pressure > by_bytes.pressure else by_bytes)

    def _seconds_behind(self, position: int, lsn: int, told: float | None) -> float:
        """Return for how long a position has been left behind.

        The server's own `replay_lag` says nothing of a replica that replays nothing, and is NULL on an idle one; here
        it is only the better word on times before this look began.
        """
        if position >= lsn:
            return 0.0
        now = self.past[-1][0]
        passed = [at for at, then in self.past if then > position]
        since = now - passed[0] if passed else 0.0
        return max(since, told or 0.0) if len(passed) == len(self.past) else since

    def _slots(self, server: Any) -> None:
        limit = self.limits.limit("slot_backlog")
        if limit.off:
            return
        most = limit.value
        if not limit.asked and server.slots_keep > 0:
            most = min(most or server.slots_keep, server.slots_keep * SLOT_SHARE)
        for row in self._ask("signals_slots", ["slot_backlog"]):
            name = f"slot {row.slot_name}"
            words = f'replication slot "{row.slot_name}" holds back {size(row.backlog)} of WAL'
            if row.wal_status == "unreserved":
                self.readings.append(stopping(name, f"{words} and is about to be lost", unit="bytes"))
            else:
                # What an unused slot holds back never shrinks: slowing down would only be a stop that takes longer.
                self.readings.append(judged(name, row.backlog, "bytes", most, words, stop=1.0))

    # -- locks

    def _waiters(self) -> None:
        waiting, behind = self.limits.limit("lock_waiters"), self.limits.limit("blocked_sessions")
        if waiting.off and behind.off:
            return
        for row in self._ask("signals_waiters", ["lock_waiters", "blocked_sessions"]):
            longest = f", the longest for {duration(row.longest)}" if row.waiters else ""
            if not waiting.off:
                words = f"{row.waiters} sessions wait for locks{longest}"
                self.readings.append(judged("lock waits", row.waiters, "sessions", waiting.value, words))
            if not behind.off:
                words = f"{row.behind_us} sessions wait for locks of Segue's"
                self.readings.append(judged("blocked by us", row.behind_us, "sessions", behind.value, words))


class _Key(NamedTuple):
    calls: int
    milliseconds: float


class _Statements:
    """What pg_stat_statements says of the application's statements: only means, and only of statements that ended."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._function: sql.Composable | None = None
        self._foreign: frozenset[int] = frozenset()
        self._looked = -FOREIGN_SECONDS
        self._before: _Key | None = None

    def missing(self) -> str | None:
        """Return why it cannot be read; None when it can."""
        row = self.connection.execute(
            "select n.nspname from pg_catalog.pg_extension as e "
            "join pg_catalog.pg_namespace as n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'"
        ).fetchone()
        if row is None:
            return "the extension pg_stat_statements is not installed in this database"
        self._function = sql.Identifier(row[0], "pg_stat_statements")
        try:
            with self.connection.transaction():
                self._totals()
        except psycopg.errors.Error as error:
            if self.connection.closed:
                raise
            return f"pg_stat_statements cannot be read: {error.diag.message_primary or error}"
        return None

    def mean(self) -> float | None:
        """Return the mean milliseconds of what ended since the last call; None when nothing did, or nobody can tell."""
        if self._before is None:
            if why := self.missing():
                raise StepFailed(why)
            # Once for the questions themselves, which the statistics know only when they have been asked.
            self._find_foreign()
            self._looked = -FOREIGN_SECONDS
        known = self._foreign
        self._find_foreign()
        now, before = self._totals(), self._before
        self._before = now
        # Entries that were left out, evicted or reset since make a sum smaller: such a difference means nothing.
        if before is None or known != self._foreign or now.calls <= before.calls:
            return None
        if now.milliseconds < before.milliseconds:
            return None
        return (now.milliseconds - before.milliseconds) / (now.calls - before.calls)

    def _totals(self) -> _Key:
        assert self._function is not None  # noqa: S101  # found before
        row = self.connection.execute(
            # Without the texts, which the server would read from a file each time.
            sql.SQL(
                "select coalesce(sum(calls), 0)::bigint, coalesce(sum(total_exec_time), 0)::float8 from {}(false) "
                "where dbid = (select oid from pg_catalog.pg_database where datname = current_database()) "
                "and (queryid is null or queryid <> all(%s::bigint[]))"
            ).format(self._function),
            [list(self._foreign)],
        ).fetchone()
        return _Key(*(row or (0, 0.0)))

    def _find_foreign(self) -> None:
        """Find the statements that are Segue's, ask the catalogs, or only begin and end transactions.

        Segue's are known by what its sessions ran last, and by its name in their text. Of other roles' statements
        the text is hidden without pg_read_all_stats; none of those is Segue's.
        """
        assert self._function is not None  # noqa: S101  # found before
        found = self.connection.execute(
            "select query_id from pg_catalog.pg_stat_activity "
            "where application_name like 'segue:%' and query_id is not null"
        ).fetchall()
        if clock.ticks() - self._looked >= FOREIGN_SECONDS:
            self._looked = clock.ticks()
            found += self.connection.execute(
                sql.SQL(
                    "select queryid from {}(true) where queryid is not null "
                    "and dbid = (select oid from pg_catalog.pg_database where datname = current_database()) "
                    "and (query like '%segue%' or query like '%pg_catalog.%' or lower(left(ltrim(query), 4)) "
                    "not in ('sele', 'inse', 'upda', 'dele', 'merg', 'with'))"
                ).format(self._function)
            ).fetchall()
        self._foreign |= {row[0] for row in found}


def _rows(connection: Connection, question: str) -> list[Any]:
    """Ask a question of `sql/`; the columns are the rows' attributes."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(_text(question)).fetchall()


@cache
def _text(question: str) -> bytes:
    return files("segue.databases.postgresql").joinpath(f"sql/{question}.sql").read_bytes()


def _worded(limit: str) -> str:
    return limit.replace("_", " ")


def _segments(current: str, archived: str | None, segment: int) -> int | None:
    """Return how many whole WAL files wait to be archived, by the names of the current and the last archived file.

    None when that cannot be told: nothing was archived yet, or on another timeline.
    """
    numbers = []
    for name in (current, archived or ""):
        try:
            numbers.append((name[:8], int(name[8:16], 16) * (2**32 // segment) + int(name[16:24], 16)))
        except ValueError:
            return None
    (here, now), (there, last) = numbers
    return max(0, now - last - 1) if here == there else None
