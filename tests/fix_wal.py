"""Servers whose log is logical, and the tables of an online change on them that are followed through a slot."""

from __future__ import annotations

import functools
import itertools
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_online import CHANGE, Assemble, HandMade
from fix_servers import DEBIAN_MAJOR, binaries_of, chosen, short_folder
from fix_standbys import Server
from fix_targets import Background, rows, run_sql, value

from segue.databases.postgresql.online import capture, ghost
from segue.databases.postgresql.online.blueprint import Blueprint, Member
from segue.databases.postgresql.online.drain import Drainer
from segue.model.online import Drained
from segue.ports import Patience

#: Commits wait for the log, unless they say otherwise; then it is not written for a long time.
LOGICAL = {
    "wal_level": "logical",
    "synchronous_commit": "on",
    "max_prepared_transactions": "20",
    "wal_writer_delay": "10s",
    "autovacuum": "off",
}
ITEMS = "CREATE TABLE items (id bigint PRIMARY KEY, code text UNIQUE, n integer, note text)"
NEW_ITEMS = "(id bigint NOT NULL, code text, n bigint, note text)"


@contextmanager
def logical(bin_dir: Path | None, **options: str) -> Iterator[Server]:
    """Run a server whose log is logical."""
    folder = short_folder()
    server = Server(folder, bin_dir, {**LOGICAL, **options})
    try:
        with server.cluster.use():
            yield server
    finally:
        server.cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def logical_server() -> Iterator[Server]:
    """Give an embedded server whose log is logical."""
    with logical(chosen()) as server:
        yield server


@pytest.fixture(scope="module")
def logical_debian_server() -> Iterator[Server]:
    """Give a server of Debian's PostgreSQL 15 whose log is logical."""
    with logical(binaries_of(DEBIAN_MAJOR)) as server:
        yield server


@pytest.fixture(params=["embedded", "debian"])
def any_logical(request: pytest.FixtureRequest) -> Server:
    """Give each server whose log is logical in turn."""
    name = "logical_server" if request.param == "embedded" else "logical_debian_server"
    server: Server = request.getfixturevalue(name)
    return server


@dataclass
class Followed:
    """Tables of a change with their logs, each assembled by hand, and one slot for all of them."""

    url: str
    hands: tuple[HandMade, ...]
    blueprint: Blueprint
    notes: list[str]
    stack: ExitStack

    @property
    def hand(self) -> HandMade:
        """Return the first table."""
        return self.hands[0]

    def begin(self, work: float = 30) -> None:
        """Make publication and slot, and wait for whom it has to."""
        ghost.begin(self.hand.site, self.blueprint, Patience(locks=10, work=work), self.notes.append)

    def reader(self, **settings: Any) -> ghost.Reader:
        """Start a reader; it is stopped at the end."""
        found = ghost.Reader(self.hand.site, self.blueprint, **settings)
        self.stack.callback(found.stop)
        found.start()
        return found

    def settle(self) -> None:
        """Copy the first table, and give its shadow its key."""
        self.hand.copy()
        self.hand.index()

    @property
    def drainer(self) -> Drainer:
        """Return the first table's drainer, in a session that waits for no standby."""
        hand = self.hand
        if hand._drainer is None:
            session = hand.site.open(synchronous_commit="local")
            self.stack.callback(session.close)
            hand._drainer = Drainer(session, hand.flow, hand.log, CHANGE, hand.member, hand.direction)
        return hand._drainer

    def drain(self, reader: ghost.Reader, most: int | None = None, *, compare: bool = False) -> Drained:
        """Drain the first table's log."""
        return ghost.drain(self.hand.site, reader, self.drainer, most, compare=compare)

    def keys(self, number: int = 0) -> list[Any]:
        """Return the first column of a table's logged keys, each once; None where it was emptied."""
        return [row[0] for row in self.hands[number].touched()]

    def slot(self, column: str) -> Any:
        """Return what the server shows of the slot; None where it has none."""
        found = rows(
            self.url, f"SELECT {column} FROM pg_replication_slots WHERE slot_name = %s", ghost.slot_name(self.blueprint)
        )
        return found[0][0] if found else None

    def left(self) -> tuple[int, int]:
        """Return how many slots and publications of ours there are."""
        return (
            value(self.url, "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'segue%'"),
            value(self.url, "SELECT count(*) FROM pg_publication WHERE pubname LIKE 'segue%'"),
        )


def member_of(hand: HandMade) -> Member:
    """Return a table that was assembled by hand as a member of a change."""
    return Member(
        number=hand.member,
        oid=value(hand.url, "SELECT %s::regclass::oid", hand.source),
        table=hand.flow.source,
        old=hand.relations,
        new=(),
        forward=hand.flow,
        backward=hand.flow,
    )


@pytest.fixture
def follow(assemble: Assemble) -> Iterator[Callable[..., Followed]]:
    """Give a function that assembles a change of tables, by their shadows' definitions, to be followed by a slot."""
    with ExitStack() as stack:

        def make(server: Server, *setup: str, **shadows: str) -> Followed:
            url = server.database()
            run_sql(url, *setup)
            hands = tuple(
                assemble(url, table, shadow, member=number, capture=False)
                for number, (table, shadow) in enumerate(shadows.items(), 1)
            )
            for hand in hands:
                capture.make_log(hand.site, hand.flow, hand.log)
            blueprint = Blueprint(id=CHANGE, strategy="ghost", members=tuple(map(member_of, hands)))
            assert [blueprint.log(member, "forward") for member in blueprint.members] == [hand.log for hand in hands]
            stack.callback(_forget, server, ghost.slot_name(blueprint))
            return Followed(url, hands, blueprint, [], stack.enter_context(ExitStack()))

        yield make


def _forget(server: Server, name: str) -> None:
    """Leave nothing to the next test: slots are the whole server's."""
    with psycopg.connect(server.cluster.url("postgres"), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = local")
        for action in ("pg_terminate_backend(active_pid, 5000)", "pg_drop_replication_slot(slot_name)"):
            connection.execute(f"SELECT {action} FROM pg_replication_slots WHERE slot_name = %s".encode(), [name])


@contextmanager
def no_standby(server: Server) -> Iterator[None]:
    """Have every commit wait for a standby that is not there."""
    with psycopg.connect(server.cluster.url("postgres"), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nosuch'")
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")


@dataclass
class Writer:
    """A session of the application with rows of its own; `rows` is what was acknowledged, by key."""

    number: int
    writers: int
    seed: int
    rows: dict[int, tuple[object, ...]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def write(self, url: str, stop: threading.Event) -> None:
        """Write until told to stop: updates, deletes, new keys, values that move between rows, and all of it undone."""
        chance = random.Random(self.seed * 100 + self.number)
        fresh = itertools.count(1000 + self.number, self.writers)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            connection.execute("SET synchronous_commit = off" if self.number % 2 else "SET synchronous_commit = on")
            while not stop.is_set():
                changed = dict(self.rows)
                undone = chance.random() < 0.1
                try:
                    with connection.transaction(force_rollback=undone):
                        for _ in range(chance.choice([1, 1, 2, 5])):
                            self._change(connection, chance, changed, next(fresh))
                    if not undone:
                        self.rows = changed
                except psycopg.Error as error:
                    self.failed.append(repr(error))
                stop.wait(chance.random() * 0.04)

    def _change(
        self,
        connection: psycopg.Connection[Any],
        chance: random.Random,
        rows: dict[int, tuple[object, ...]],
        fresh: int,
    ) -> None:
        if len(rows) < 3 or chance.random() < 0.2:
            rows[fresh] = (f"c{fresh}", 1, None)
            connection.execute("INSERT INTO items VALUES (%s, %s, %s, %s)", [fresh, *rows[fresh]])
            return
        one, other = chance.sample(sorted(rows), 2)
        what = chance.choice(["update", "delete", "move", "swap"])
        if what == "update":
            rows[one] = (rows[one][0], chance.randrange(99), chance.choice([None, "x" * 3000]))
            connection.execute("UPDATE items SET n = %s, note = %s WHERE id = %s", [*rows[one][1:], one])
        elif what == "delete":
            del rows[one]
            connection.execute("DELETE FROM items WHERE id = %s", [one])
        elif what == "move":
            rows[fresh] = rows.pop(one)
            connection.execute("UPDATE items SET id = %s WHERE id = %s", [fresh, one])
        else:
            rows[one], rows[other] = ((rows[b][0], *rows[a][1:]) for a, b in ((one, other), (other, one)))
            connection.execute("UPDATE items SET code = NULL WHERE id = %s", [one])
            connection.execute("UPDATE items SET code = %s WHERE id = %s", [rows[other][0], other])
            connection.execute("UPDATE items SET code = %s WHERE id = %s", [rows[one][0], one])


@contextmanager
def writing(url: str, seed: int, writers: int = 8) -> Iterator[list[Writer]]:
    """Have sessions write to `items` beside the block."""
    found = [Writer(number, writers, seed) for number in range(writers)]
    for writer in found:
        writer.rows = {
            number: (f"c{number}", number, None) for number in range(1, 801) if number % writers == writer.number
        }
    run_sql(url, "INSERT INTO items SELECT g, 'c' || g, g FROM generate_series(1, 800) AS g")
    stop = threading.Event()
    threads = [Background(functools.partial(writer.write, url, stop)) for writer in found]
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.result()
