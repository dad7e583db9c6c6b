"""Promise 12: an ordinary role in hostile surroundings runs a plan, and takes it back, as any other would.

This is the short form; `make test ARGS=--hostile` runs the core tests like this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest
from fix_hostile import HOSTILE, administrator, occupy
from fix_process import Segue
from fix_shops import Shops
from fix_targets import Background, Open, Run, rows, run_sql, until, value
from psycopg import conninfo

from segue.databases.postgresql import DATABASE
from segue.databases.postgresql.probes import probe
from segue.model.lifecycles import ExecutionStatus
from segue.ports import FORWARD, EffectKey, Patience
from segue.rows.labour import Labourer
from segue.services import executions
from segue.services.workers import Wanted, Worker
from segue.settings import Settings
from segue.steps.backfill import STEP, BackfillParams
from segue.store import open_store

PLAN = r"""
plan: hostile
version: 1.0.0
description: Everything that a role's defaults could get at
steps:
  - name: columns
    kind: sql
    transaction: true
    sql: |
      ALTER TABLE app.orders ADD COLUMN said text, ADD COLUMN code bytea, ADD COLUMN share float8;
      ALTER TABLE app.lines ADD COLUMN n int NOT NULL DEFAULT 0;
    reverse: |
      ALTER TABLE app.lines DROP COLUMN n;
      ALTER TABLE app.orders DROP COLUMN share, DROP COLUMN code, DROP COLUMN said;
  - name: orders
    kind: backfill
    needs: [columns]
    table: app.orders
    set:
      said: "day::text || ' ' || taken::text || ' ' || lasted::text || ' \\ ö ' || coalesce(nullif(note, NULL), 'none')"
      code: "decode('00ff', 'hex')"
      share: id / 3.0::float8
    batch: {size: 50, max: 50}
    workers: 2
  - name: lines
    kind: backfill
    needs: [columns]
    table: app.lines
    set: {n: n + 1}
    batch: {size: 50, max: 50}
  - name: slow
    kind: sql
    needs: [columns]
    sql: SELECT pg_sleep(1.2)
    reverse: SELECT 1
  - name: index
    kind: sql
    needs: [orders]
    sql: CREATE INDEX CONCURRENTLY orders_said ON app.orders (said)
    reverse: DROP INDEX CONCURRENTLY app.orders_said
  - name: checked
    kind: validate
    needs: [orders, lines]
    query: |
      SELECT o.said, encode(o.code, 'hex'), o.share, l.n, current_setting('transaction_isolation')
        FROM app.orders AS o JOIN app.lines AS l USING (id) WHERE id = 1
    row: ["2026-02-01 2026-02-01 12:30:00+00 1 day 02:00:00 \\ ö none", 00ff, 0.3333333333333333, 1, read committed]
"""

TABLES = (
    "CREATE SCHEMA app",
    "CREATE TABLE app.orders (id bigint PRIMARY KEY, day date, taken timestamptz, lasted interval, note text)",
    "INSERT INTO app.orders SELECT n, DATE '2026-02-01', TIMESTAMPTZ '2026-02-01 12:30:00Z', INTERVAL '1 day 2 hours' "
    "FROM generate_series(1, 1000) AS n",
    "CREATE TABLE app.lines (id bigint PRIMARY KEY)",
    "INSERT INTO app.lines SELECT generate_series(1, 1000)",
)


@dataclass(frozen=True)
class Place:
    """A hostile database: its URL as the tables' owner, and as the superuser who looks what became of it."""

    url: str
    look: str


@pytest.fixture(params=["embedded", "debian"])
def place(request: pytest.FixtureRequest) -> Place:
    """Give a hostile database on each server in turn, with tables of the role's."""
    url = occupy(request.getfixturevalue("database" if request.param == "embedded" else "debian_database"))
    # As their owner, but in a session that is not hostile.
    run_sql(administrator(url), f"SET ROLE {conninfo.conninfo_to_dict(url)['user']}", *TABLES)
    return Place(url, administrator(url))


@pytest.fixture
def hostile(segue: Segue, new_database: Callable[[], str]) -> Iterator[Shops]:
    """Give a store in a hostile database of its own, under another ordinary role."""
    settings = Settings(home=segue.folder, store=occupy(new_database()), key=None, user="tester")
    with open_store(settings) as store:
        yield Shops(store, settings)


def test_the_surroundings_are_hostile(place: Place) -> None:
    with psycopg.connect(place.url, autocommit=True) as connection:
        shown = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE app.t ()")
    assert shown["default_transaction_isolation"] == "repeatable read"
    assert (shown["DateStyle"], shown["search_path"]) == ("SQL, DMY", "decoy, pg_catalog")
    for name in ("statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"):
        assert shown[name] == "1000"
    assert set(HOSTILE) - {"client_encoding"} <= set(shown)
    role = "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls FROM pg_roles"
    assert value(place.look, f"{role} WHERE rolname LIKE 'owner_%%'") is False


def test_a_plan_runs_and_is_taken_back(place: Place, hostile: Shops) -> None:
    hostile.open("shop", place.url)
    assert probe(place.url, seconds=1.2).can_create
    assert not any(finding.light == "red" for finding in DATABASE.check(place.url, schema="public").findings)
    outcome = hostile.run(hostile.add(PLAN))
    found = hostile.status(outcome.execution)
    assert found["status"] == ExecutionStatus.COMPLETED
    assert rows(place.look, "SELECT n, count(*) FROM app.lines GROUP BY 1") == [(1, 1000)]
    assert value(place.look, "SELECT count(*) FROM segue.history WHERE state <> 'done'") == 0
    assert value(place.look, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.orders_said'::regclass")
    hostile.rollback()
    left = "SELECT count(*) FROM pg_attribute WHERE attrelid = ANY (ARRAY['app.orders', 'app.lines']::regclass[])"
    assert value(place.look, left + " AND attnum > 0 AND NOT attisdropped") == 6


def test_a_worker_takes_what_was_handed_over(place: Place, hostile: Shops) -> None:
    hostile.open("shop", place.url)
    plan = hostile.add(PLAN)
    execution = executions.hand_over(hostile.store, hostile.settings, hostile.parts, plan, "shop").execution
    Worker(hostile.store, hostile.settings, hostile.parts, Wanted(once=True)).run()
    assert hostile.status(execution)["status"] == ExecutionStatus.COMPLETED
    assert rows(place.look, "SELECT n, count(*) FROM app.lines GROUP BY 1") == [(1, 1000)]


def test_a_copy_slot_joins_with_sessions_of_its_own(place: Place, open_target: Open) -> None:
    run_sql(place.look, "ALTER TABLE app.lines ADD COLUMN n int NOT NULL DEFAULT 0")
    target = open_target(place.url, "e")
    params = BackfillParams(name="fill", table="app.lines", set={"n": "n + 1"}, batch={"size": 10, "max": 10})
    run = Run(target, params)
    run.hired = lambda wanted: 0  # all is done by whoever joins
    driver = Background(lambda: STEP.run(run))
    until(lambda: run.record.batches)
    joined = DATABASE.join_target(place.url, execution="e", holder="helper", fence=target.fence, schema="public")
    try:
        shared = STEP.shared(params, joined, EffectKey("e", "plan", "hash", "fill", FORWARD, 0), Patience(60, 60))
        labourer = Labourer(shared, "helper", patience=60, stop=threading.Event(), leave_after=5)
        labourer.go()
    finally:
        joined.close()
    driver.result()
    assert labourer.finished > 0
    assert rows(place.look, "SELECT n, count(*) FROM app.lines GROUP BY 1") == [(1, 1000)]
