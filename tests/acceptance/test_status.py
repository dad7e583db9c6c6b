"""`segue status`, its live view, and `segue logs --follow`, as processes beside a run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from fix_process import Segue
from fix_shops import Shops
from psycopg import conninfo, sql

from segue.cli import _watch
from segue.model.vocabulary import WorkQueue
from segue.services import watching
from segue.store.tables.executions import LogRow
from segue.store.tables.workers import WorkerRow

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
    batch: {size: 50, max: 50}
    pause: 100ms
"""
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def shop(shops: Shops, debian_database: str) -> Shops:
    """Give a store whose environment "shop" has a few thousand customers."""
    with psycopg.connect(debian_database) as connection:
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY)")
        connection.execute("INSERT INTO customers SELECT generate_series(1, 4000)")
    with psycopg.connect(debian_database, autocommit=True) as connection:
        connection.execute("ANALYZE customers")
    shops.open("shop", debian_database)
    return shops


@pytest.fixture
def running(segue: Segue, shop: Shops) -> subprocess.Popen[str]:
    """Give a run that goes on for about ten seconds, in the middle of its backfill."""
    path = segue.folder / "plan.yaml"
    path.write_text(PLAN)
    process = segue.start("run", path, "--env", "shop")
    until(lambda: described(shop).get("current_step") == "fill")
    return process


def described(shop: Shops) -> dict[str, Any]:
    with contextlib.suppress(Exception):
        return shop.status()
    return {}


def until(condition: Callable[[], Any], seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


class Terminal:
    """A command on a terminal of a size; `text` is all that it has drawn."""

    def __init__(self, segue: Segue, *arguments: str, columns: int, env: dict[str, str | None] | None = None) -> None:
        mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
        environ = segue.environ({"TERM": "xterm-256color", "LANG": "C.UTF-8", **(env or {})})
        self.process = subprocess.Popen(
            segue.command(*arguments),
            env=environ,
            cwd=segue.folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._mine = mine
        self.text = ""

    def read(self, seconds: float = 0.1) -> str:
        ready, _, _ = select.select([self._mine], [], [], seconds)
        if ready:
            with contextlib.suppress(OSError):  # the other side is closed
                self.text += os.read(self._mine, 65536).decode(errors="replace")
        return self.text

    def ended(self) -> int:
        def over() -> bool:
            self.read()
            return self.process.poll() is not None

        until(over)
        self.read()
        os.close(self._mine)
        return int(self.process.returncode)


@pytest.fixture
def terminal(segue: Segue) -> Iterator[Callable[..., Terminal]]:
    """Give a function that runs a command on a terminal."""
    opened: list[Terminal] = []

    def run(*arguments: str, **more: Any) -> Terminal:
        opened.append(Terminal(segue, *arguments, **more))
        return opened[-1]

    yield run
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_the_screen_draws_refreshes_and_ends_with_the_run(
    running: subprocess.Popen[str], terminal: Callable[..., Terminal]
) -> None:
    narrow = terminal("status", "--watch", columns=60, env={"NO_COLOR": "1"})
    left = terminal("status", "--watch", columns=140)
    until(lambda: "of about 4,000 rows" in left.read())
    left.process.send_signal(signal.SIGINT)
    assert left.ended() == 130
    assert LEAVE in left.text
    assert "left; the execution was not touched" in left.text
    until(lambda: narrow.read().count("add-note in shop") > 5)
    assert running.poll() is None
    assert narrow.ended() == 0
    assert running.wait(30) == 0
    drawn, after = narrow.text.split(LEAVE)
    assert drawn.count(ENTER) == 1
    shares = re.findall(r" (\d+) %", drawn)
    assert len(set(shares)) > 2
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", drawn)
    assert "status       completed" in after


def test_a_pipe_gets_a_line_for_each_change_and_json_an_object(segue: Segue, running: subprocess.Popen[str]) -> None:
    lines, objects = segue.start("status", "--watch"), segue.start("status", "--watch", "--json")
    said, _ = lines.communicate(timeout=60)
    streamed, _ = objects.communicate(timeout=60)
    assert (lines.returncode, objects.returncode, running.wait(30)) == (0, 0, 0)
    words = [line.partition("Z  ")[2] for line in said.splitlines()]
    assert words[0].startswith("add-note in shop, execution ")
    assert any(re.match(r"fill: .*\d+ %, [\d,]+ of about 4,000 rows", line) for line in words)
    assert words[-1].startswith("completed after ")
    assert len(words) == len(set(words))
    found = [json.loads(line) for line in streamed.splitlines()]
    assert all(one["segue"] == 1 for one in found)
    assert [found[0]["status"], found[-1]["status"]] == ["running", "completed"]
    steps = [{step["name"]: step for step in one["steps"]}["fill"]["job"] for one in found]
    assert len({job["processed_rows"] for job in steps}) > 3
    assert steps[-1]["batches_done"] == steps[-1]["batches_total"] > 1
    log = [line["id"] for one in found for line in one["log"]]
    assert log == sorted(set(log))


def watched(segue: Segue, *more: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Watch an execution as JSON; return the process and the first object."""
    process = segue.start("status", "--watch", "--json", *more)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def end(store_url: str, status: str) -> None:
    """Let the only execution come to an end, past its lifecycle."""
    with psycopg.connect(store_url) as connection:
        connection.execute("UPDATE segue_store.migration_executions SET status = %s", [status])


def test_the_view_outlasts_a_store_that_is_away(
    segue: Segue, shop: Shops, store_url: str, executed: Callable[..., str]
) -> None:
    executed("paused", started_at="2026-11-29 02:00:00Z")
    process, first = watched(segue)
    assert first["status"] == "paused"
    assert process.stderr is not None
    with away(store_url):
        assert "looking again" in process.stderr.readline()
    end(store_url, "failed")
    out, _ = process.communicate(timeout=30)
    assert json.loads(out.splitlines()[-1])["status"] == "failed"
    assert process.returncode == 2


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("rolled-back", 0), ("failed", 2), ("cancelled", 3)])
def test_the_view_of_what_has_ended_ends_with_its_code(
    shop: Shops, executed: Callable[..., str], capsys: pytest.CaptureFixture[str], status: str, code: int
) -> None:
    executed(status, started_at="2026-11-29 02:00:00Z")
    assert _watch.stay(shop.store, None) == code
    assert status in capsys.readouterr().out


@contextlib.contextmanager
def away(url: str) -> Iterator[None]:
    """Let nobody into a database, and nobody stay there."""
    name = conninfo.conninfo_to_dict(url)["dbname"]
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(conninfo.make_conninfo(url, dbname="postgres"), autocommit=True) as connection:
        connection.execute(allow.format(sql.Identifier(str(name)), sql.SQL("false")))
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            connection.execute(allow.format(sql.Identifier(str(name)), sql.SQL("true")))


WAITING = json.dumps(
    {"kind": "approval", "message": 'step "add" needs an approval', "hint": "`segue approve add-names`", "step": "add"}
)


def test_status_says_what_an_execution_waits_for_and_what_to_do(
    segue: Segue, shop: Shops, executed: Callable[..., str]
) -> None:
    executed(
        "waiting",
        waiting_for=WAITING,
        handed_over=True,
        fenced_at="2026-11-29 02:00Z",
        fenced_until="2026-11-29 02:05Z",
    )
    shown = segue("status").expect(0).stdout
    for words in (
        'because      step "add" needs an approval',
        "driven by    nobody now; handed over to the workers",
        "application  kept out since 2026-11-29 02:00:00Z, until 2026-11-29 02:05:00Z",
        "next: `segue approve add-names`",
    ):
        assert words in shown
    listed = segue("status", "--all").expect(0)
    assert 'step "add" needs an approval' in listed.stdout
    assert "no worker runs" in listed.stderr


def test_status_says_which_workers_drive_and_help(
    segue: Segue, shop: Shops, store_url: str, executed: Callable[..., str]
) -> None:
    execution = executed("running", handed_over=True, lease_owner="ada@far pid 7", started_at="2026-11-29 02:00Z")
    entry = {
        "execution": execution,
        "plan": "add-names",
        "environment": "shop",
        "step": None,
        "queue": WorkQueue.EXECUTIONS,
    }
    slot = {**entry, "queue": WorkQueue.SLOTS, "step": "fill"}
    with shop.store.session() as session:
        common = {"host": "far", "version": "1", "queues": ["executions", "slots"]}
        session.add(WorkerRow(name="one", pid=7, doing=[entry], **common))
        session.add(WorkerRow(name="two", pid=8, doing=[slot, slot], **common))
    with psycopg.connect(store_url) as connection:
        connection.execute("UPDATE segue_store.migration_executions SET heartbeat_at = clock_timestamp()")
    shown = shop.status()
    assert (shown["driven_by"], shown["worker"]) == ("ada@far pid 7", "one")
    assert shown["helpers"] == [{"worker": "two", "host": "far", "step": "fill", "slots": 2}]
    listed = segue("status", "--all").expect(0).stdout
    assert "add-names/shop/fill (2 times)" in listed
    assert re.search(r"running +0/1 .* one\n", listed)


def test_logs_follow_stays_with_an_execution_that_waits_for_workers(
    segue: Segue, shop: Shops, store_url: str, executed: Callable[..., str]
) -> None:
    execution = executed("waiting", waiting_for=WAITING, handed_over=True)

    def say(words: str) -> None:
        with shop.store.session() as session:
            session.add(LogRow(execution_id=execution, action="note", message=words))

    say("the first")
    process = segue.start("logs", "--follow")
    assert process.stdout is not None
    assert "the first" in process.stdout.readline()
    with away(store_url):
        assert process.stderr is not None
        assert "looking again" in process.stderr.readline()
    say("the second")
    assert "the second" in process.stdout.readline()
    end(store_url, "completed")
    assert process.wait(30) == 0
    with shop.store.session() as session:
        assert not watching.goes_on(watching.find(session, execution))


def test_watch_and_all_are_not_for_the_same_command(segue: Segue) -> None:
    assert "leave out --all" in segue("status", "--all", "--watch").expect(64).stderr
