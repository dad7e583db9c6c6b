"""Approvals and what stands before a run, on a real store: what counts, what does not and why, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from segue import clock, wiring
from segue.engine.control import MustWait
from segue.errors import Blocked, UsageError
from segue.services import approvals, gates, plans
from segue.services.beginnings import Options
from segue.settings import Settings
from segue.store import Store
from segue.store.ids import new_id
from segue.store.tables.environments import EnvironmentRow
from segue.store.tables.executions import ExecutionRow, StepRunRow
from segue.store.tables.ledger import LedgerRow
from segue.store.tables.plans import PlanRow

PLAN = """\
plan: add-note
version: 1.0.0
description: A note per customer
steps:
  - name: add
    kind: sql
    sql: ALTER TABLE customers ADD COLUMN note text
    reverse: ALTER TABLE customers DROP COLUMN note
  - name: drop-old
    kind: sql
    approval: true
    needs: [add]
    sql: ALTER TABLE customers RENAME COLUMN remark TO remark_old
    reverse: ALTER TABLE customers RENAME COLUMN remark_old TO remark
"""
SUNDAY_3 = datetime(2026, 11, 29, 3, tzinfo=UTC)


class Office:
    """A store with a plan that ada wrote, environments, and people who say yes and no."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings, self.parts = store, settings, wiring.parts()
        self.add_plan()
        self.environment("production", type="production")
        self.environment("staging", type="staging")

    def add_plan(self, by: str = "ada", plan: str = PLAN) -> None:
        checked = plans.check(plan, "plan.yaml", self.parts)
        with self.store.session() as session:
            plans.add(session, replace(self.settings, user=by), checked)

    def environment(self, name: str, **columns: Any) -> None:
        values = {
            "database_url": "x",
            "schema_name": "public",
            "data_size": "small",
            "traffic_level": "low",
            "deployment_type": "manual",
            **columns,
        }
        with self.store.session() as session:
            row = session.scalars(select(EnvironmentRow).where(EnvironmentRow.name == name)).one_or_none()
            if row is None:
                session.add(EnvironmentRow(name=name, **values))
                return
            for column, value in columns.items():
                setattr(row, column, value)

    def approve(self, by: str = "bob", environment: str = "production", **more: Any) -> approvals.Decided:
        with self.store.session() as session:
            seen = plans.get(session, "add-note").plan_hash
        wanted = approvals.Wanted("add-note", environment, **{"reason": "rehearsed", "seen": seen, **more})
        return approvals.grant(self.store, replace(self.settings, user=by), self.parts, wanted)

    def revoke(self, by: str = "carol", step: str | None = None) -> approvals.Decided:
        user = replace(self.settings, user=by)
        return approvals.revoke(self.store, user, "add-note", "production", step, "not now")

    def execution(self, status: str = "waiting", *, begun: bool = False, **columns: Any) -> str:
        with self.store.session() as session:
            plan_row = plans.get(session, "add-note")
            env_row = session.scalars(select(EnvironmentRow).where(EnvironmentRow.name == "production")).one()
            number = len(session.scalars(select(ExecutionRow)).all()) + 1
            row = ExecutionRow(
                id=new_id(),
                plan_id=plan_row.id,
                environment_id=env_row.id,
                execution_number=number,
                steps_total=2,
                executed_by="ada",
                execution_mode="manual",
                plan_hash=plan_row.plan_hash,
                **columns,
            )
            session.add(row)
            session.flush()
            session.add(step := StepRunRow(execution_id=row.id, step_number=1, step_name="add", kind="sql"))
            session.flush()
            # Past the lifecycle's guard: the test wants the state, not the way to it.
            moved = "UPDATE segue_store.{} SET status = :status WHERE id = :id"
            for table, identity, state in (
                ("migration_executions", row.id, status),
                ("migration_step_runs", step.id, "completed" if begun else "pending"),
            ):
                session.execute(text(moved.format(table)), {"status": state, "id": identity})
            return row.id

    def opening(
        self,
        environment: str = "production",
        *,
        now: datetime | None = None,
        seconds: float | None = 60,
        options: Options | None = None,
        execution: str | None = None,
    ) -> MustWait | None:
        with self.store.session() as session:
            plan_row = plans.get(session, "add-note")
            env_row = session.scalars(select(EnvironmentRow).where(EnvironmentRow.name == environment)).one()
            row = session.get_one(ExecutionRow, execution) if execution is not None else None
            plan = plans.stored(plan_row, self.parts).plan
            moment = now or clock.now()
            return gates.opening(
                session,
                plan,
                plan_row,
                env_row,
                row,
                now=moment,
                seconds=seconds,
                options=options or Options(),
                actor="dora",
            )

    def refused(self) -> str:
        """Return why a run in production may not begin."""
        wait = self.opening()
        assert wait is not None
        assert wait.kind == "approval"
        assert wait.due is None
        assert "segue approve add-note --env production --reason TEXT" in wait.hint
        return wait.message

    def ledger(self, *actions: str) -> list[tuple[str, str, dict[str, Any]]]:
        with self.store.session() as session:
            rows = session.scalars(select(LedgerRow).where(LedgerRow.action.in_(actions)).order_by(LedgerRow.id))
            return [(row.actor, row.action, row.detail) for row in rows]

    def plan(self) -> PlanRow:
        with self.store.session() as session:
            return plans.get(session, "add-note")


@pytest.fixture
def office(store: Store, settings: Settings) -> Office:
    return Office(store, settings)


def test_production_needs_an_approval_and_other_environments_none(office: Office) -> None:
    assert 'waits for an approval in "production": nobody has approved it' in office.refused()
    assert office.opening("staging") is None


def test_approval_opens_production_and_moves_the_plan_on(office: Office) -> None:
    given = office.approve().approvals[0]
    assert office.opening() is None
    assert (given["approved_by"], given["counts"], given["expires_at"]) == ("bob", True, None)
    assert (office.plan().status, office.plan().approved_by) == ("approved", "bob")
    actor, _, detail = office.ledger("granted")[0]
    assert (actor, detail["environment"], detail["reason"]) == ("bob", "production", "rehearsed")
    assert detail["plan_hash"] == office.plan().plan_hash


@pytest.mark.parametrize("author", ["ada", "Ada "])
def test_author_cannot_approve_for_production_and_the_ledger_keeps_that(office: Office, author: str) -> None:
    with pytest.raises(Blocked, match="wrote plan") as caught:
        office.approve(by=author)
    assert "somebody other than ada" in caught.value.hint
    assert office.plan().status == "draft"
    assert office.ledger("approval-refused")[0][2]["because"] == caught.value.message
    office.approve(by=author, environment="staging")


def test_whoever_added_the_present_content_is_an_author_too(office: Office) -> None:
    office.add_plan(by="bob", plan=PLAN.replace("1.0.0", "1.0.1"))
    for author in ("ada", "bob"):
        with pytest.raises(Blocked, match="wrote plan"):
            office.approve(by=author)
    office.approve(by="carol")
    assert office.opening() is None


def test_authors_approval_given_before_an_environment_became_production_does_not_count(office: Office) -> None:
    office.approve(by="ada", environment="staging")
    office.environment("staging", type="production")
    wait = office.opening("staging")
    assert wait is not None
    assert "ada wrote the plan" in wait.message


def test_plan_that_was_changed_after_its_approval_is_refused_and_kept(office: Office) -> None:
    given = office.approve().approvals[0]
    office.add_plan(plan=PLAN.replace("note text", "note varchar(80)").replace("1.0.0", "1.0.1"))
    assert office.plan().status == "draft"
    assert "the plan was changed after bob approved it" in office.refused()
    assert given["plan_hash"][:12] in office.refused()
    actor, _, detail = office.ledger("approval-refused")[0]
    assert (actor, detail["environment"]) == ("dora", "production")
    assert "was changed after" in detail["because"]


def test_expired_approval_is_refused_and_kept(office: Office, store: Store) -> None:
    office.approve(lasts=3600)
    assert office.opening() is None
    with store.session() as session:
        session.execute(text("UPDATE segue_store.approvals SET expires_at = now() - interval '1 minute'"))
    assert "the approval of bob expired at" in office.refused()
    assert "expired" in office.ledger("approval-refused")[0][2]["because"]


def test_revoked_approval_is_refused_and_the_plan_is_a_draft_again(office: Office) -> None:
    office.approve()
    office.approve(by="carol")
    taken = office.revoke()
    assert [row["status"] for row in taken.approvals] == ["revoked", "revoked"]
    assert "the approval of carol was revoked by carol" in office.refused()
    assert (office.plan().status, office.plan().approved_by) == ("draft", None)
    assert [(actor, detail["reason"]) for actor, _, detail in office.ledger("revoked")] == [("carol", "not now")] * 2


def test_what_was_never_approved_cannot_be_revoked(office: Office) -> None:
    with pytest.raises(UsageError, match="no approval"):
        office.revoke()


def test_new_approval_counts_after_a_revoked_one(office: Office) -> None:
    office.approve()
    office.revoke()
    office.approve(by="dora")
    assert office.opening() is None


def test_refusal_is_kept_once_however_often_it_is_looked_at(office: Office) -> None:
    office.approve()
    office.revoke()
    execution = office.execution(waiting_for={"kind": "approval", "message": office.refused()})
    for _ in range(3):
        assert office.opening(execution=execution) is not None
    assert len(office.ledger("approval-refused")) == 1


def test_execution_that_has_begun_outlives_the_expiry_but_not_the_revocation(office: Office, store: Store) -> None:
    office.approve(lasts=3600)
    with store.session() as session:
        session.execute(text("UPDATE segue_store.approvals SET expires_at = now() - interval '1 minute'"))
    fresh, begun = office.execution(), office.execution("failed", begun=True)
    assert office.opening(execution=fresh) is not None
    assert office.opening(execution=begun) is None
    office.revoke()
    assert office.opening(execution=begun) is not None


def test_step_needs_an_approval_of_its_own_in_every_environment(office: Office, store: Store) -> None:
    office.approve()
    execution = office.execution("running")
    asked = gates.RunGates(store, execution)
    assert asked.approval("drop-old") is None
    office.approve(step="drop-old", reason="nobody reads it", lasts=60)
    given = asked.approval("drop-old")
    assert given is not None
    assert (given.by, given.reason) == ("bob", "nobody reads it")
    assert given.expires is not None
    assert given.expires - given.at < timedelta(seconds=61)


def test_step_whose_approval_was_revoked_waits_and_says_so_once(office: Office, store: Store) -> None:
    office.approve(step="drop-old")
    asked = gates.RunGates(store, office.execution("running"))
    office.revoke(step="drop-old")
    for _ in range(2):
        with pytest.raises(MustWait, match='step "drop-old" waits for an approval: the approval of bob was revoked'):
            asked.approval("drop-old")
    assert [detail["step"] for _, _, detail in office.ledger("approval-refused")] == ["drop-old"]


def test_step_that_asks_for_nothing_cannot_be_approved(office: Office) -> None:
    with pytest.raises(UsageError, match='step "add" of plan "add-note" asks for no approval'):
        office.approve(step="add")
    with pytest.raises(UsageError, match='has no step "drop"') as caught:
        office.approve(step="drop")
    assert "drop-old" in caught.value.hint


def test_plan_that_changed_while_it_was_looked_at_is_not_approved(office: Office) -> None:
    with pytest.raises(Blocked, match="was changed while it was looked at"):
        office.approve(seen="0" * 64)
    assert "was changed while" in office.ledger("approval-refused")[0][2]["because"]


def test_plan_that_was_changed_in_the_store_is_not_approved(office: Office, store: Store) -> None:
    with store.session() as session:
        session.execute(
            text("UPDATE segue_store.migration_plans SET document = jsonb_set(document, '{description}', '\"else\"')")
        )
    with pytest.raises(Blocked, match="changed it in the store"):
        office.approve()


def test_approval_and_revocation_have_waiting_executions_looked_at(office: Office, store: Store) -> None:
    waiting, running = office.execution(handed_over=True), office.execution("running")
    assert office.approve().woken == [waiting]
    with store.session() as session:
        assert session.get_one(ExecutionRow, waiting).due_at is not None
        assert session.get_one(ExecutionRow, running).due_at is None
    assert office.revoke().woken == [waiting]


def test_approval_leaves_an_execution_that_waits_in_a_terminal_to_its_person(office: Office, store: Store) -> None:
    mine = office.execution(handed_over=False)
    assert office.approve().woken == []
    with store.session() as session:
        assert session.get_one(ExecutionRow, mine).due_at is not None


def test_run_that_may_have_asked_just_before_the_approval_is_looked_at_a_little_later(
    office: Office, store: Store
) -> None:
    running = office.execution("running", handed_over=True)
    office.approve(step="drop-old")
    with store.session() as session:
        nudges = session.execute(
            text("SELECT scheduled_at > now() FROM segue_queue.procrastinate_jobs WHERE args->>'execution' = :id"),
            {"id": running},
        ).scalars()
        assert list(nudges) == [True]


def test_blank_reason_is_no_reason(office: Office) -> None:
    with pytest.raises(UsageError, match="a reason is missing"):
        office.approve(reason="  ")


# -- windows and times


def test_run_waits_for_its_window_and_says_when_it_opens(office: Office) -> None:
    office.environment("staging", maintenance_window="Sunday 02:00-04:00 UTC")
    wait = office.opening("staging", now=SUNDAY_3 + timedelta(days=1))
    assert wait is not None
    assert (wait.kind, wait.due) == ("window", SUNDAY_3 + timedelta(days=7, hours=-1))
    assert "Sunday 02:00-04:00 UTC" in wait.message
    assert "segue run add-note --env staging" in wait.hint
    assert office.opening("staging", now=SUNDAY_3) is None


def test_run_that_would_not_fit_is_not_started(office: Office) -> None:
    office.environment("staging", maintenance_window="Sunday 02:00-04:00 UTC")
    wait = office.opening("staging", now=SUNDAY_3, seconds=3601)
    assert wait is not None
    assert wait.due == SUNDAY_3 + timedelta(days=7, hours=-1)
    assert "closes in 1 h 0 m" in wait.message
    assert office.opening("staging", now=SUNDAY_3, seconds=3600) is None
    assert office.opening("staging", now=SUNDAY_3, seconds=None) is None


def test_run_that_can_never_fit_is_refused_and_the_ledger_keeps_that(office: Office) -> None:
    office.environment("staging", maintenance_window="Sunday 02:00-04:00 UTC")
    with pytest.raises(Blocked, match="never fits into the window") as caught:
        office.opening("staging", now=SUNDAY_3, seconds=7201)
    assert not isinstance(caught.value, MustWait)
    actor, _, detail = office.ledger("refused")[0]
    assert (actor, detail["environment"], detail["because"]) == ("dora", "staging", caught.value.message)


def test_what_is_half_done_goes_on_in_a_window_that_is_too_short_for_all_of_it(office: Office) -> None:
    office.approve()
    office.environment("production", maintenance_window="Sunday 02:00-04:00 UTC")
    begun = office.execution("waiting", begun=True)
    assert office.opening(now=SUNDAY_3, seconds=36_000, execution=begun) is None
    wait = office.opening(now=SUNDAY_3 + timedelta(hours=1), seconds=36_000, execution=begun)
    assert wait is not None
    assert wait.kind == "window"


def test_reason_goes_past_a_closed_window_and_is_kept(office: Office) -> None:
    office.environment("staging", maintenance_window="Sunday 02:00-04:00 UTC")
    outside = Options(outside_window="incident 12")
    assert office.opening("staging", now=SUNDAY_3 + timedelta(days=1), options=outside) is None
    assert office.opening("staging", now=SUNDAY_3, options=outside) is None
    entries = office.ledger("outside-window")
    assert [(actor, detail["reason"]) for actor, _, detail in entries] == [("dora", "incident 12")]


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_blank_reason_does_not_go_past_a_window(office: Office, reason: str | None) -> None:
    office.environment("staging", maintenance_window="Sunday 02:00-04:00 UTC")
    options = Options(outside_window=reason)
    assert office.opening("staging", now=SUNDAY_3 + timedelta(days=1), options=options) is not None


def test_window_that_cannot_be_read_lets_nothing_pass(office: Office) -> None:
    office.environment("staging", maintenance_window="whenever it suits")
    with pytest.raises(Blocked, match='the window of environment "staging" cannot be read'):
        office.opening("staging")


def test_running_execution_stops_when_its_window_has_closed(office: Office, store: Store) -> None:
    office.approve()
    office.environment("production", maintenance_window="Sunday 02:00-04:00 UTC")
    moment = SUNDAY_3
    running = gates.RunGates(store, office.execution("running", begun=True), now=lambda: moment)
    running.boundary()
    moment = SUNDAY_3 + timedelta(hours=1)
    with pytest.raises(MustWait, match="has closed; it goes on at 2026-12-06 02:00 UTC") as caught:
        running.boundary()
    assert (caught.value.kind, caught.value.due) == ("window", SUNDAY_3 + timedelta(days=7, hours=-1))


def test_running_execution_stops_when_its_approval_is_revoked(office: Office, store: Store) -> None:
    office.approve()
    running = gates.RunGates(store, office.execution("running", begun=True))
    running.boundary()
    office.revoke()
    with pytest.raises(MustWait, match="was revoked by carol"):
        running.boundary()


def test_rollback_is_never_held_up(office: Office, store: Store) -> None:
    office.environment("production", maintenance_window="Sunday 02:00-04:00 UTC")
    back = office.execution("running", begun=True, direction="backward")
    assert office.opening(now=SUNDAY_3 + timedelta(days=1), execution=back) is None
    gates.RunGates(store, back, now=lambda: SUNDAY_3 + timedelta(days=1)).boundary()


def test_run_waits_for_its_time_before_it_asks_for_anything_else(office: Office) -> None:
    later = clock.now() + timedelta(hours=1)
    execution = office.execution(options={"at": later.isoformat()})
    wait = office.opening(execution=execution)
    assert wait is not None
    assert (wait.kind, wait.due) == ("time", later)
    wait = office.opening(execution=execution, now=later)
    assert wait is not None
    assert wait.kind == "approval"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("running", "waits"), ("paused", "waits"), ("completed", "begins"), ("failed", "is refused"),
     ("cancelled", "is refused"), ("rolled-back", "is refused")],
)  # fmt: skip
def test_run_that_comes_after_another_one(office: Office, status: str, outcome: str) -> None:
    office.approve()
    execution = office.execution(after_execution=office.execution(status))
    if outcome == "is refused":
        with pytest.raises(Blocked, match=f"must be completed first, is {status}"):
            office.opening(execution=execution)
        return
    wait = office.opening(execution=execution)
    assert (wait is None) == (outcome == "begins")
    if wait is not None:
        assert wait.kind == "execution"
        assert wait.due is not None


# -- who begins it


def begun_by(office: Office, execution: str | None) -> tuple[str, bool, str]:
    with office.store.session() as session:
        row = session.get_one(ExecutionRow, execution)
        return row.execution_mode, row.handed_over, row.status


@pytest.fixture
def reachable(office: Office, settings: Settings) -> Callable[..., None]:
    """Give a function that changes the environment "production" and gives it a URL that can be read."""

    def change(**columns: Any) -> None:
        from segue.store import secrets

        office.environment("production", database_url=secrets.encrypt(settings, "postgresql://nowhere/x"), **columns)

    return change


def test_approval_begins_a_run_where_deployment_is_automated(office: Office, reachable: Callable[..., None]) -> None:
    reachable(deployment_type="automated")
    done = office.approve()
    assert done.not_begun is None
    assert begun_by(office, done.began) == ("automated", True, "waiting")


def test_approval_of_a_step_begins_nothing(office: Office, reachable: Callable[..., None]) -> None:
    reachable(deployment_type="automated")
    assert office.approve(step="drop-old").began is None


def test_approval_where_deployment_is_scheduled_needs_a_time_or_a_window(
    office: Office, reachable: Callable[..., None]
) -> None:
    reachable(deployment_type="scheduled")
    done = office.approve()
    assert done.began is None
    assert done.not_begun is not None
    assert "nothing says when" in done.not_begun.message
    assert "--at" in done.not_begun.hint
    with pytest.raises(Blocked, match="nothing says when"):
        office.opening()


def test_approval_with_a_time_begins_a_scheduled_run_that_waits_for_it(
    office: Office, reachable: Callable[..., None]
) -> None:
    reachable(deployment_type="scheduled")
    at = clock.now() + timedelta(days=1)
    done = office.approve(at=at)
    assert begun_by(office, done.began) == ("scheduled", True, "waiting")
    assert office.plan().scheduled_at == at
    wait = office.opening(execution=done.began)
    assert wait is not None
    assert (wait.kind, wait.due) == ("time", at)


def test_scheduled_run_without_a_time_waits_for_the_window(office: Office, reachable: Callable[..., None]) -> None:
    reachable(deployment_type="scheduled", maintenance_window="Sunday 02:00-04:00 UTC")
    done = office.approve()
    wait = office.opening(execution=done.began, now=SUNDAY_3 + timedelta(days=1))
    assert wait is not None
    assert wait.kind == "window"


def test_approval_does_not_wake_what_a_person_has_paused(office: Office, reachable: Callable[..., None]) -> None:
    reachable(deployment_type="automated")
    paused = office.execution("paused", begun=True)
    done = office.approve()
    assert done.began is None
    assert done.not_begun is not None
    assert paused in done.not_begun.message
    assert begun_by(office, paused) == ("manual", False, "paused")


def test_time_belongs_to_environments_that_are_deployed_on_schedule(office: Office) -> None:
    with pytest.raises(UsageError, match="not deployed on schedule"):
        office.approve(at=clock.now() + timedelta(days=1))
