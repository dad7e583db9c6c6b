"""`segue plan assess` and `segue explain` as processes: what is said of a plan, kept with it, and never in the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import run_sql, session

from segue.planning.assessment import Assessment
from segue.services import assessments, environments, plans
from segue.store import secrets

PLAN = """\
plan: widen
version: 1.0.0
description: Keys get wider.
rollback: {on_failure: rollback, window: 24h}
steps:
  - name: widen
    kind: sql
    sql: ALTER TABLE t ALTER COLUMN n TYPE bigint
    reverse: ALTER TABLE t ALTER COLUMN n TYPE int
    retries: 1
  - name: fill
    kind: backfill
    needs: [widen]
    table: t
    set: {n: n + 1}
    where: n > 0
  - name: compare
    kind: validate
    query: SELECT count(*) FROM t WHERE n IS NULL
    scalar: 0
"""


@pytest.fixture
def plan(shops: Shops, database: str) -> str:
    """Store a plan and the environment "shop" with its table; return the database's URL."""
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, n int)")
    run_sql(database, "INSERT INTO t SELECT g, g FROM generate_series(1, 20000) g")
    run_sql(database, "ANALYZE t")
    shops.open("shop", database)
    shops.add(PLAN)
    return database


def assess(shops: Shops, text: str = PLAN) -> Assessment:
    """Assess a plan in "shop" as a run does beforehand."""
    plan = plans.check(text, "plan.yaml", shops.parts).plan
    with shops.store.session() as session:
        row, url = environments.resolve(session, shops.settings, "shop")
    return assessments.assess(shops.store, shops.settings, shops.parts, plan, row, url)


def stored(store_url: str) -> dict[str, Any]:
    with psycopg.connect(store_url) as connection:
        row = connection.execute(
            "SELECT assessment, complexity, risk_level, estimated_duration FROM segue_store.migration_plans"
        ).fetchone()
    assert row is not None
    return {"assessment": row[0], "complexity": row[1], "risk_level": row[2], "minutes": row[3]}


def test_an_assessment_is_said_and_kept_with_the_plan(segue: Segue, plan: str, store_url: str) -> None:
    done = segue("plan", "assess", "widen", "--env", "shop").expect(0)
    assert 'widen in "shop"' in done.stdout
    assert "walks 20,000 keys" in done.stdout
    assert "PostgreSQL 18" in done.stdout
    found = segue("plan", "assess", "widen", "--env", "shop", "--json").expect(0).json["assessment"]
    widen, fill, compare = found["steps"]
    assert (widen["lock"], widen["duration_class"], widen["rows"]) == ("ACCESS EXCLUSIVE", "rewrite", 20_000)
    assert (fill["walk"]["keys"], fill["held_seconds"], compare["lock"]) == (20_000, 0, "ACCESS SHARE")
    assert found["tables"][0]["table"] == "t"
    kept = stored(store_url)
    assert kept["assessment"]["shop"] == found
    assert (kept["risk_level"], kept["complexity"]) == (found["risk_level"], found["complexity"])
    assert kept["minutes"] == found["estimated_minutes"]


def test_facts_lower_what_was_only_predicted(shops: Shops, plan: str) -> None:
    assert plans.check(PLAN, "plan.yaml", shops.parts).prediction.risk == "high"
    assert assess(shops).risk in ("low", "medium")


def test_a_session_in_the_way_is_named(segue: Segue, plan: str) -> None:
    with session(plan, "SET application_name = 'report'", "SELECT 1 FROM t") as reader:
        done = segue("plan", "assess", "widen", "--env", "shop").expect(0)
        assert f"in the way now: pid {reader.info.backend_pid} (report" in done.stdout


def test_other_content_is_not_kept_with_the_stored_plan(shops: Shops, plan: str, store_url: str) -> None:
    other = PLAN.replace("n + 1", "n + 2")
    assess(shops, other)
    assert stored(store_url)["assessment"] is None
    assess(shops)
    shops.add(other)
    with shops.store.session() as session:
        assert assessments.kept(plans.get(session, "widen"), "shop") is None


def test_the_worst_of_all_environments_counts(
    shops: Shops, plan: str, new_database: Callable[[], str], store_url: str
) -> None:
    big = new_database()
    run_sql(big, "CREATE TABLE t (id int PRIMARY KEY, n int)", "CREATE VIEW v AS SELECT n FROM t")
    assess(shops)
    assert stored(store_url)["risk_level"] in ("low", "medium")
    shops.open("production", big)
    with shops.store.session() as session:
        row, url = environments.resolve(session, shops.settings, "production")
    wanted = plans.check(PLAN, "plan.yaml", shops.parts).plan
    found = assessments.assess(shops.store, shops.settings, shops.parts, wanted, row, url)
    assert "is used by view v" in " ".join(found.reasons)
    assess(shops)
    kept = stored(store_url)
    assert (kept["risk_level"], sorted(kept["assessment"])) == ("high", ["production", "shop"])


def test_a_target_that_cannot_be_reached_is_said_and_stops_nothing(
    segue: Segue, shops: Shops, plan: str, store_url: str
) -> None:
    assess(shops)
    before = stored(store_url)
    with shops.store.session() as session:
        row = environments.get(session, "shop")
        row.database_url = secrets.encrypt(shops.settings, "postgresql://me:hush@127.0.0.1:1/shop")
    done = segue("plan", "assess", "widen", "--env", "shop").expect(0)
    assert "could not be looked at" in done.stderr
    assert "hush" not in done.stdout + done.stderr
    assert stored(store_url) == before  # what was seen once says more


def test_a_mistake_in_an_estimate_stops_nothing(shops: Shops, plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.databases.postgresql.costing.SAMPLE_ROWS", None)
    found = assess(shops)
    assert not found.assessed
    assert "a mistake of Segue's own" in found.unknown[0]


def test_a_plan_is_put_into_words_without_any_database(segue: Segue) -> None:
    Path(segue.folder, "widen.yaml").write_text(PLAN)
    nowhere: dict[str, str | None] = {"SEGUE_STORE": "postgresql://me@127.0.0.1:1/store"}
    done = segue("explain", "widen.yaml", env=nowhere).expect(0)
    words = " ".join(done.stdout.split())
    assert done.stdout.startswith("# widen 1.0.0\n")
    assert "## 1. widen (sql)" in done.stdout
    assert "It can neither read nor write t for as long as it takes to write the table anew" in words
    assert "**Undone:** `ALTER TABLE t ALTER COLUMN n TYPE int` (ACCESS EXCLUSIVE)" in words
    assert "a write to a row of the batch at work waits" in words
    assert "`SELECT count(*) FROM t WHERE n IS NULL` must give 0" in words
    assert "It is tried again once" in words
    assert "When a step fails, everything is undone by itself" in words
    assert "It can be taken back for 24 h" in words
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_an_explanation_with_an_environment_has_its_facts(segue: Segue, plan: str) -> None:
    done = segue("explain", "widen", "--env", "shop").expect(0)
    words = " ".join(done.stdout.split())
    assert "**In shop:** writes t (" in words
    assert '"shop" has no window' in words
    found = segue("explain", "widen", "--env", "shop", "--json").expect(0).json["explanation"]
    assert found["environment"] == "shop"
    assert any("20,000 keys" in fact for fact in found["steps"][1]["facts"])
