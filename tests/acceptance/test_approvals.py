"""Approvals, windows and times as a user meets them: runs that wait while no process runs at all, and go on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from fix_team import ALWAYS, GATED_PLAN, Team, closed

from segue.model.vocabulary import Mode
from segue.services import approvals
from segue.store import open_store


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


def test_expired_and_revoked_approvals_do_not_count(team: Team) -> None:
    team.add()
    team.approve("--expires", "1ms")
    assert "the approval of bob expired at" in team.run(3).stderr
    assert 'the approval of plan "add-note" for "production" is revoked' in team.approve("--revoke", by="carol").stderr
    assert "no: the approval of bob was revoked by carol" in team.segue("approve", "add-note", "--list").stdout


def test_step_waits_for_its_own_approval_and_the_run_goes_on_after_it(team: Team) -> None:
    team.environment("staging")
    team.add(GATED_PLAN)
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
    team.go()
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


def test_closed_window_makes_a_run_wait_and_a_reason_goes_past_it(team: Team) -> None:
    team.environment("test", maintenance_window=closed())
    team.add()
    waiting = team.run(3)
    assert 'the window of "production"' in waiting.stderr
    assert "is closed; the next one begins at" in waiting.stderr
    assert "--outside-window REASON" in waiting.stderr
    status = team.status()
    assert (status["waiting_for"]["kind"], status["due_at"].hour) == ("window", 1)
    assert team.untouched()
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
    team.go()
    assert team.filled_once()


def test_rollback_waits_for_no_window(team: Team) -> None:
    team.environment("test")
    team.add()
    team.go()
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
    with open_store(team.settings) as store, store.session() as session:
        found = approvals.listed(session, "add-note")
    assert [row["because"][:41] for row in found] == ["the approval of bob was revoked by tester"]


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


def test_approval_hands_an_automated_run_over(team: Team) -> None:
    team.environment("production", deployment_type=Mode.AUTOMATED)
    team.add()
    content = json.loads(team.approve("--json").stdout)
    status = team.status()
    assert content["began"] == status["execution"]
    assert (status["mode"], status["handed_over"], status["status"]) == ("automated", True, "waiting")


def test_workers_begin_what_is_approved_and_go_on_when_a_step_is(team: Team) -> None:
    team.environment("production", deployment_type=Mode.AUTOMATED)
    team.add(GATED_PLAN.replace("plan: rename-remark", "plan: add-note"))
    team.segue.start("worker")
    team.approved()
    team.until(lambda: (team.status()["waiting_for"] or {}).get("kind") == "approval")
    assert [step["status"] for step in team.status()["steps"]] == ["completed", "waiting"]
    team.approved(step="rename")
    team.until(lambda: team.status()["status"] == "completed")
    assert (team.status()["mode"], team.status()["handed_over"]) == ("automated", True)
