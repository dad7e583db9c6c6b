"""An online change whose sessions are ended by the server, or the whole server with them, at each statement it sends.

The run goes on by itself, or stops with a word and goes on when it is run again; the table ends as if nothing had been.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import rows, run_sql, value
from fix_wal import logical

from segue.errors import SegueError

PLAN = """
plan: widen
version: 1.0.0
description: Give a key room
steps:
  - name: widen
    kind: online-change
    table: t
    alter: [ALTER id TYPE bigint]
    strategy: shadow-table
    workers: 1
    chunk: {max: 100}
    retries: 3
    backoff: 10ms
"""
TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, code text UNIQUE, n int)",
    "CREATE INDEX ON t (n)",
    "CREATE TABLE line (id int PRIMARY KEY, t_id int NOT NULL REFERENCES t)",
    "INSERT INTO t SELECT g, 'c' || g, g % 10 FROM generate_series(1, 250) g",
    "INSERT INTO line SELECT g, g FROM generate_series(1, 250) g",
)
MADE = (
    "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'segue\\_%') + "
    "(SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'segue%')"
)


@dataclass
class Statements:
    """Counts the statements that a change's sessions send, and does something right before one of them."""

    at: int | None = None
    act: Callable[[psycopg.Connection[Any]], None] | None = None
    count: int = 0

    @contextmanager
    def counted(self, url: str) -> Iterator[None]:
        database = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        execute = psycopg.Cursor.execute

        def counting(cursor: psycopg.Cursor[Any], *args: Any, **more: Any) -> Any:
            connection = cursor.connection
            name = connection.info.parameter_status("application_name") or ""
            if connection.info.dbname == database and name.startswith("segue:"):
                self.count += 1
                if self.count == self.at and self.act is not None:
                    self.act(connection)
            return execute(cursor, *args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(psycopg.Cursor, "execute", counting)
            yield


def made(shops: Shops, url: str, name: str) -> None:
    run_sql(url, *TABLE)
    shops.open(name, url)


def checked(url: str) -> None:
    """See that the tables are as asked, and hold what they held."""
    assert rows(url, "SELECT count(*), sum(id)::bigint, sum(n)::bigint, count(DISTINCT code) FROM t") == [
        (250, 31375, 1125, 250)
    ]
    kinds = "SELECT pg_typeof(t.id)::text, pg_typeof(t_id)::text FROM t JOIN line ON t_id = t.id LIMIT 1"
    assert rows(url, kinds) == [("bigint", "bigint")]
    assert value(url, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'line'::regclass AND contype = 'f'") == 1


def run(shops: Shops, plan: str, name: str) -> None:
    """Run until it is done: it may stop with a word, and then goes on."""
    for left in (3, 2, 1, 0):
        try:
            shops.run(plan, name)
            return
        except SegueError:
            if not left:
                raise


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "every"])
@pytest.mark.timeout(3600)
def test_a_change_whose_session_is_ended_at_each_statement_ends_as_if_nothing_had_been(
    shops: Shops, new_database: Callable[[], str], every: bool
) -> None:
    plan = shops.add(PLAN)
    unharmed, url = Statements(), new_database()
    made(shops, url, "unharmed")
    with unharmed.counted(url):
        shops.run(plan, "unharmed")
    checked(url)
    chosen = range(1, unharmed.count + 1)
    for number in chosen if every else random.Random(4).sample(chosen, 4):
        url = new_database()
        made(shops, url, f"shop-{number}")

        def end(connection: psycopg.Connection[Any], url: str = url) -> None:
            run_sql(url, f"SELECT pg_terminate_backend({connection.info.backend_pid}, 5000)")

        statements = Statements(number, end)
        with statements.counted(url):
            run(shops, plan, f"shop-{number}")
        checked(url)
        shops.rollback(shops.on(f"shop-{number}")["execution"])
        assert (value(url, MADE), value(url, "SELECT pg_typeof(id)::text FROM t LIMIT 1")) == (0, "integer"), number


@pytest.mark.parametrize("times", [1, pytest.param(40, marks=pytest.mark.slow)], ids=["once", "often"])
@pytest.mark.timeout(3600)
def test_a_change_whose_server_crashes_at_any_statement_ends_as_if_nothing_had_been(shops: Shops, times: int) -> None:
    plan = shops.add(PLAN)
    chance = random.Random(times)
    with logical(None) as server:
        for number in range(times):
            url = server.database()
            made(shops, url, f"shop-{number}")
            statements = Statements(chance.randrange(20, 200), lambda connection: crash(server))
            with statements.counted(url):
                run(shops, plan, f"shop-{number}")
            checked(url)


def crash(server: Server) -> None:
    """Have the server end without a word to anybody, and start again from its log."""
    server.cluster.stop("immediate")
    server.cluster.start()
