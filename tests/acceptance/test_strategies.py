"""Strategies of a plan take effect: the application is kept out for a while, targets come one after the other."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import run_sql, until, value

from segue.engine.control import MustWait
from segue.errors import StepFailed

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
