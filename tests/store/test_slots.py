"""A copy slot helps with what another process drives, and the store's record follows the target, batch by batch."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from fix_targets import Background, rows, run_sql, until, value

from segue import wiring
from segue.engine.control import PauseRequested
from segue.errors import TargetUnreachable
from segue.model.probe import Probe
from segue.model.vocabulary import EnvironmentType
from segue.services import environments, executions, plans, slots
from segue.settings import Settings
from segue.store import Store
from segue.store.tables.jobs import JobRow

PLAN = """
plan: count
version: 1.0.0
description: Count every row up
steps:
  - name: fill
    kind: backfill
    table: t
    set: {n: n + 1}
    batch: {size: 10, max: 10}
    pause: 20ms
    workers: 2
    reverse:
      set: {n: n - 1}
"""


def unseen(url: str) -> Probe:
    """Stand in for a look at the database, which takes a second to measure its traffic."""
    raise TargetUnreachable("not looked at")


@dataclass
class Shop:
    """A table of rows that count how often they were written, as an environment with a plan for it."""

    store: Store
    settings: Settings
    url: str

    def run(self) -> Background:
        parts = wiring.parts()
        return Background(lambda: executions.run(self.store, self.settings, parts, "count", "shop"))

    def begun(self) -> str:
        """Wait until chunks are written, and return the execution."""
        until(lambda: value(self.url, "SELECT to_regclass('segue.work') IS NOT NULL"))
        until(lambda: value(self.url, "SELECT count(*) FROM segue.chunk") > 2)
        return str(value(self.url, "SELECT execution FROM segue.work"))

    def help(self, execution: str, drain: threading.Event, direction: str = "forward", step: str = "fill") -> int:
        parts = wiring.parts()
        return slots.help(self.store, self.settings, parts, execution, step, direction, owner="helper", drain=drain)

    def counted(self) -> dict[int, int]:
        return dict(rows(self.url, "SELECT n, count(*) FROM t GROUP BY 1"))

    def recorded(self) -> list[Any]:
        """Return the store's batches, in the words of the target."""
        with self.store.session() as session:
            found = session.connection().exec_driver_sql(
                "SELECT batch_number, start_key, end_key, status, worker_id, successful_rows, retry_count "
                "FROM segue_store.data_migration_batches ORDER BY 1"
            )
            words = {"completed": "done", "running": "claimed"}
            return [(row[0], _key(row[1]), _key(row[2]), words.get(row[3], row[3]), *row[4:]) for row in found]

    def shown(self) -> list[Any]:
        """Return the target's batches."""
        return rows(self.url, "SELECT number, after, until, state, owner, rows, retries FROM segue.batch ORDER BY 1")


def _key(text: str | None) -> list[str] | None:
    return json.loads(text) if text is not None else None


@pytest.fixture
def shop(store: Store, settings: Settings, database: str) -> Shop:
    run_sql(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)",
        "INSERT INTO t SELECT generate_series(1, 600)",
    )
    parts = wiring.parts()
    with store.session() as session:
        environments.add(session, settings, environments.Wanted("shop", EnvironmentType.TEST), database, unseen)
        plans.add(session, settings, plans.check(PLAN, "plan.yaml", parts))
    return Shop(store, settings, database)


def test_slot_shares_the_work_and_the_record_says_who_did_what(shop: Shop) -> None:
    running = shop.run()
    finished = shop.help(shop.begun(), threading.Event())
    execution = running.result().execution
    assert finished > 0
    assert shop.counted() == {1: 600}
    assert shop.recorded() == shop.shown()
    assert sum(" slot " in batch[4] for batch in shop.recorded()) == finished
    with shop.store.session() as session:
        job = session.query(JobRow).filter_by(execution_id=execution).one()
    assert (job.status, job.progress_percent, job.processed_rows, job.successful_rows) == ("completed", 100, 600, 600)


def test_drained_slot_gives_back_what_it_had(shop: Shop) -> None:
    running, drain = shop.run(), threading.Event()
    execution = shop.begun()
    helping = Background(lambda: shop.help(execution, drain))
    until(lambda: value(shop.url, "SELECT count(*) FROM segue.batch WHERE owner LIKE 'helper%' AND state = 'done'"))
    drain.set()
    assert helping.result() > 0
    left = "SELECT count(*) FROM segue.labourer WHERE owner LIKE 'helper%'"
    assert value(shop.url, left) == 0
    running.result()
    assert shop.counted() == {1: 600}


def test_slot_has_nothing_to_do_where_nobody_drives(shop: Shop) -> None:
    assert shop.help("nothing", threading.Event()) == 0
    running = shop.run()
    execution = shop.begun()
    assert shop.help(execution, threading.Event(), direction="backward") == 0
    assert shop.help(execution, threading.Event(), step="another") == 0
    running.result()
    assert shop.help(execution, threading.Event()) == 0


def test_record_forgets_what_a_crashed_server_has_lost(shop: Shop) -> None:
    running = shop.run()
    execution = shop.begun()
    executions.pause(shop.store, execution, actor="tester")
    with pytest.raises(PauseRequested):
        running.result()
    assert shop.recorded() == shop.shown()
    # As after a crash: the last chunks were not on the disk yet, nor what was offered after them.
    run_sql(
        shop.url,
        "CREATE TEMP TABLE lost AS SELECT batch, until FROM segue.chunk ORDER BY batch DESC LIMIT 2",
        "UPDATE t SET n = 0 WHERE id > (SELECT min(until[1]::int) - 10 FROM lost)",
        "DELETE FROM segue.chunk WHERE batch >= (SELECT min(batch) FROM lost)",
        "DELETE FROM segue.batch WHERE number >= (SELECT min(batch) FROM lost)",
    )
    shop.run().result()
    assert shop.counted() == {1: 600}
    assert shop.recorded() == shop.shown()


def test_undo_is_shared_too(shop: Shop) -> None:
    execution = shop.run().result().execution
    parts = wiring.parts()
    back = Background(lambda: executions.rollback(shop.store, shop.settings, parts, execution))
    until(lambda: value(shop.url, "SELECT count(*) FROM segue.chunk WHERE direction = 'backward'"))
    assert shop.help(execution, threading.Event(), direction="backward") > 0
    back.result()
    assert shop.counted() == {0: 600}
