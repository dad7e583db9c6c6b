"""Targets under a lease, and steps run on them without a store: for tests of what reaches a target."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fix_hostile import administrator
from psycopg import conninfo

from segue.databases.postgresql import DATABASE
from segue.databases.postgresql.target import PostgresTarget
from segue.ports import FORWARD, Batch, EffectKey, Observed, Pace, Patience
from segue.steps.backfill import STEP as BACKFILL
from segue.steps.backfill import BackfillParams
from segue.steps.sql import STEP as SQL
from segue.steps.sql import SqlParams

Open = Callable[..., PostgresTarget]


@pytest.fixture
def open_target() -> Iterator[Open]:
    """Give a function that takes the lease on a database; every lease is given back at the end."""
    opened: list[PostgresTarget] = []

    def take(url: str, execution: str = "", *, holder: str = "tester", schema: str = "public") -> PostgresTarget:
        name = execution or f"e{secrets.token_hex(4)}"
        target = PostgresTarget(url, execution=name, holder=holder, schema=schema)
        opened.append(target)
        return target

    yield take
    for target in opened:
        target.close()


@pytest.fixture(params=["embedded", "debian"])
def any_database(request: pytest.FixtureRequest) -> str:
    """Give the URL of an empty database on each server in turn."""
    url: str = request.getfixturevalue("database" if request.param == "embedded" else "debian_database")
    return url


@pytest.fixture
def administered(any_database: str) -> str:
    """Give the URL of `any_database` as the server's superuser."""
    return administrator(any_database)


def make_role(url: str, *grants: str) -> str:
    """Make an ordinary role on a database's server; `{role}` in the grants is its name. Return the URL as that role."""
    name = f"role_{secrets.token_hex(4)}"
    grants = tuple(grant.format(role=name) for grant in grants)
    run_sql(administrator(url), f"CREATE ROLE {name} LOGIN PASSWORD 'word'", *grants)
    return conninfo.make_conninfo(url, user=name, password="word")


def drop_role(owner: str, url: str) -> None:
    """Drop a test's role together with the database that it was made for."""
    parts = conninfo.conninfo_to_dict(url)
    run_sql(
        conninfo.make_conninfo(administrator(owner), dbname="postgres"),
        f'DROP DATABASE IF EXISTS "{parts["dbname"]}" WITH (FORCE)',
        f"DROP ROLE {parts['user']}",
    )


@pytest.fixture
def ordinary(any_database: str) -> Iterator[str]:
    """Give the URL of an empty database on each server in turn, as an ordinary role that owns the database."""
    name = conninfo.conninfo_to_dict(any_database)["dbname"]
    url = make_role(any_database, f'ALTER DATABASE "{name}" OWNER TO {{role}}', "ALTER SCHEMA public OWNER TO {role}")
    yield url
    drop_role(any_database, url)


class Record:
    """A record of chunked work that nobody keeps: the last that was heard of each batch."""

    def __init__(self) -> None:
        self.batches: dict[int, Batch] = {}
        self.ended: BaseException | bool | None = None

    def note(self, batches: Sequence[Batch]) -> None:
        self.batches.update((batch.number, batch) for batch in batches)

    @property
    def rows(self) -> int:
        return sum(batch.rows for batch in self.batches.values())

    def finish(self) -> None:
        self.ended = True

    def stop(self, error: BaseException) -> None:
        self.ended = error


class Run:
    """See `segue.ports.StepRun`: one step on one target, with no store behind it."""

    def __init__(
        self, target: PostgresTarget, params: Any, *, direction: str = FORWARD, locks: float = 10, work: float = 60
    ) -> None:
        self.target = target
        self.database = DATABASE
        self.params = params
        self.direction = direction
        self.patience = Patience(locks=locks, work=work)
        self.record = Record()
        self.notes: list[str] = []
        self.boundaries: Callable[[], None] = target.alive
        self.paced: Callable[[], Pace] = Pace
        self.hired: Callable[[int], int] = lambda wanted: wanted
        self.word: Observed | None = None
        self.kept: dict[str, Any] = {}

    def key(self, part: int, direction: str | None = None) -> EffectKey:
        return EffectKey(
            self.target.lease.execution, "plan", "hash", self.params.name, direction or self.direction, part
        )

    def do(self, part: int, statements: Any) -> None:
        self.target.apply(self.key(part), statements, self.patience, self.note)

    def boundary(self) -> None:
        self.boundaries()

    def pace(self) -> Pace:
        return self.paced()

    def slots(self, wanted: int) -> int:
        return self.hired(wanted)

    def resolved(self) -> Observed | None:
        return self.word

    def keep(self, **detail: Any) -> None:
        self.kept.update(detail)

    def note(self, message: str, **detail: Any) -> None:
        self.notes.append(message)

    def recording(self, work: Any, table: str, settings: Mapping[str, Any]) -> Record:
        return self.record


def apply(
    target: PostgresTarget, sql: str, *, step: str = "step", locks: float = 10, work: float = 30, **more: Any
) -> Run:
    """Run SQL as a step, each statement in its own transaction unless `transaction=True`; return the run."""
    run = Run(target, SqlParams(name=step, sql=sql, irreversible="a test", **more), locks=locks, work=work)
    SQL.run(run)
    return run


def fill(target: PostgresTarget, table: str, step: str = "fill", *, work: float = 60, **fields: Any) -> Run:
    """Run a backfill; return the run."""
    run = Run(target, BackfillParams(name=step, table=table, **fields), work=work)
    assert BACKFILL.problems(run.params, DATABASE) == []
    BACKFILL.run(run)
    assert BACKFILL.observe(run) is Observed.DONE
    return run


def rows(url: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run a query in a session of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


def value(url: str, query: str, *parameters: Any) -> Any:
    """Return the first value of a query's first row."""
    return rows(url, query, *parameters)[0][0]


def run_sql(url: str, *commands: str) -> None:
    """Run commands in a session of their own, each by itself."""
    # The tests' superuser is called like Segue's schema, and "$user" stands first in every default search_path.
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = public")
        for command in commands:
            connection.execute(command.encode())


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is so, and return what it is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


class Background(threading.Thread):
    """A thread whose exception is the test's: `result()` waits, and returns or raises what became of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def result(self, timeout: float = 60) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "the thread does not end"
        if self._error is not None:
            raise self._error
        return self._result


class Traffic:
    """Application sessions that go on for a while: each error is kept, and the longest wait of a statement."""

    def __init__(self) -> None:
        self.errors: list[psycopg.Error] = []
        self.done = 0
        self.longest = 0.0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, url: str, work: Callable[[psycopg.Connection[Any], int], None]) -> None:
        thread = threading.Thread(target=self._go, args=(url, work), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _go(self, url: str, work: Callable[[psycopg.Connection[Any], int], None]) -> None:
        number = 0
        with psycopg.connect(url, autocommit=True) as connection:
            while not self._stop.is_set():
                number += 1
                began = time.monotonic()
                try:
                    work(connection, number)
                    self.done += 1
                except psycopg.Error as error:
                    self.errors.append(error)
                self.longest = max(self.longest, time.monotonic() - began)
                time.sleep(0.001)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Run application sessions beside the block; at its end they have stopped."""
    running = Traffic()
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def session(url: str, *commands: str) -> Iterator[psycopg.Connection[Any]]:
    """Hold an open transaction that has run the commands; rolled back at the end."""
    with psycopg.connect(url) as connection:
        for command in commands:
            connection.execute(command.encode())
        yield connection
        connection.rollback()


def terminate(url: str, application: str = "segue:%") -> int:
    """End the sessions whose application name is like this; return how many."""
    return int(
        value(
            url,
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where application_name like %s and pid <> pg_backend_pid() and datname = current_database()",
            application,
        )
    )
