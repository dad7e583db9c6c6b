"""A team: a database that is an environment, a plan that one of them wrote, and people who approve it or do not."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_process import Outcome, Segue

from segue import wiring
from segue.model.vocabulary import EnvironmentType
from segue.model.windows import DAYS
from segue.services import approvals, environments, executions, ledger, plans, watching
from segue.settings import Settings
from segue.store import open_store

PLAN = """\
plan: add-note
version: 1.0.0
description: A note per customer
steps:
  - name: add
    kind: sql
    sql: ALTER TABLE customers ADD COLUMN note text
    reverse: ALTER TABLE customers DROP COLUMN note
  - name: fill
    kind: backfill
    needs: [add]
    table: customers
    set: {note: "'customer ' || id", n: n + 1}
    batch: {size: 50, max: 50}
    pause: PAUSE
"""
GATED_PLAN = """\
plan: rename-remark
version: 1.0.0
description: Rename a column
steps:
  - name: add
    kind: sql
    sql: ALTER TABLE customers ADD COLUMN note text
    reverse: ALTER TABLE customers DROP COLUMN note
  - name: rename
    kind: sql
    needs: [add]
    approval: true
    sql: ALTER TABLE customers RENAME COLUMN remark TO remark_old
    reverse: ALTER TABLE customers RENAME COLUMN remark_old TO remark
"""
ALWAYS = "daily 00:00-24:00 Europe/Berlin"


def closed() -> str:
    """Return a window that is closed now, and for days."""
    there = datetime.now(UTC) + timedelta(days=3)
    return f"{DAYS[there.weekday()]} 01:00-02:00 UTC"


class Team:
    """A database that is the environment "production", a plan that tester wrote, and other people.

    What is tested runs as processes; what only prepares or looks does not, to save their start.
    """

    def __init__(self, segue: Segue, url: str, store_url: str) -> None:
        self.segue, self.url = segue, url
        self.settings = Settings(home=segue.folder, store=store_url, key=None, user="tester")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE customers (id bigint PRIMARY KEY, remark text, n int DEFAULT 0)")
            connection.execute("INSERT INTO customers (id) SELECT generate_series(1, 1000)")

    def environment(self, kind: str = "production", **more: Any) -> None:
        """Make the database the environment "production", or change that."""
        parts = wiring.parts()
        with open_store(self.settings) as store, store.session() as session:
            wanted = environments.Wanted("production", EnvironmentType(kind), **more)
            look = parts.database(self.url).probe
            environments.add(session, self.settings, wanted, self.url, look, check=True, replace=True)

    def window(self, text: str) -> None:
        """Give the environment another window, also while something runs there."""
        with open_store(self.settings) as store, store.session() as session:
            environments.get(session, "production").maintenance_window = text

    def add(self, plan: str = PLAN, pause: str = "0ms") -> Path:
        path = self.segue.folder / "plan.yaml"
        path.write_text(plan.replace("PAUSE", pause))
        with open_store(self.settings) as store, store.session() as session:
            plans.add(session, self.settings, plans.check(path.read_text(), str(path), wiring.parts()))
        return path

    def run(self, code: int, *more: str, plan: str = "add-note") -> Outcome:
        return self.segue("run", plan, "--env", "production", *more).expect(code)

    def approve(self, *more: str, plan: str = "add-note", by: str = "bob", code: int = 0) -> Outcome:
        words = ("approve", plan, "--env", "production", "--reason", "rehearsed", *more)
        return self.segue(*words, env={"SEGUE_USER": by}).expect(code)

    def approved(self, by: str = "bob", step: str | None = None) -> None:
        """Approve the plan as it is stored, as somebody else, without a process."""
        with open_store(self.settings) as store:
            with store.session() as session:
                seen = plans.get(session, "add-note").plan_hash
            wanted = approvals.Wanted("add-note", "production", "rehearsed", seen, step)
            approvals.grant(store, replace(self.settings, user=by), wiring.parts(), wanted)

    def revoked(self, by: str) -> None:
        with open_store(self.settings) as store:
            approvals.revoke(store, replace(self.settings, user=by), "add-note", "production", None, "not now")

    def go(self) -> executions.Outcome:
        """Run the plan in this process."""
        with open_store(self.settings) as store:
            return executions.run(store, self.settings, wiring.parts(), "add-note", "production")

    def status(self) -> Any:
        with open_store(self.settings) as store, store.session() as session:
            return watching.describe(session, watching.find(session, None))

    def ledger(self, *wanted: str) -> list[str]:
        with open_store(self.settings) as store, store.session() as session:
            return [f"{row.subject} {row.action}" for row in ledger.entries(session) if row.subject in wanted]

    def value(self, query: str) -> Any:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row is not None else None

    def untouched(self) -> bool:
        return not self.value(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 'customers'::regclass "
            "AND attname IN ('note', 'remark_old') AND NOT attisdropped"
        )

    def filled_once(self) -> bool:
        return bool(self.value("SELECT bool_and(n = 1 AND note = 'customer ' || id) FROM customers"))

    def begun(self) -> subprocess.Popen[str]:
        """Start a run, and return once it is in the middle of its rows."""
        process = self.segue.start("run", "add-note", "--env", "production")
        self.until(lambda: self.value("SELECT bool_or(n = 1) FROM customers"))
        return process

    def until(self, seen: Callable[[], object]) -> None:
        limit = time.monotonic() + 60
        while not seen():
            assert time.monotonic() < limit, self.status()
            time.sleep(0.05)


@pytest.fixture
def team(segue: Segue, database: str, store_url: str) -> Team:
    found = Team(segue, database, store_url)
    found.environment()
    return found
