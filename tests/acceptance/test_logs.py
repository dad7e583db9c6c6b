"""The structured log of a run: every line on stderr is one JSON object, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg
import pytest
from fix_process import Outcome, Segue
from fix_shops import Shops

from segue.cli import _live, output
from segue.engine.events import Event

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
    set: {note: "'customer ' || id"}
  - name: check
    kind: validate
    needs: [fill]
    query: SELECT count(*), 'password=secret' FROM customers WHERE note IS NULL
    row: [0, WANTED]
"""


@pytest.fixture
def shop(shops: Shops, database: str) -> Shops:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY)")
        connection.execute("INSERT INTO customers SELECT generate_series(1, 1000)")
    shops.open("shop", database)
    return shops


def objects(outcome: Outcome) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in outcome.stderr.splitlines()]
    for one in found:
        assert one["segue"] == 1
        assert one["level"] in ("debug", "info", "warning", "error")
        assert datetime.fromisoformat(one["at"]).utcoffset() is not None
        assert {"action", "message"} < set(one)
    return found


def test_a_run_and_its_rollback_log_an_object_a_line(segue: Segue, shop: Shops) -> None:
    path = segue.folder / "plan.yaml"
    path.write_text(PLAN.replace("WANTED", "password=secret"))
    ran = segue("run", path, "--env", "shop", "--log-format", "json").expect(0)
    found = objects(ran)
    execution = shop.status()["execution"]
    assert ran.stdout.startswith(execution)
    assert {one["execution"] for one in found} == {execution}
    completed = [(one["step"], one["detail"]["kind"]) for one in found if one["action"] == "step-completed"]
    assert completed == [("add", "sql"), ("fill", "backfill"), ("check", "validate")]
    assert any(one["action"] == "progress" and one["detail"]["done"] == 1000 for one in found)
    assert "password=***" in ran.stderr
    assert "secret" not in ran.stderr
    back = segue("rollback", "--yes", "--json", "--log-format=json").expect(0)
    assert back.json["status"] == "rolled-back"
    assert [one["step"] for one in objects(back) if one["action"] == "undo-completed"] == ["fill", "add"]


def test_what_stops_a_run_is_an_object_too(segue: Segue, shop: Shops) -> None:
    path = segue.folder / "plan.yaml"
    path.write_text(PLAN.replace("WANTED", "other"))
    last = objects(segue("run", path, "--env", "shop", "--log-format", "json").expect(1))[-1]
    assert (last["level"], last["action"], last["detail"]["exit_code"]) == ("error", "ended", 1)
    assert last["code"]
    missing = objects(segue("run", path, "--env", "nowhere", "--log-format", "json").expect(2))
    assert [one["message"] for one in missing] == ['there is no environment "nowhere"']
    assert missing[0]["hint"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Give a function that tells events to the structured log; it returns the messages of its lines."""
    monkeypatch.setattr(output._wanted, "structured", True)

    def tell(*events: Event) -> list[str]:
        with _live.view() as watch:
            for event in events:
                watch(event)
        return [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]

    return tell


def test_progress_comes_no_more_often_than_once_a_second(told: Callable[..., list[str]]) -> None:
    many = [Event("progress", f"{n} rows", step, detail={"done": n}) for n in range(100) for step in ("one", "two")]
    assert told(*many) == ["0 rows", "0 rows"]


def test_a_wait_is_said_once_until_something_else_happens(told: Callable[..., list[str]]) -> None:
    waits = [Event("waiting", "needs an approval"), Event("waiting", "waiting: needs an approval")]
    assert told(*waits, *waits) == ["needs an approval"]
    assert told(*waits, Event("waiting", "waits for its window")) == ["needs an approval", "waits for its window"]


def test_a_step_says_its_own_time_where_it_was_not_now(
    told: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with _live.view() as watch:
        watch(Event("note", "then", execution="e", at=datetime.fromisoformat("2026-11-29T03:00:00+01:00")))
    assert json.loads(capsys.readouterr().err) == {
        "segue": 1,
        "at": "2026-11-29T02:00:00.000Z",
        "level": "info",
        "action": "note",
        "message": "then",
        "execution": "e",
    }
