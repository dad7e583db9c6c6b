"""What is predicted of a plan: risk with its reasons, complexity, minutes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from segue import wiring
from segue.model.impact import Duration, Lock
from segue.planning import planfile
from segue.planning.prediction import Prediction, predict


def predicted(*steps: dict[str, Any]) -> Prediction:
    """Predict a plan of these steps."""
    parts = wiring.parts()
    document = {"plan": "p", "version": "1.0.0", "description": "d", "steps": list(steps)}
    database = parts.databases["postgresql"]
    plan = planfile.read(json.dumps(document), source="p", kinds=parts.steps, database=database)
    return predict(plan, parts.steps, database)


def step(sql: str, name: str = "s", **fields: Any) -> dict[str, Any]:
    """Return an sql step that is undone by something harmless."""
    undo = {} if "irreversible" in fields else {"reverse": "ALTER TABLE t ALTER a DROP DEFAULT"}
    return {"name": name, "kind": "sql", "sql": sql, **undo, **fields}


@pytest.mark.parametrize(
    ("fields", "risk", "reason"),
    [
        (step("ALTER TABLE t ADD COLUMN a int"), "low", ""),
        (step("CREATE INDEX CONCURRENTLY i ON t (a)"), "low", ""),
        (step("ALTER TABLE t VALIDATE CONSTRAINT c"), "low", ""),
        (step("CREATE INDEX i ON t (a)"), "medium", "blocks writes during an index build"),
        (step("UPDATE t SET a = 1"), "medium", "changes rows in one transaction"),
        (step("ALTER TABLE t RENAME COLUMN a TO b"), "medium", "breaks code that uses the old name"),
        (step("ALTER TABLE t ADD COLUMN a int NOT NULL"), "medium", "fails on a table with rows"),
        (step("ALTER TABLE t ALTER a SET NOT NULL"), "high", "blocks reads and writes during a scan"),
        (step("ALTER TABLE t ALTER a TYPE bigint"), "high", "blocks reads and writes during a rewrite"),
        (step("DO $$ BEGIN PERFORM 1; END $$"), "high", "during"),
        (step("ALTER TABLE t DROP COLUMN a"), "high", "brings back the shape, not the data"),
        (step("ALTER TABLE t ADD COLUMN a int", irreversible="because"), "high", "cannot be undone: because"),
        (step("DROP TABLE t", irreversible="it is empty"), "critical", "destroys data"),
    ],
)
def test_risk_has_a_reason(fields: dict[str, Any], risk: str, reason: str) -> None:
    found = predicted(fields)
    assert found.risk == risk
    assert reason in " ".join(found.reasons)
    assert bool(found.reasons) is bool(reason)


def test_steps_are_judged_together() -> None:
    found = predicted(
        step("CREATE TABLE fresh (id int, a int)", "make"),
        step("CREATE INDEX i ON fresh (id)", "index", needs=["make"]),
        step("ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID", "add"),
        step("ALTER TABLE t VALIDATE CONSTRAINT c", "validate", needs=["add"]),
        step("ALTER TABLE t ALTER a SET NOT NULL", "set", needs=["validate"]),
    )
    assert found.risk == "low"
    assert found.steps[1].lock is Lock.NONE
    assert found.steps[4].duration is Duration.INSTANT


def test_one_transaction_holds_its_locks_to_the_end() -> None:
    sql = "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT c"
    reverse = "ALTER TABLE t DROP CONSTRAINT c"
    apart = predicted(step(sql, reverse=[reverse, "SELECT 1"]))
    together = predicted(step(sql, reverse=reverse, transaction=True))
    assert (apart.risk, apart.steps[0].duration) == ("low", Duration.INSTANT)
    assert (together.risk, together.steps[0].duration) == ("high", Duration.SCAN)
    assert "one transaction holds all its locks" in together.reasons[0]


def test_rows_of_a_new_table_are_no_risk() -> None:
    sql = "CREATE TABLE fresh (a int); INSERT INTO fresh SELECT DISTINCT a FROM t"
    assert predicted(step(sql, reverse="DROP TABLE fresh", transaction=True)).risk == "low"


def test_steps_come_in_the_order_of_a_run_with_their_numbers_in_the_file() -> None:
    found = predicted(step("SELECT 1", "b", needs=["a"]), step("SELECT 2", "a"))
    assert [(one.number, one.name) for one in found.steps] == [(2, "a"), (1, "b")]


def test_undo_is_said_in_words() -> None:
    found = predicted(
        step("ALTER TABLE t ADD COLUMN a int", "add", reverse="ALTER TABLE t DROP COLUMN a"),
        {"name": "fill", "kind": "backfill", "table": "t", "set": {"a": "1"}},
        {"name": "check", "kind": "validate", "query": "SELECT 1", "scalar": 1},
        step("DROP TABLE u", "drop", irreversible="gone"),
    )
    assert [one.undo for one in found.steps] == ["ALTER TABLE", "values stay", "nothing to undo", None]
    assert found.minutes == 11


def test_prediction_has_a_json_form() -> None:
    found = predicted(step("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u NOT VALID")).as_json()
    assert json.loads(json.dumps(found)) == found
    assert found["predicted"] is True
    assert found["steps"][0]["statements"][0]["locks"] == [
        {"table": "u", "lock": "SHARE ROW EXCLUSIVE", "named": True},
        {"table": "t", "lock": "SHARE ROW EXCLUSIVE", "named": True},
    ]


def test_complexity_grows_with_steps_and_tables() -> None:
    small = predicted(step("ALTER TABLE t ADD COLUMN a int"))
    large = predicted(*(step(f"ALTER TABLE t{number} ADD COLUMN a int", f"s{number}") for number in range(20)))
    assert (small.complexity, large.complexity) == ("low", "high")
