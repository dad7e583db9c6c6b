"""How a plan is judged by what a look at its target found: the same plan, harmless on one target and not on another."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from segue import wiring
from segue.model.facts import Holder, Speeds, StatementFacts, TableFacts, TargetFacts, Touched
from segue.model.impact import Lock
from segue.planning import planfile
from segue.planning.assessment import Assessment, assess, unlooked
from segue.planning.prediction import predict

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SPEEDS = Speeds(round_trip=0.001, read=1e9, insert=1e6, cost=1e-6)
SMALL = TableFacts("t", "table", rows=100, heap_bytes=8192)
LARGE = TableFacts("t", "table", rows=3_000_000, heap_bytes=1_200_000_000, reads=200, writes=50)
HUGE = replace(LARGE, heap_bytes=512_000_000_000)


def judged(step: dict[str, Any], table: TableFacts, seconds: float | None = 0.01, **more: Any) -> Assessment:
    """Assess a plan of one step on a target with one table; each of its statements takes so many seconds."""
    parts = wiring.parts()
    database = parts.databases["postgresql"]
    document = {"plan": "p", "version": "1.0.0", "description": "d", "steps": [{"name": "s", "kind": "sql", **step}]}
    plan = planfile.read(json.dumps(document), source="p", kinds=parts.steps, database=database)
    prediction = predict(plan, parts.steps, database)
    statements = tuple(
        StatementFacts(
            statement=one,
            touched=tuple(Touched(held.table, held.lock) for held in one.locks),
            does="scans t (1.2 GB)",
            rows=table.rows,
            seconds=seconds,
            **more,
        )
        for one in prediction.steps[0].statements
    )
    facts = TargetFacts("15.8", {"t": table}, (statements,), SPEEDS)
    return assess(plan, "hash", "shop", prediction, facts, NOW)


NOT_NULL = {"sql": "ALTER TABLE t ALTER a SET NOT NULL", "reverse": "ALTER TABLE t ALTER a DROP NOT NULL"}
INDEX = {"sql": "CREATE INDEX i ON t (a)", "reverse": "DROP INDEX i"}
UPDATE = {"sql": "UPDATE t SET a = 1 WHERE a = 2", "reverse": "UPDATE t SET a = 2 WHERE a = 1"}
DROP = {"sql": "ALTER TABLE t DROP COLUMN a", "reverse": "ALTER TABLE t ADD COLUMN a int"}
ADD = {"sql": "ALTER TABLE t ADD COLUMN a int", "reverse": "ALTER TABLE t DROP COLUMN a"}


@pytest.mark.parametrize(
    ("step", "table", "seconds", "risk"),
    [
        (NOT_NULL, SMALL, 0.001, "low"),
        (NOT_NULL, SMALL, 1.0, "medium"),
        (NOT_NULL, SMALL, 4.0, "high"),
        (NOT_NULL, SMALL, 60.0, "critical"),
        (INDEX, SMALL, 0.1, "low"),
        (INDEX, SMALL, 4.0, "medium"),
        (INDEX, SMALL, 60.0, "high"),
        (INDEX, SMALL, 200.0, "critical"),
        (UPDATE, SMALL, 0.01, "low"),
        (UPDATE, replace(SMALL, rows=50_000), 0.5, "medium"),
        (UPDATE, LARGE, 60.0, "high"),
        (DROP, replace(SMALL, rows=0), 0.0, "low"),
        (DROP, SMALL, 0.0, "high"),
        (ADD, SMALL, 0.0, "low"),
        (ADD, HUGE, 0.0, "medium"),
        (ADD, replace(SMALL, reads=2000.0), 0.0, "medium"),
    ],
)
def test_risk_follows_from_what_is_there(step: dict[str, Any], table: TableFacts, seconds: float, risk: str) -> None:
    found = judged(step, table, seconds)
    assert found.risk == risk
    assert bool(found.reasons) is (risk != "low")


def test_the_reason_names_work_time_lock_and_queue() -> None:
    (reason,) = judged(NOT_NULL, LARGE, 4.0).reasons
    assert reason == (
        'step "s" ALTER TABLE scans t (1.2 GB) ≈ 4.0 s while holding ACCESS EXCLUSIVE: reads and writes wait; '
        "about 1,000 statements would queue"
    )


def test_a_busy_table_counts_one_level_higher() -> None:
    assert judged(NOT_NULL, SMALL, 4.0).risk == "high"
    assert judged(NOT_NULL, LARGE, 4.0).risk == "critical"
    # Only writes wait for an index: 50 a second, and not 250.
    queue = judged(INDEX, LARGE, 4.0).steps[0].queue
    assert queue is not None
    assert (queue.per_second, queue.statements) == (50.0, 200)


def test_a_session_in_the_way_is_a_risk_once_it_lasts() -> None:
    holder = Holder(7, "app", "report", "idle in transaction", 90.0, "select", "ACCESS SHARE", "t")
    found = judged(ADD, SMALL, waits_for=(holder,))
    assert found.risk == "medium"
    assert "pid 7 (report, app, idle in transaction) holds ACCESS SHARE on t for 1 m 30 s" in found.reasons[0]
    assert judged(ADD, SMALL, waits_for=(replace(holder, seconds=0.1),)).risk == "low"
    assert judged(ADD, SMALL, waits_for=(replace(holder, seconds=None),)).risk == "low"


def test_what_would_fail_is_a_high_risk() -> None:
    assert judged(DROP, replace(SMALL, rows=0), fails=("view v uses it",)).reasons == (
        'step "s" would fail: view v uses it',
    )


def test_a_step_that_outlasts_its_timeout_is_a_high_risk() -> None:
    slow = {**INDEX, "sql": "CREATE INDEX CONCURRENTLY i ON t (a)", "timeout": "1m"}
    assert "would take about 2 m 0 s, and its timeout is 1 m 0 s" in judged(slow, LARGE, 120.0).reasons[0]
    assert judged(slow, LARGE, 45.0).risk == "medium"
    assert judged(slow, LARGE, 20.0).risk == "low"


def test_one_transaction_holds_its_locks_to_the_end() -> None:
    sql = "ALTER TABLE t ADD COLUMN b int; ALTER TABLE t VALIDATE CONSTRAINT c"
    apart = judged({"sql": sql, "reverse": ["ALTER TABLE t DROP b", ""]}, SMALL, 5.0)
    together = judged({"sql": sql, "reverse": "ALTER TABLE t DROP b", "transaction": True}, SMALL, 5.0)
    assert (apart.steps[0].held, together.steps[0].held) == (5.0, 10.0)
    assert "one transaction holds all its locks" in together.reasons[0]


def test_a_backfill_is_told_in_batches() -> None:
    step = {"kind": "backfill", "table": "t", "set": {"a": "1"}, "batch": {"target": "500ms", "max": 10_000}}
    walk = judged(step, LARGE, 30.0).steps[0].walk
    assert walk is not None
    # 100,000 keys a second would make batches of 50,000, were it not for the most that a batch may have.
    assert (walk.keys, walk.batches) == (3_000_000, 300)
    assert 30 < walk.seconds < 35
    assert judged(step, LARGE, 30.0).steps[0].held == 0
    assert judged(step, LARGE, 30.0).risk == "low"
    assert judged(step, replace(LARGE, rows=20_000_000), 30.0).risk == "medium"


def test_a_data_job_walks_the_table_that_it_reads() -> None:
    walk = judged({"kind": "data-job", "source": "t", "target": "u"}, LARGE, 30.0).steps[0].walk
    assert walk is not None
    assert walk.keys == 3_000_000


def test_what_cannot_be_told_is_said_and_not_guessed() -> None:
    found = judged({"sql": "DO $$ BEGIN PERFORM 1; END $$", "reverse": "SELECT 1"}, SMALL, None)
    assert found.steps[0].seconds is None
    assert "cannot be analysed (DO)" in found.reasons[0]
    script = judged({"kind": "script", "type": "schema-change", "command": ["x"], "irreversible": "it mails"}, SMALL)
    assert script.reasons == ('step "s" cannot be undone: it mails', 'step "s" cannot be analysed (script)')
    waits = judged({"kind": "approval"}, SMALL)
    assert 'how long step "s" (approval) takes' in waits.unknown


def test_an_assessment_without_a_target_is_the_prediction() -> None:
    parts = wiring.parts()
    database = parts.databases["postgresql"]
    document = {
        "plan": "p",
        "version": "1.0.0",
        "description": "d",
        "steps": [{"name": "s", "kind": "sql", **NOT_NULL}],
    }
    plan = planfile.read(json.dumps(document), source="p", kinds=parts.steps, database=database)
    prediction = predict(plan, parts.steps, database)
    found = unlooked(plan, "hash", "shop", prediction, "it is not there", NOW)
    assert (found.assessed, found.risk, found.unknown) == (False, prediction.risk, ("it is not there",))
    assert found.steps[0].lock is Lock.ACCESS_EXCLUSIVE
    assert "was not looked at" in found.summary


def test_the_json_form_is_plain() -> None:
    content = json.loads(json.dumps(judged(NOT_NULL, LARGE, 4.0).as_json()))
    assert content["summary"].startswith(
        "risk critical, complexity low, about 4.0 s, reads and writes wait up to 4.0 s"
    )
    assert (content["estimated_minutes"], content["tables"][0]["rows"]) == (1, 3_000_000)
    assert content["steps"][0]["held_seconds"] == 4.0
