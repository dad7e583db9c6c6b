"""One execution at a time on a target: a session lock, a fence that only grows, and a heartbeat."""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import Any

import psycopg

from segue import clock
from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.engine import journal
from segue.errors import Busy, ConfigurationError, FenceLost, PrivilegeMissing, TargetUnreachable

# One lock per database: the key is "segue" in ASCII.
LOCK_KEY = 0x7365677565
HEARTBEAT_SECONDS = 2.0
# A holder that has not been heard of for this long is taken over even if its session still stands.
LEASE_SECONDS = 10.0
SUPPORT_COMMENT = "(support 2)"
# Of these versions the script adds what is missing.
OLDER_SUPPORT = ("(support 1)",)


class Tenure:
    """A holding of the lease, as those who work under it see it: whose it is, and its number."""

    def __init__(self, *, execution: str, holder: str, fence: int) -> None:
        self.execution = execution
        self.holder = holder
        self.fence = fence
        self.taken_over: list[str] = []
        #: What sessions under this lease have beside the pinned settings: the word that lets them pass a closed fence.
        self.pins: dict[str, str] = {}
        #: How often the connection of the lease was made anew; sessions of an earlier generation were ended.
        self.generation = 0

    @property
    def application(self) -> str:
        """Return the application name under which this holder's sessions are known."""
        return f"segue:{self.execution}:{self.fence}"

    def alive(self) -> None:
        """Raise when the lease is known to be lost. One who does not hold it learns that from the fence."""

    def close(self) -> None:
        """Give it back. One who does not hold it has nothing to give."""

    def recover(self, patience: float, *, generation: int) -> None:
        """After a lost connection: hold it again, or raise. One who does not hold it only comes again."""


class Lease(Tenure):
    """The right of one execution to change one target.

    The session lock dies with its session; the fence row tells a process that lost the lease and wakes up later
    that it must not write; the heartbeat tells a holder that works from one that is gone while its connection stands.
    """

    def __init__(self, url: str, *, execution: str, holder: str, wait: float = 2.0) -> None:
        super().__init__(execution=execution, holder=holder, fence=0)
        self._url = url
        self._recovering = threading.Lock()
        self._stop = threading.Event()
        self._lost: BaseException | None = None
        self._beat: threading.Thread | None = None
        self._connection = self._open()
        try:
            self._take(wait)
        except psycopg.errors.InsufficientPrivilege as error:
            owner = self._support_owner()
            self._connection.close()
            if owner is None:
                raise explain(error, place(url)) from error
            raise PrivilegeMissing(
                f'the schema "segue" in {place(url)} belongs to role "{owner}", and this role may not use it',
                hint=f'give the environment a URL with the role "{owner}": '
                "one role does all of Segue's work in a database",
            ) from error
        except psycopg.Error as error:
            self._connection.close()
            raise explain(error, place(url)) from error
        except BaseException:
            self._connection.close()
            raise
        self._start_beating()

    def alive(self) -> None:
        """Raise when the lease is known to be lost."""
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Give the lease back: the lock goes with the session, the fence stays for the next."""
        self.pause()
        self._connection.close()

    def pause(self) -> None:
        """Stop the heartbeat; the lock stays."""
        self._stop.set()
        if self._beat is not None:
            self._beat.join(timeout=HEARTBEAT_SECONDS * 2)

    def recover(self, patience: float, *, generation: int, pause: float = 0.5) -> None:
        """Take the same lease again after the connection was lost; raise FenceLost when somebody else has it.

        `generation` is the one in which the caller lost its connection: of several who lost theirs together, the first
        takes the lease again, and the others only come after it.
        """
        with self._recovering:
            if self.generation != generation and self._lost is None:
                return
            self._recover(patience, pause)
            self.generation += 1

    def _recover(self, patience: float, pause: float) -> None:
        self.close()
        deadline = clock.ticks() + patience
        while True:
            try:
                self._connection = self._open()
                self._take(wait=max(0.0, deadline - clock.ticks()), again=True)
                break
            except FenceLost:
                self._connection.close()  # with it the lock, which is the next one's
                raise
            except (TargetUnreachable, psycopg.OperationalError) as error:
                self._connection.close()
                if clock.ticks() > deadline:
                    if isinstance(error, psycopg.Error):
                        raise explain(error, place(self._url)) from error
                    raise
                clock.sleep(pause)
            except psycopg.Error as error:
                self._connection.close()
                raise explain(error, place(self._url)) from error
        self._lost = None
        self._stop = threading.Event()
        self._start_beating()

    def _support_owner(self) -> str | None:
        owner: str | None = self._value(
            "select pg_catalog.pg_get_userbyid(nspowner)::text from pg_catalog.pg_namespace where nspname = 'segue'"
        )
        return owner

    # -- taking it

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        # Under another name until it has the lock: the one who has it ends what earlier holders left, not its rivals.
        return open_session(self._url, application=f"segue-taker:{self.execution}")

    def _take(self, wait: float, *, again: bool = False) -> None:
        deadline = clock.ticks() + wait
        # Polled, never waited for: a session that waits for a lock holds a snapshot, and CREATE INDEX CONCURRENTLY
        # of the holder would wait for that snapshot in turn, for ever.
        while not self._value("select pg_catalog.pg_try_advisory_lock(%s)", LOCK_KEY):
            if not self._remove_silent_holder() and clock.ticks() > deadline:
                raise self._busy()
            clock.sleep(0.2)
        self._value("select pg_catalog.set_config('application_name', %s, false)", f"segue:{self.execution}:lease")
        journal.point("lease-locked")
        self._ensure_support()
        row = self._connection.execute(
            "select execution, fence, holder from segue.lease where role = 'fence'"
        ).fetchone()
        if again and (row is None or (row[0], row[1]) != (self.execution, self.fence)):
            raise FenceLost(f'the lease was taken over by "{row[2] if row else "nobody"}" meanwhile')
        # Whoever held the fence before, we ourselves included, may have left statements behind that still run.
        self._end_other_sessions()
        if again:
            # Heard of at once: until the first heartbeat this session would look like a silent holder's.
            self._connection.execute("update segue.lease set at = clock_timestamp() where role = 'heartbeat'")
            return
        with self._connection.transaction():
            taken = self._value(
                "insert into segue.lease as l (role, execution, fence, holder) values ('fence', %(execution)s, 1, "
                "%(holder)s) on conflict (role) do update set execution = excluded.execution, fence = l.fence + 1, "
                "holder = excluded.holder, at = clock_timestamp() returning fence",
                {"execution": self.execution, "holder": self.holder},
            )
            self._connection.execute(
                "insert into segue.lease (role, execution, fence, holder) values ('heartbeat', %(execution)s, "
                "%(fence)s, %(holder)s) on conflict (role) do update set execution = excluded.execution, "
                "fence = excluded.fence, holder = excluded.holder, at = clock_timestamp()",
                {"execution": self.execution, "fence": taken, "holder": self.holder},
            )
        self.fence = int(taken)
        # Once more: a session that opened between the first look and the new fence has not seen it.
        self._end_other_sessions()
        journal.point("lease-taken")

    def _value(self, query: str, *parameters: Any) -> Any:
        arguments = parameters[0] if len(parameters) == 1 and isinstance(parameters[0], dict) else list(parameters)
        row = self._connection.execute(query.encode(), arguments).fetchone()
        return row[0] if row else None

    def _ensure_support(self) -> None:
        comment = self._value(
            "select pg_catalog.obj_description(oid, 'pg_namespace') from pg_catalog.pg_namespace "
            "where nspname = 'segue'"
        )
        if comment is not None:
            if SUPPORT_COMMENT in comment:
                if self._value("select pg_catalog.to_regclass('segue.labourer') is not null"):
                    return
            elif not any(older in comment for older in OLDER_SUPPORT):
                raise ConfigurationError(
                    'the target\'s schema "segue" was made by another version of Segue or by somebody else',
                    hint="use the newer Segue, or look at the schema's comment",
                )
        elif self._value(
            "select exists (select from pg_catalog.pg_class where relnamespace = to_regnamespace('segue'))"
        ):
            raise ConfigurationError(
                'the target has a schema "segue" that Segue did not make',
                hint="Segue keeps its lease, history and progress in a schema of this name; rename the other one",
            )
        script = files("segue.databases.postgresql").joinpath("sql/support.sql").read_text()
        if self._value("select pg_catalog.to_regnamespace('segue') is not null"):
            # Made beforehand by somebody who may create schemas, for a role that may not even try.
            script = script.replace("create schema if not exists segue;", "")
        try:
            with self._connection.transaction():
                self._connection.execute(script.encode())
        except psycopg.errors.InsufficientPrivilege as error:
            raise PrivilegeMissing(
                f'role "{self._connection.info.user}" may not create the schema "segue" in database '
                f'"{self._connection.info.dbname}"',
                hint=f'as the database\'s owner: GRANT CREATE ON DATABASE "{self._connection.info.dbname}" TO '
                f'"{self._connection.info.user}"; or CREATE SCHEMA segue AUTHORIZATION "{self._connection.info.user}"',
            ) from error

    def _busy(self) -> Busy:
        holder = "another session"
        since = ""
        if self._value("select pg_catalog.to_regclass('segue.lease') is not null"):
            row = self._connection.execute(
                "select holder, execution, extract(epoch from clock_timestamp() - at)::float8 from segue.lease "
                "where role = 'heartbeat'"
            ).fetchone()
            if row is not None:
                holder, since = f'"{row[0]}" (execution {row[1]})', f"; last heard of {row[2]:.0f} s ago"
        return Busy(
            f"the target {place(self._url)} is held by {holder}{since}",
            hint="wait until it has ended, or look at it with `segue status`",
        )

    def _remove_silent_holder(self) -> bool:
        """End a holder whose heartbeat has stopped: its machine is gone but its connection still stands."""
        if not self._value("select pg_catalog.to_regclass('segue.lease') is not null"):
            return False
        row = self._connection.execute(
            "select l.holder, a.pid from segue.lease as l, pg_catalog.pg_locks as k "
            "join pg_catalog.pg_stat_activity as a on a.pid = k.pid "
            "where l.role = 'heartbeat' and l.at < clock_timestamp() - make_interval(secs => %s) "
            "and k.locktype = 'advisory' and k.granted and k.objsubid = 1 "
            "and k.database = (select oid from pg_catalog.pg_database where datname = current_database()) "
            "and ((k.classid::bigint << 32) | k.objid::bigint) = %s and a.application_name like 'segue:%%' "
            # A session that began after the last sign of life is another taker, which has not written its own yet.
            "and a.backend_start < l.at",
            [LEASE_SECONDS, LOCK_KEY],
        ).fetchone()
        if row is None:
            return False
        self._end(row[1], f"{row[0]}, silent for more than {LEASE_SECONDS:.0f} s")
        return True

    def _end_other_sessions(self) -> None:
        rows = self._connection.execute(
            "select pid, application_name from pg_catalog.pg_stat_activity where datname = current_database() "
            "and application_name like 'segue:%' and pid <> pg_catalog.pg_backend_pid()"
        ).fetchall()
        for pid, application in rows:
            self._end(pid, application)

    def _end(self, pid: int, who: str) -> None:
        self.taken_over.append(who)
        try:
            gone = self._value("select pg_catalog.pg_terminate_backend(%s, 10000)", pid)
        except psycopg.errors.InsufficientPrivilege as error:
            user = self._connection.info.user
            raise PrivilegeMissing(
                f'role "{user}" may not end session {pid} of an earlier run ({who}), which belongs to another role',
                hint=f'run as the role that began, or as a superuser: GRANT pg_signal_backend TO "{user}"',
            ) from error
        if not gone and self._value("select exists (select from pg_catalog.pg_stat_activity where pid = %s)", pid):
            raise Busy(
                f"session {pid} of an earlier run ({who}) does not end",
                hint="it may be in the middle of an uninterruptible step; run again when it is gone",
            )

    # -- keeping it

    def _start_beating(self) -> None:
        self._beat = threading.Thread(target=self._beating, args=(self._stop,), name="segue heartbeat", daemon=True)
        self._beat.start()

    def _beating(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                changed = self._connection.execute(
                    "update segue.lease set at = clock_timestamp() where role = 'heartbeat' and execution = %s "
                    "and fence = %s",
                    [self.execution, self.fence],
                ).rowcount
            except psycopg.Error as error:
                if not stop.is_set():
                    self._lost = explain(error, place(self._url))
                return
            if changed == 0:
                self._lost = FenceLost("the lease was taken over by another run; this one stops")
                return


def check_fence(connection: psycopg.Connection[Any], execution: str, fence: int) -> None:
    """Hold the fence row for this transaction; raise FenceLost when the lease is somebody else's by now."""
    row = connection.execute(
        "select 1 from segue.lease where role = 'fence' and execution = %s and fence = %s for share", [execution, fence]
    ).fetchone()
    if row is None:
        raise FenceLost("the lease was taken over by another run; this one stops")
