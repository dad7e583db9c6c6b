"""Strategies of a plan take effect: the application is kept out for a while, targets come one after the other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import Background, run_sql, until, value

from segue.engine.control import MustWait
from segue.errors import Blocked, Differences, SafelyUndone, StepFailed, UsageError
from segue.services import approvals, checks, environments, rollouts, tuning
from segue.services.beginnings import Options, Outcome

WINDOW = """
plan: short-break
version: 1.0.0
description: Something while nobody writes
strategy: maintenance-window
maintenance_window: 5
FENCEsteps:
  - {name: widen, kind: sql, sql: ALTER TABLE orders ALTER n TYPE bigint, reverse: ALTER TABLE orders ALTER n TYPE int}
MORE"""

#: Holds the run inside its window until the test lets it go on.
LATCH = "  - {name: latch, kind: wait, condition: {query: SELECT n FROM orders, scalar: 7}, every: 200ms}\n"
TYPE = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'n'"


UPDATE = "'UPDATE orders SET n = 3'"


class Shop:
    """A database with orders that is an environment, and the command line."""

    def __init__(self, segue: Segue, shops: Shops, url: str) -> None:
        self.segue, self.shops, self.url = segue, shops, url
        run_sql(url, "CREATE TABLE orders (id int PRIMARY KEY, n int)", "INSERT INTO orders VALUES (1, 0)")
        shops.open("shop", url)

    def plan(self, more: str = "", fence: str = "") -> Path:
        path = self.segue.folder / "plan.yaml"
        path.write_text(WINDOW.replace("MORE", more).replace("FENCE", fence))
        return path

    def run(self, *arguments: str | Path) -> Any:
        return self.segue("run", *arguments, "--env", "shop")

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a run; return when the application is kept out."""
        process = self.segue.start("run", *arguments, "--env", "shop")
        until(self.shut)
        return process

    def shut(self) -> bool:
        """Return whether the application is kept out."""
        try:
            with psycopg.connect(self.url, autocommit=True) as application:
                application.execute("UPDATE public.orders SET n = n WHERE false")
        except psycopg.errors.SerializationFailure as error:
            return error.diag.constraint_name == "segue_fence"
        return False

    def release(self) -> None:
        """Let the run go on. Who may read the fence's row may pass."""
        word = value(self.url, "SELECT pass FROM segue.fence")
        run_sql(self.url, f"SET segue.pass = '{word}'; UPDATE orders SET n = 7")

    def type(self) -> str:
        return str(value(self.url, TYPE))


@pytest.fixture
def shop(segue: Segue, shops: Shops, debian_database: str) -> Shop:
    return Shop(segue, shops, debian_database)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


# -- several targets

ROLL = """
plan: roll
version: 1.0.0
description: The same for each shard
strategy: rolling
steps:
  - {name: label, kind: sql, sql: ALTER TABLE orders ADD label text, reverse: ALTER TABLE orders DROP label}
  - {name: all-there, kind: validate, needs: [label], query: SELECT count(*) FROM orders, scalar: 1, blocking: false}
"""


class Shards:
    """Databases of one kind, each an environment, in the order of their names."""

    def __init__(self, segue: Segue, shops: Shops, make: Callable[[], str]) -> None:
        self.segue, self.shops = segue, shops
        self.urls = {name: make() for name in ("c-first", "a-second", "b-third")}
        self.names = list(self.urls)
        for name, url in self.urls.items():
            run_sql(url, "CREATE TABLE orders (id int PRIMARY KEY, n int)", "INSERT INTO orders VALUES (1, 0)")
            shops.open(name, url)

    def write(self, text: str = ROLL) -> Path:
        path = self.segue.folder / "plan.yaml"
        path.write_text(text)
        return path

    def roll(self) -> list[Outcome]:
        """Run the plan on all of them, here."""
        shops = self.shops
        return rollouts.run(shops.store, shops.settings, shops.parts, "roll", self.names, Options())

    def labelled(self) -> list[str]:
        """Return where the plan has taken effect."""
        query = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'label'"
        return [name for name, url in self.urls.items() if value(url, query)]


@pytest.fixture
def shards(segue: Segue, shops: Shops, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Shards:
    monkeypatch.setattr("segue.services.following.CALM_SECONDS", 0.5)
    return Shards(segue, shops, new_database)


def test_a_rolling_plan_takes_its_targets_one_after_the_other_in_the_order_given(shards: Shards) -> None:
    named = [word for name in shards.names for word in ("--env", name)]
    done = shards.segue("run", shards.write(), *named, "--json").expect(0).json
    ran = done["executions"]
    assert [item["environment"] for item in ran] == shards.names
    assert {item["status"] for item in ran} == {"completed"}
    for before, after in pairwise(ran):
        assert before["completed_at"] < after["started_at"]
    again = shards.segue("run", "roll", *named).expect(0)
    assert again.stderr.count("is completed already") == 3


def test_the_first_failure_ends_a_rollout_and_says_what_is_where(shards: Shards) -> None:
    shards.shops.add(ROLL.replace(", blocking: false", ""))
    run_sql(shards.urls["a-second"], "INSERT INTO orders VALUES (2, 0)")
    with pytest.raises(Differences) as caught:
        shards.roll()
    words = [line.split(" (")[0] for line in caught.value.details[-3:]]
    assert words == ["c-first: completed", "a-second: failed", "b-third: not begun"]
    run_sql(shards.urls["a-second"], "DELETE FROM orders WHERE id = 2")
    assert [one.nothing_to_do for one in shards.roll()] == [True, False, False]
    assert shards.labelled() == shards.names


def test_a_validation_that_only_warns_holds_the_others_back(shards: Shards) -> None:
    shards.shops.add(ROLL)
    run_sql(shards.urls["c-first"], "INSERT INTO orders VALUES (2, 0)")
    with pytest.raises(Blocked, match=r'1 validations .* failed in "c-first"') as caught:
        shards.roll()
    assert caught.value.details[0] == 'step "all-there": found 2, expected 1'
    assert shards.labelled() == ["c-first"]


def test_nobody_follows_while_the_target_before_is_not_calm(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.services.following.PATIENCE", 0.5)
    shards.shops.add(ROLL)
    with shards.shops.store.session() as session:
        row = environments.get(session, "c-first")
        tuning.tune_environment(session, row, {"lock_waiters": 0}, actor="tester")
    url = shards.urls["c-first"]
    run_sql(url, "CREATE TABLE other (id int)")
    with psycopg.connect(url) as holder:
        holder.execute("LOCK TABLE public.other")
        waiting = Background(lambda: run_sql(url, "SELECT count(*) FROM other"))
        until(lambda: value(url, "SELECT count(*) FROM pg_locks WHERE NOT granted"))
        with pytest.raises(MustWait, match='"c-first" is not calm'):
            shards.roll()
        assert shards.labelled() == ["c-first"]
    waiting.result()
    shards.roll()
    assert shards.labelled() == shards.names


def test_shards_handed_over_follow_each_other(shards: Shards) -> None:
    shops = shards.shops
    shops.add(ROLL)
    ids = [
        one.execution
        for one in rollouts.hand_over(shops.store, shops.settings, shops.parts, "roll", shards.names, Options())
    ]
    with pytest.raises(MustWait, match="waits until execution"):
        shops.drive(ids[1])
    assert shards.labelled() == []
    for number, identity in enumerate(ids):
        shops.drive(identity)
        assert shards.labelled() == shards.names[: number + 1]


def test_handed_over_nobody_follows_what_failed_its_validation(shards: Shards) -> None:
    shops = shards.shops
    shops.add(ROLL)
    run_sql(shards.urls["c-first"], "INSERT INTO orders VALUES (2, 0)")
    ids = [
        one.execution
        for one in rollouts.hand_over(shops.store, shops.settings, shops.parts, "roll", shards.names, Options())
    ]
    shops.drive(ids[0])
    with pytest.raises(Blocked, match="no other environment follows"):
        shops.drive(ids[1])
    assert shops.status(ids[1])["status"] == "failed"
    with pytest.raises(Blocked, match="is failed"):
        shops.drive(ids[2])


def test_several_targets_are_for_a_plan_that_asks_for_them(shards: Shards) -> None:
    both = ("--env", "c-first", "--env", "a-second")
    refused = shards.segue("run", shards.write(ROLL.replace("rolling", "online")), *both).expect(64)
    assert "for one environment at a time" in refused.stderr
    assert "--promote" in refused.stderr
    assert shards.labelled() == []


@pytest.mark.parametrize("second", ["c-first", "same"])
def test_no_target_is_taken_twice(shards: Shards, second: str) -> None:
    shops = shards.shops
    shops.open("same", shards.urls["c-first"])
    for name in ("c-first", "same"):
        checks.check(shops.store, shops.settings, shops.parts, name)
    shops.add(ROLL)
    shards.names = ["c-first", second]
    with pytest.raises(UsageError, match=r"named twice|the same database"):
        shards.roll()
    assert shards.labelled() == []


def test_a_promotion_names_its_environments_itself(shards: Shards) -> None:
    shards.segue("run", shards.write(), "--promote", "--env", "c-first").expect(64)
    assert "promotion order" in shards.segue("run", "roll", "--promote").expect(64).stderr


def test_a_promotion_walks_to_production_and_waits_there_for_an_approval(shards: Shards) -> None:
    shops = shards.shops
    for place, (name, kind) in enumerate({"c-first": "staging", "a-second": "production"}.items()):
        with shops.store.session() as session:
            row = environments.get(session, name)
            row.type, row.promotion_order = kind, place
    plan = shards.write(ROLL.replace("strategy: rolling\n", ""))
    waiting = shards.segue("run", plan, "--promote").expect(3)
    assert "segue approve roll --env a-second" in waiting.stderr
    assert "c-first: completed" in waiting.stderr
    assert shards.labelled() == ["c-first"]
    approve = ("approve", "roll", "--env", "a-second", "--reason", "staging is fine")
    shards.segue(*approve, env={"SEGUE_USER": "somebody"}).expect(0)
    done = shards.segue("run", "roll", "--promote", "--json").expect(0).json
    assert [(item["environment"], item["nothing_to_do"]) for item in done["executions"]] == [
        ("c-first", True),
        ("a-second", False),
    ]
    assert shards.labelled() == ["c-first", "a-second"]


# -- maintenance windows


def test_status_says_since_when_and_until_when_the_application_is_out(shop: Shop) -> None:
    process = shop.start(shop.plan(LATCH))
    said = until(lambda: "kept out since" in (text := shop.segue("status").expect(0).stdout) and text)
    assert "until" in said
    shop.release()
    code, said = ended(process)
    assert code == 0, said
    assert "kept out (writes to 1 table are refused)" in said
    assert "let in again" in said
    assert not shop.shut()
    assert "kept out since" not in shop.segue("status").expect(0).stdout


@pytest.mark.parametrize("how", ["signal", "pause"])
def test_whoever_stops_a_window_gets_everything_undone(shop: Shop, how: str) -> None:
    process = shop.start(shop.plan(LATCH))
    until(lambda: shop.type() == "bigint")
    if how == "signal":
        process.send_signal(signal.SIGINT)
    else:
        assert "will be undone" in shop.segue(how).expect(0).stderr
    code, said = ended(process)
    assert code == 4, said
    assert shop.type() == "integer"
    assert not shop.shut()
    assert shop.shops.status()["status"] == "rolled-back"


def test_a_worker_that_is_stopped_ends_its_window_first(shop: Shop) -> None:
    drain = threading.Event()
    execution = shop.shops.hand_over(shop.shops.add(shop.plan(LATCH).read_text()))
    work = Background(lambda: shop.shops.drive(execution, drain))
    until(lambda: shop.type() == "bigint")
    drain.set()
    time.sleep(1)
    assert shop.shut()
    shop.release()
    work.result()
    assert not shop.shut()
    assert shop.shops.status(execution)["status"] == "completed"


def test_a_window_whose_approval_is_taken_back_is_undone(shop: Shop) -> None:
    shops = shop.shops
    with shops.store.session() as session:
        environments.get(session, "shop").type = "production"
    plan = shops.add(shop.plan(LATCH).read_text())
    boss = replace(shops.settings, user="boss")
    seen = shops.seen(plan)
    approvals.grant(shops.store, boss, shops.parts, approvals.Wanted(plan, "shop", reason="go", seen=seen))
    work = Background(lambda: shops.run(plan))
    until(lambda: shop.type() == "bigint")
    approvals.revoke(shops.store, boss, plan, "shop", None, "stop")
    with pytest.raises(SafelyUndone):
        work.result()
    assert shop.type() == "integer"
    assert not shop.shut()


def test_a_script_of_the_users_passes_the_fence(shop: Shop) -> None:
    script = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'], autocommit=True).execute(WHAT)"
    words = {"command": [sys.executable, "-c", script.replace("WHAT", UPDATE)], "reverse": {"command": ["true"]}}
    text = json.dumps({"name": "fill", "kind": "script", "type": "data-migration", **words})
    shop.shops.run(shop.shops.add(shop.plan(f"  - {text}\n").read_text()))
    assert value(shop.url, "SELECT n FROM orders") == 3


def test_a_step_that_needs_an_approval_keeps_nobody_out(shop: Shop) -> None:
    shop.shops.add(shop.plan(LATCH.replace("kind", "approval: true, kind")).read_text())
    with pytest.raises(MustWait, match="before the application is kept out"):
        shop.shops.run("short-break")
    assert shop.type() == "integer"
    assert shop.shops.ledger("fence-closed") == []
    assert shop.shops.status()["waiting_for"]["kind"] == "approval"


COMMAND = """#!/bin/sh
echo "$1 $SEGUE_ENVIRONMENT $SEGUE_PLAN ${SEGUE_STORE:-nothing}" >> CALLS
test ! -e "REFUSE-$1" || { echo "the proxy does not answer"; exit 7; }
"""


class Door:
    """A command of the user's that keeps the application out, and lets it in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls"
        self.path = folder / "door.sh"
        self.path.write_text(COMMAND.replace("CALLS", str(self.calls)).replace("REFUSE", str(folder / "refuse")))
        self.path.chmod(0o755)
        self.fence = f"fence: {{close: [{self.path}, shut], open: [{self.path}, open], timeout: 5s}}\n"

    def refuse(self, word: str, refused: bool = True) -> None:
        file = self.folder / f"refuse-{word}"
        file.touch() if refused else file.unlink()

    def called(self) -> list[str]:
        return [line.split()[0] for line in self.calls.read_text().splitlines()]


def test_a_command_of_the_users_keeps_the_application_out(shop: Shop, tmp_path: Path) -> None:
    door = Door(tmp_path)
    shop.run(shop.plan(fence=door.fence)).expect(0)
    assert door.calls.read_text().splitlines() == ["shut shop short-break nothing", "open shop short-break nothing"]
    assert shop.type() == "bigint"
    assert value(shop.url, "SELECT count(*) FROM pg_trigger WHERE tgname = 'segue_fence'") == 0


def test_a_command_that_does_not_close_leaves_nobody_out(shop: Shop, tmp_path: Path) -> None:
    door = Door(tmp_path)
    door.refuse("shut")
    plan = shop.shops.add(shop.plan(fence=door.fence).read_text())
    with pytest.raises(StepFailed) as caught:
        shop.shops.run(plan)
    assert caught.value.details == ["the proxy does not answer"]
    assert door.called() == ["shut", "open"]
    assert shop.type() == "integer"
    door.refuse("shut", False)
    shop.shops.run(plan)
    assert shop.type() == "bigint"


def test_a_command_that_does_not_open_is_called_again(shop: Shop, tmp_path: Path) -> None:
    door = Door(tmp_path)
    door.refuse("open")
    plan = shop.shops.add(shop.plan(fence=door.fence).read_text())
    with pytest.raises(StepFailed) as caught:
        shop.shops.run(plan)
    assert "still kept out" in caught.value.details[0]
    assert door.called() == ["shut", "open", "open", "open"]
    assert shop.type() == "bigint", "what is done stays done: it is only the way in that is missing"
    assert shop.shops.status()["fenced_at"] is not None
    door.refuse("open", False)
    shop.shops.run(plan)
    assert door.called()[-1] == "open"
    assert door.called().count("shut") == 1
    assert shop.shops.status()["status"] == "completed"


@pytest.mark.slow
def test_whoever_dies_in_a_window_is_followed_by_a_worker(shop: Shop) -> None:
    """Handed over or not: an application that is kept out is every worker's business."""
    process = shop.start(shop.plan(LATCH))
    until(lambda: shop.type() == "bigint")
    process.kill()
    process.wait()
    assert shop.shut()
    worker = shop.segue.start("worker")
    until(lambda: "fence-found" in shop.shops.said(), 60)
    assert shop.shut()
    shop.release()
    until(lambda: shop.shops.status()["status"] == "completed", 60)
    assert not shop.shut()
    worker.terminate()
    assert ended(worker)[0] == 0
    assert shop.type() == "bigint"
