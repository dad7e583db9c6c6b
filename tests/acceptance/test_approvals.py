"""Approvals, windows and times as a user meets them: runs that wait while no process runs at all, and go on."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_process import Outcome, Segue

from segue import wiring
from segue.model.vocabulary import EnvironmentType, Mode
from segue.model.windows import DAYS
from segue.services import approvals, environments, executions, ledger, plans
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
GATED = """\
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

    def approved(self, by: str = "bob") -> None:
        """Approve the plan as it is stored, as somebody else, without a process."""
        with open_store(self.settings) as store:
            with store.session() as session:
                seen = plans.get(session, "add-note").plan_hash
            wanted = approvals.Wanted("add-note", "production", "rehearsed", seen)
            approvals.grant(store, replace(self.settings, user=by), wiring.parts(), wanted)

    def revoked(self, by: str) -> None:
        with open_store(self.settings) as store:
            approvals.revoke(store, replace(self.settings, user=by), "add-note", "production", None, "not now")

    def status(self) -> Any:
        with open_store(self.settings) as store, store.session() as session:
            return executions.describe(session, executions.find(session, None))

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
        limit = time.monotonic() + 30
        while not self.value("SELECT bool_or(n = 1) FROM customers"):
            assert time.monotonic() < limit
            time.sleep(0.05)
        return process


@pytest.fixture
def team(segue: Segue, database: str, store_url: str) -> Team:
    found = Team(segue, database, store_url)
    found.environment()
    return found


def test_run_in_production_waits_without_a_process_for_an_approval_and_then_goes_on(team: Team) -> None:
    team.add()
    waiting = team.run(3)
    assert 'waits for an approval in "production": nobody has approved it' in waiting.stderr
    assert "`segue approve add-note --env production --reason TEXT`" in waiting.stderr
    assert "`segue run add-note --env production` goes on" in waiting.stderr
    status = team.status()
    assert (status["status"], status["waiting_for"]["kind"], status["driven_by"]) == ("waiting", "approval", None)
    assert team.untouched()

    said = team.approve().stderr
    assert 'plan "add-note" (' in said
    assert 'is approved for "production"' in said
    team.run(0)
    assert team.filled_once()
    assert team.status()["execution"] == status["execution"]
    assert team.ledger("migration_executions", "approvals") == [
        *("migration_executions pending", "migration_executions waiting"),
        *("approvals granted", "migration_executions running", "migration_executions completed"),
    ]


def test_author_is_refused_and_the_ledger_keeps_that(team: Team) -> None:
    team.add()
    said = team.approve(by="tester", code=3).stderr
    assert '"tester" wrote plan "add-note" and cannot approve it' in said
    assert "somebody other than tester" in said
    assert "migration_plans approval-refused" in team.ledger("migration_plans")


def test_plan_that_was_changed_after_its_approval_is_refused_until_it_is_approved_again(team: Team) -> None:
    team.add()
    team.approved()
    team.add(PLAN.replace("note text", "note varchar(80)"))
    assert "the plan was changed after bob approved it" in team.run(3).stderr
    assert team.untouched()
    assert "approvals approval-refused" in team.ledger("approvals")
    team.approved()
    team.run(0)


def test_expired_and_revoked_approvals_do_not_count(team: Team) -> None:
    team.add()
    team.approve("--expires", "1ms")
    assert "the approval of bob expired at" in team.run(3).stderr
    assert 'the approval of plan "add-note" for "production" is revoked' in team.approve("--revoke", by="carol").stderr
    assert "no: the approval of bob was revoked by carol" in team.segue("approve", "add-note", "--list").stdout


def test_step_waits_for_its_own_approval_and_the_run_goes_on_after_it(team: Team) -> None:
    team.environment("staging")
    team.add(GATED)
    waiting = team.run(3, plan="rename-remark")
    assert 'step "rename" waits for an approval' in waiting.stderr
    assert "segue approve rename-remark --env production --step rename --reason TEXT" in waiting.stderr
    assert [step["status"] for step in team.status()["steps"]] == ["completed", "waiting"]
    team.approve("--step", "rename", plan="rename-remark", by="tester")
    team.run(0, plan="rename-remark")
    assert [step["status"] for step in team.status()["steps"]] == ["completed", "completed"]
    assert "approved by tester: rehearsed" in team.segue("logs").expect(0).stdout


def test_revoked_approval_stops_a_run_at_a_safe_point_and_a_new_one_lets_it_go_on(team: Team) -> None:
    team.add(pause="50ms")
    team.approved()
    running = team.begun()
    team.revoked(by="carol")
    _, said = running.communicate(timeout=30)
    assert running.returncode == 3, said
    assert "was revoked by carol" in said
    assert team.status()["status"] == "waiting"
    assert not team.filled_once()
    team.approved(by="dora")
    team.run(0)
    assert team.filled_once()


def test_file_is_approved_only_when_it_is_what_is_stored(team: Team) -> None:
    path = team.add()
    path.write_text(path.read_text().replace("A note", "Another note"))
    said = team.approve(plan=str(path), code=3).stderr
    assert 'is not the plan "add-note" that is stored' in said


def test_approval_asks_for_an_environment_and_a_reason(team: Team) -> None:
    assert "no environment is named" in team.segue("approve", "add-note").expect(64).stderr
    assert "a reason is missing" in team.segue("approve", "add-note", "--env", "production").expect(64).stderr
    assert "no time in which" in team.approve("--expires", "0s", code=64).stderr


def test_approval_is_one_json_object(team: Team) -> None:
    path = team.add()
    content = json.loads(team.approve("--json", "--expires", "24h", plan=str(path)).stdout)
    assert (content["segue"], content["ok"], content["began"]) == (1, True, None)
    assert content["approvals"][0]["plan"] == "add-note"
    assert content["approvals"][0]["expires_at"].endswith("Z")
    refused = json.loads(team.approve("--json", by="tester", code=3).stdout)
    assert (refused["ok"], refused["error"]["exit_code"]) == (False, 3)


def test_closed_window_makes_a_run_wait_and_an_open_one_lets_it_go_on(team: Team) -> None:
    team.environment("test", maintenance_window=closed())
    team.add()
    waiting = team.run(3)
    assert 'the window of "production"' in waiting.stderr
    assert "is closed; the next one begins at" in waiting.stderr
    assert "--outside-window REASON" in waiting.stderr
    status = team.status()
    assert (status["waiting_for"]["kind"], status["due_at"].hour) == ("window", 1)
    assert team.untouched()
    team.window(ALWAYS)
    team.run(0)
    assert team.filled_once()


def test_reason_goes_past_a_closed_window_and_is_kept(team: Team) -> None:
    team.environment("test", maintenance_window=closed())
    team.add()
    team.run(0, "--outside-window", "incident 12")
    assert team.filled_once()
    assert "environments outside-window" in team.ledger("environments")


def test_run_pauses_when_its_window_closes_and_goes_on_in_the_next_one(team: Team) -> None:
    team.environment("test", maintenance_window=ALWAYS)
    team.add(pause="50ms")
    running = team.begun()
    team.window(closed())
    _, said = running.communicate(timeout=30)
    assert running.returncode == 3, said
    assert "has closed; it goes on at" in said
    assert team.status()["status"] == "waiting"
    assert 0 < team.value("SELECT count(*) FROM customers WHERE n = 1") < 1000
    team.window(ALWAYS)
    team.run(0)
    assert team.filled_once()


def test_rollback_waits_for_no_window(team: Team) -> None:
    team.environment("test")
    team.add()
    team.run(0)
    team.window(closed())
    team.segue("rollback").expect(0)
    assert team.untouched()


def test_environment_takes_no_window_that_cannot_be_read_and_shows_when_one_opens(team: Team) -> None:
    words = ("env", "add", "other", "--type", "test", "--url-stdin", "--maintenance-window")
    said = team.segue(*words, "Sunday 2-4", text=team.url).expect(2).stderr
    assert '"Sunday 2-4" is not a window: "2-4" has no time zone' in said
    assert "write for example `Sunday 02:00-04:00 Europe/Berlin`" in said
    team.environment(maintenance_window="Sunday 2-4 AM UTC")
    shown = team.segue("env", "show", "production", "--json").expect(0).json["environment"]
    assert shown["maintenance_window"] == "Sunday 2-4 AM UTC"
    assert shown["opens_at"].endswith("T02:00:00Z")


def test_approvals_do_not_go_over_to_another_database(team: Team, new_database: Any) -> None:
    team.add()
    team.approved()
    team.url = new_database()
    team.environment()
    assert "the approval of bob was revoked by tester" in team.run(3).stderr


def test_run_with_a_time_to_come_waits_for_it(team: Team) -> None:
    team.environment("test")
    team.add()
    later = (datetime.now(UTC) + timedelta(hours=3)).strftime("%Y-%m-%d %H:%M")
    waiting = team.run(3, "--at", f"{later} UTC")
    assert f'begins in "production" at {later} UTC' in waiting.stderr
    assert team.untouched()
    assert "in which time zone" in team.run(2, "--at", later).stderr


def test_scheduled_deployment_needs_a_time_or_a_window(team: Team) -> None:
    team.environment("test", deployment_type=Mode.SCHEDULED)
    team.add()
    said = team.run(3).stderr
    assert "deployed on schedule, and nothing says when" in said
    assert "--at" in said
    assert "migration_plans refused" in team.ledger("migration_plans")
    team.environment("test", deployment_type=Mode.SCHEDULED, maintenance_window=ALWAYS)
    team.run(0)


def test_approval_hands_an_automated_run_over(team: Team) -> None:
    team.environment("production", deployment_type=Mode.AUTOMATED)
    team.add()
    content = json.loads(team.approve("--json").stdout)
    status = team.status()
    assert content["began"] == status["execution"]
    assert (status["mode"], status["handed_over"], status["status"]) == ("automated", True, "waiting")
