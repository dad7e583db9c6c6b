"""Servers whose log is logical, and the tables of an online change on them that are followed through a slot."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_servers import DEBIAN, short_folder
from fix_standbys import Server
from fix_targets import rows, run_sql

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.lease import Lease
from segue.databases.postgresql.online import ghost
from segue.databases.postgresql.online.blueprint import Blueprint, Flow, KeyColumn, Mapped, Member, Place, Relation
from segue.databases.postgresql.online.site import Site
from segue.ports import Patience, Waits

#: The log is written to the disk seldom, so that a commit that does not wait for it is seen to be late.
LOGICAL = {
    "wal_level": "logical",
    "max_prepared_transactions": "20",
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "0",
    "autovacuum": "off",
    "bgwriter_delay": "10s",
    "checkpoint_timeout": "1h",
    # The tests' own sessions commit as an application does.
    "synchronous_commit": "on",
}
ITEMS = "CREATE TABLE items (id bigint PRIMARY KEY, code text UNIQUE, n integer, note text)"
PATIENCE = Patience(locks=10, work=30)


def own(bin_dir: Path | None) -> Iterator[Server]:
    """Run a server whose log is logical, for as long as somebody asks for it."""
    folder = short_folder()
    server = Server(folder, bin_dir, LOGICAL)
    try:
        with server.cluster.use():
            yield server
    finally:
        server.cluster.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def logical_server() -> Iterator[Server]:
    """Give an embedded server whose log is logical."""
    yield from own(None)


@pytest.fixture(scope="module")
def logical_debian_server() -> Iterator[Server]:
    """Give a server of Debian's PostgreSQL 15 whose log is logical."""
    if not (DEBIAN / "postgres").exists():
        outcome = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        outcome("needs Debian's PostgreSQL 15: run `make test` as root, or apt-get install postgresql-15")
    yield from own(DEBIAN)


@pytest.fixture(params=["embedded", "debian"])
def any_logical(request: pytest.FixtureRequest) -> Server:
    """Give each server whose log is logical in turn."""
    server: Server = request.getfixturevalue(
        "logical_server" if request.param == "embedded" else "logical_debian_server"
    )
    return server


@dataclass
class Followed:
    """Tables of a change with their logs, on a site of its own."""

    url: str
    site: Site
    blueprint: Blueprint
    notes: list[str]
    stack: ExitStack

    def begin(self, work: float = 30) -> None:
        ghost.begin(self.site, self.blueprint, Patience(locks=10, work=work), self.notes.append)

    def reader(self, **settings: Any) -> ghost.Reader:
        found = ghost.Reader(self.site, self.blueprint, **settings)
        found.start()
        self.stack.callback(found.stop)
        return found

    def log(self, number: int = 1) -> list[tuple[Any, ...]]:
        """Return the distinct keys of a member's log, None for a table that was emptied."""
        (member,) = (member for member in self.blueprint.members if member.number == number)
        place = self.blueprint.log(member, "forward")
        return [row[:-1] for row in rows(self.url, f"SELECT DISTINCT {columns(member)}, 1 FROM {place} ORDER BY 1")]

    def keys(self, number: int = 1) -> list[Any]:
        return [row[0] for row in self.log(number)]


def columns(member: Member) -> str:
    return ", ".join(f"segue_k{number}" for number, _ in enumerate(member.forward.key, 1))


def member_of(url: str, number: int, table: str, change: str) -> Member:
    """Draw up a member as a table that becomes what it is already."""
    found = rows(
        url,
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnum = ANY (i.indkey), c.oid, c.relkind "
        "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary WHERE c.oid = %s::regclass ORDER BY a.attnum",
        table,
    )
    source = Place(schema_name="public", name=table)
    into = Place(schema_name=f"segue_{change}_new", name=table)
    flow = Flow(
        source=source,
        into=into,
        key=tuple(KeyColumn(name=name, type=kind, into=name, into_type=kind) for name, kind, key, *_ in found if key),
        columns=tuple(Mapped(into=name, type=kind, expression=f'"{name}"') for name, kind, *_ in found),
    )
    old = Relation(place=source, goes_to=f"segue_{change}_old", kind=found[0][4])
    new = Relation(place=into, goes_to="public", kind=found[0][4])
    return Member(number=number, oid=found[0][3], table=source, old=(old,), new=(new,), forward=flow, backward=flow)


@pytest.fixture
def follow() -> Iterator[Callable[..., Followed]]:
    """Give a function that draws up a change of tables on a database; nothing of it runs on at the end."""
    with ExitStack() as stack:

        def make(url: str, *tables: str, sql: tuple[str, ...] = ()) -> Followed:
            run_sql(url, *sql)
            change = "t" + secrets.token_hex(3)
            lease = stack.enter_context(closing(Lease(url, execution=f"e{change}", holder="tester")))
            sessions = [open_session(url, application=lease.application, schema="public") for _ in range(2)]
            for session in sessions:
                stack.enter_context(closing(session))
            site = Site(*sessions, lease, url=url, schema="public", waits=Waits())
            members = tuple(member_of(url, number, table, change) for number, table in enumerate(tables, 1))
            blueprint = Blueprint(id=change, strategy="ghost", members=members)
            for member in members:
                keys = ", ".join(f"segue_k{n} {column.type}" for n, column in enumerate(member.forward.key, 1))
                run_sql(
                    url,
                    f"CREATE TABLE {blueprint.log(member, 'forward')} "
                    f"(xid xid8 NOT NULL DEFAULT pg_current_xact_id(), {keys})",
                )
            followed = Followed(url, site, blueprint, [], stack.enter_context(ExitStack()))
            # Before the lease goes: a server that a module shares has only so many slots.
            stack.callback(_forget, url, blueprint)
            return followed

        yield make


def _forget(url: str, blueprint: Blueprint) -> None:
    name = ghost.slot_name(blueprint)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s "
            "AND active_pid IS NOT NULL",
            [name],
        )
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [name]
        )
