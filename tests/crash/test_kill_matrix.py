"""Promise 5, resume anywhere: killed with -9 at each journal point, a run ends in the same state, no effect twice."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_crash import EVERY, came_up, kept, places
from psycopg import sql

from segue import settings
from segue.databases.postgresql import schema_state
from segue.embedded import Cluster
from segue.errors import TargetUnreachable
from segue.model.probe import Probe
from segue.model.vocabulary import EnvironmentType
from segue.services import environments, watching
from segue.store import open_store
from segue.store.tables.environments import EnvironmentRow
from segue.store.tables.executions import ExecutionRow

DRIVER = Path(__file__).with_name("driver.py")

TABLES = """
create table kind (name text primary key);
create table account (id int primary key, kind text, n int not null default 0, note text);
create table counter (n int not null);
insert into kind values ('a'), ('b');
insert into account (id, kind) select g, case when g % 2 = 0 then 'a' else 'b' end from generate_series(1, 3000) g;
insert into counter values (0);
"""

# Nothing here may happen twice and go unnoticed: counters are counted up, names are taken, rows are counted.
PLAN = """
plan: everything
version: 1.0.0
description: One step of every kind, each with an effect that must not happen twice
steps:
  - name: count-up
    kind: sql
    sql: UPDATE counter SET n = n + 1
    reverse: UPDATE counter SET n = n - 1
  - name: two-at-once
    kind: sql
    transaction: true
    sql: |
      ALTER TABLE account ADD COLUMN label text;
      UPDATE counter SET n = n + 10;
    reverse: |
      ALTER TABLE account DROP COLUMN label;
      UPDATE counter SET n = n - 10;
  - name: two-by-one
    kind: sql
    sql: |
      ALTER TABLE account ADD CONSTRAINT account_kind FOREIGN KEY (kind) REFERENCES kind (name) NOT VALID;
      ALTER TABLE account VALIDATE CONSTRAINT account_kind;
    reverse:
      - ALTER TABLE account DROP CONSTRAINT account_kind
      - ""
  - name: fill
    kind: backfill
    needs: [two-at-once]
    table: account
    set: {n: n + 1, label: "'label ' || id"}
    batch: {size: 400, max: 600}
    workers: 2
    reverse:
      set: {n: n - 1}
  - name: index
    kind: sql
    needs: [fill]
    sql: CREATE UNIQUE INDEX CONCURRENTLY account_label ON account (label)
    reverse: DROP INDEX CONCURRENTLY account_label
  - name: all-there
    kind: validate
    needs: [fill]
    query: SELECT count(*), sum(n) FROM account WHERE label IS NOT NULL
    row: [3000, 3000]
  - name: unlucky
    kind: sql
    blocking: false
    sql: ALTER TABLE missing ADD COLUMN x int
    reverse: ALTER TABLE missing DROP COLUMN x
"""


def unseen(url: str) -> Probe:
    """Stand in for a look at the database, which takes a second to measure its traffic."""
    raise TargetUnreachable("not looked at")


class Matrix:
    """A store, a template of the target, and a driver that is killed where it is told."""

    def __init__(self, server: Cluster, folder: Path) -> None:
        self.server = server
        self.names: list[str] = []
        self.admin = psycopg.connect(server.url("postgres"), autocommit=True)
        self.template = self.make()
        with psycopg.connect(server.url(self.template)) as connection:
            connection.execute(TABLES)
        self.plan = folder / "plan.yaml"
        self.plan.write_text(PLAN)
        environment = {
            **os.environ,
            "SEGUE_HOME": str(folder),
            "SEGUE_STORE": server.url(self.make()),
            "SEGUE_USER": "tester",
        }
        self.settings = settings.load(environment)
        self.opened = ExitStack()
        self.store = self.opened.enter_context(open_store(self.settings))
        self.driver = subprocess.Popen(
            [sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def make(self, template: str = "template1") -> str:
        name = f"crash_{secrets.token_hex(6)}"
        self.admin.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        self.names.append(name)
        return name

    def target(self) -> str:
        """Make a target, add it as an environment of the same name, and return the name."""
        name = self.make(self.template)
        with self.store.session() as session:
            environments.add(
                session, self.settings, environments.Wanted(name, EnvironmentType.TEST), self.server.url(name), unseen
            )
        return name

    def ask(self, arguments: list[str], point: str | None = None, occurrence: int = 1) -> dict[str, Any]:
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(json.dumps([arguments, point, occurrence]) + "\n")
        self.driver.stdin.flush()
        return dict(json.loads(self.driver.stdout.readline()))

    def state(self, name: str) -> dict[str, Any]:
        """Return everything about a target that must be the same however often the run was killed."""
        with psycopg.connect(self.server.url(name)) as connection:
            one = connection.execute("select n from counter").fetchone()
            columns = "n, note" + (", label" if self.has_label(connection) else "")
            rows = connection.execute(
                "select count(*), md5(string_agg(t::text, ',' order by id)) "
                f"from (select id, kind, {columns} from account) t"
            ).fetchone()
            effects = connection.execute(
                "select step, direction, part, state, count(*) from segue.history group by 1, 2, 3, 4 order by 1, 2, 3"
            ).fetchall()
            chunks = connection.execute("select direction, sum(rows) from segue.chunk group by 1 order by 1").fetchall()
            return {
                "counter": one,
                "rows": rows,
                "effects": effects,
                "chunks": chunks,
                "schema": schema_state.read(connection, "public"),
            }

    @staticmethod
    def has_label(connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(
            "select exists (select from pg_attribute where attrelid = 'account'::regclass and attname = 'label' "
            "and not attisdropped)"
        ).fetchone()
        return bool(row and row[0])

    def close(self) -> None:
        self.opened.close()
        assert self.driver.stdin is not None
        with self.driver:
            self.driver.stdin.close()
        for name in self.names:
            self.admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        self.admin.close()


@pytest.fixture(scope="module")
def matrix(server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    found = Matrix(server, tmp_path_factory.mktemp("crash"))
    yield found
    found.close()


def status(matrix: Matrix, name: str) -> dict[str, Any]:
    """Return the only execution there is on a target, as `segue status` would."""
    with matrix.store.session() as session:
        here = session.query(EnvironmentRow.id).filter_by(name=name).scalar()
        return watching.describe(session, session.query(ExecutionRow).filter_by(environment_id=here).one())


@EVERY
@pytest.mark.timeout(600)
def test_forward_killed_at_each_point_ends_in_the_same_state(matrix: Matrix, every: bool) -> None:
    unharmed = matrix.target()
    answer = matrix.ask(["run", str(matrix.plan), "--env", unharmed])
    assert answer["status"] == 0, answer["output"]
    expected = matrix.state(unharmed)
    assert expected["counter"] == (11,)
    assert dict(expected["chunks"]) == {"forward": 3000}
    for point, occurrence in places(answer["points"], every=every):
        name = matrix.target()
        if not came_up(matrix.ask(["run", "everything", "--env", name], point, occurrence), (point, occurrence)):
            continue
        again = matrix.ask(["run", "everything", "--env", name])
        assert again["status"] == 0, (point, occurrence, again["output"])
        assert matrix.state(name) == expected, (point, occurrence)
        shown = status(matrix, name)
        assert (shown["status"], shown["steps_completed"]) == ("completed", 7), (point, occurrence)
    assert matrix.ask(["ledger", "verify"])["status"] == 0


@EVERY
@pytest.mark.timeout(600)
def test_rollback_killed_at_each_point_ends_in_the_same_state(matrix: Matrix, every: bool) -> None:
    name = matrix.target()
    assert matrix.ask(["run", str(matrix.plan), "--env", name])["status"] == 0
    identity = status(matrix, name)["execution"]
    with kept(matrix.server.url(name), matrix.settings.store or "") as as_it_was:
        answer = matrix.ask(["rollback", identity])
        assert answer["status"] == 0, answer["output"]
        expected = matrix.state(name)
        assert expected["counter"] == (0,)
        for point, occurrence in places(answer["points"], every=every):
            as_it_was()
            if not came_up(matrix.ask(["rollback", identity], point, occurrence), (point, occurrence)):
                continue
            again = matrix.ask(["rollback", identity])
            assert again["status"] == 0, (point, occurrence, again["output"])
            assert matrix.state(name) == expected, (point, occurrence)
            assert status(matrix, name)["status"] == "rolled-back", (point, occurrence)


@EVERY
@pytest.mark.timeout(300)
def test_killed_run_can_be_rolled_back_from_each_effect(matrix: Matrix, every: bool) -> None:
    name = matrix.target()
    answer = matrix.ask(["run", str(matrix.plan), "--env", name])
    with psycopg.connect(matrix.server.url(matrix.template)) as connection:
        before = schema_state.read(connection, "public")
    effects = [point for point in answer["points"] if point.startswith(("effect-", "chunk-", "mark-"))]
    for point, occurrence in places(effects, every=every):
        name = matrix.target()
        if not came_up(matrix.ask(["run", "everything", "--env", name], point, occurrence), (point, occurrence)):
            continue
        identity = status(matrix, name)["execution"]
        again = matrix.ask(["rollback", identity])
        assert again["status"] == 0, (point, occurrence, again["output"])
        state = matrix.state(name)
        assert state["counter"] == (0,), (point, occurrence)
        assert state["schema"] == before, (point, occurrence)
        with psycopg.connect(matrix.server.url(name)) as connection:
            row = connection.execute("select count(*), sum(n) from account").fetchone()
        assert row == (3000, 0), (point, occurrence)


# Whether it took effect cannot be looked up in the target's own catalog by the step: a person must say.
UNTOLD = """
plan: PLAN
version: 1.0.0
description: A statement outside transactions whose effect cannot be told
steps:
  - name: make
    kind: sql
    sql: CREATE DATABASE DATABASE_NAME
    reverse: DROP DATABASE DATABASE_NAME
"""


@pytest.mark.parametrize(("point", "word"), [("effect-begun", "not-done"), ("effect-ran", "done")])
def test_effect_that_cannot_be_told_waits_for_a_person(matrix: Matrix, point: str, word: str) -> None:
    name, made, plan = matrix.target(), f"crash_made_{secrets.token_hex(4)}", f"untold-{word}"
    matrix.names.append(made)
    path = matrix.plan.with_name(f"{plan}.yaml")
    path.write_text(UNTOLD.replace("PLAN", plan).replace("DATABASE_NAME", made))
    assert matrix.ask(["run", str(path), "--env", name], point)["status"] == -9
    asked = matrix.ask(["run", plan, "--env", name])
    assert asked["status"] == 5, asked["output"]
    assert "--resolve" in asked["output"]
    assert matrix.ask(["run", plan, "--env", name])["status"] == 5
    told = matrix.ask(["run", plan, "--env", name, "--resolve", word])
    assert told["status"] == 0, told["output"]
    row = matrix.admin.execute("select count(*) from pg_database where datname = %s", [made]).fetchone()
    assert row == (1,)


def test_untold_effect_is_taken_back_on_a_persons_word(matrix: Matrix) -> None:
    name, made = matrix.target(), f"crash_made_{secrets.token_hex(4)}"
    path = matrix.plan.with_name("untold-back.yaml")
    path.write_text(UNTOLD.replace("PLAN", "untold-back").replace("DATABASE_NAME", made))
    assert matrix.ask(["run", str(path), "--env", name], "effect-ran")["status"] == -9
    identity = status(matrix, name)["execution"]
    assert matrix.ask(["rollback", identity])["status"] == 5
    told = matrix.ask(["rollback", identity, "--resolve", "done"])
    assert told["status"] == 0, told["output"]
    assert matrix.admin.execute("select from pg_database where datname = %s", [made]).fetchone() is None
