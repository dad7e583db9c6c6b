"""Steps that run programs or wait, through the command line: killed, stopped, resolved by a person."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import rows, run_sql, until, value
from psycopg import conninfo

from segue.engine.control import MustWait
from segue.services import plans

HEAD = "plan: count\nversion: 1.0.0\ndescription: Count up\nsteps:\n"

FUNCTION = """
import time

def up(connection):
    connection.execute("update counter set n = n + 1")
    if connection.execute("select slow from counter").fetchone()[0]:
        print("it takes its time", flush=True)
        connection.execute("select pg_sleep(600)")

def down(connection):
    connection.execute("update counter set n = n - 1")
"""

PYTHON = HEAD + (
    "  - name: up\n    kind: script\n    type: data-migration\n    python: count.py:up\n"
    "    reverse:\n      python: count.py:down\n"
)

COMMAND = HEAD + (
    "  - name: up\n    kind: script\n    type: data-migration\n    command: [./count]\n    env: {WORD: x}\n"
    "    reverse: {command: ['true']}\n"
)

PROGRAM = f"""#!{sys.executable}
import os, sys, time
import psycopg
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    connection.execute("update counter set n = n + 1")
    print(os.getpid(), os.environ["DATABASE_URL"], os.environ.get("PGPASSWORD"), flush=True)
    if connection.execute("select slow from counter").fetchone()[0]:
        connection.execute("select pg_sleep(600)")
"""

SCRIPTS = "from pg_stat_activity where datname = current_database() and application_name like 'segue:%:%:%'"
RUNNING = f"select exists (select {SCRIPTS} and state = 'active' and query like '%pg_sleep%')"


class Desk:
    """A folder with plans, and a database with a counter that is the environment `shop`."""

    def __init__(self, segue: Segue, shops: Shops, url: str) -> None:
        self.segue, self.url = segue, url
        shops.open("shop", url)
        run_sql(
            url, "create table counter (n int not null, slow bool not null)", "insert into counter values (0, true)"
        )

    def write(self, name: str, text: str) -> Path:
        path = self.segue.folder / name
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)
        return path

    def count(self) -> int:
        return int(value(self.url, "select n from counter"))

    def hurry(self) -> None:
        run_sql(self.url, "update counter set slow = false")

    def children(self, process: subprocess.Popen[str]) -> list[int]:
        """Return every process that comes from this one."""
        table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        parents = {int(pid): int(parent) for pid, parent in (line.split() for line in table.splitlines())}
        found = {process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found - {process.pid})


@pytest.fixture
def desk(segue: Segue, shops: Shops, debian_database: str) -> Desk:
    return Desk(segue, shops, debian_database)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] in ("Z", "X")
    except OSError:
        return True


def test_function_of_a_killed_run_goes_with_it_and_is_done_once(desk: Desk, shops: Shops) -> None:
    desk.write("count.py", FUNCTION)
    plan = desk.write("plan.yaml", PYTHON)
    process = desk.segue.start("run", plan, "--env", "shop")
    until(lambda: value(desk.url, RUNNING))
    children = desk.children(process)
    assert len(children) == 2  # the launcher and the function's own process
    process.kill()
    process.wait()
    until(lambda: all(map(gone, children)))
    until(lambda: value(desk.url, f"select count(*) = 0 {SCRIPTS}"))
    assert desk.count() == 0
    desk.hurry()
    desk.segue("run", plan, "--env", "shop").expect(0)
    assert shops.run("count").nothing_to_do
    assert desk.count() == 1
    shops.rollback()
    assert desk.count() == 0


@pytest.mark.parametrize(("word", "count"), [("done", 1), pytest.param("not-done", 2, marks=pytest.mark.slow)])
def test_command_of_a_killed_run_is_left_to_a_persons_word(desk: Desk, word: str, count: int) -> None:
    program = desk.write("count", PROGRAM)
    plan = desk.write("plan.yaml", COMMAND)
    process = desk.segue.start("run", plan, "--env", "shop")
    until(lambda: value(desk.url, RUNNING))
    process.kill()
    process.wait()
    desk.hurry()
    program.unlink()  # what runs is what was read with the plan
    asked = desk.segue("run", "count", "--env", "shop").expect(5)
    assert 'whether the script of step "up" has done its work cannot be told' in asked.stderr
    assert "--resolve done" in asked.stderr
    assert value(desk.url, f"select count(*) {SCRIPTS}") == 0
    desk.segue("run", "count", "--env", "shop").expect(5)
    desk.segue("run", "count", "--env", "shop", "--resolve", word).expect(0)
    assert desk.count() == count


def test_ctrl_c_ends_a_script_at_once(desk: Desk) -> None:
    desk.write("count.py", FUNCTION)
    process = desk.segue.start("run", desk.write("plan.yaml", PYTHON), "--env", "shop")
    until(lambda: value(desk.url, RUNNING))
    children = desk.children(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "it takes its time" in err
    assert all(map(gone, children))
    assert desk.count() == 0


def test_password_is_nowhere_to_be_read(desk: Desk) -> None:
    password = conninfo.conninfo_to_dict(desk.url)["password"]
    assert password
    desk.hurry()
    desk.write("count", PROGRAM)
    ran = desk.segue("run", desk.write("plan.yaml", COMMAND), "--env", "shop").expect(0)
    logged = desk.segue("logs", "--json").expect(0)
    status = desk.segue("status", "--json").expect(0)
    for said in (ran.stderr, logged.stdout, status.stdout):
        assert ":***@" in said
    for said in (ran.stderr, ran.stdout, logged.stdout, status.stdout):
        assert password not in said
    detail = status.json["steps"][0]["detail"]
    assert (detail["exit_code"], detail["output_lines"]) == (0, 1)


def test_stored_step_has_the_text_of_its_script(segue: Segue, store_url: str) -> None:
    (segue.folder / "count.py").write_text(FUNCTION)
    (segue.folder / "plan.yaml").write_text(PYTHON)
    segue("plan", "add", "plan.yaml").expect(0)
    columns = "step_type, custom_script, prisma_script, rollback_command, can_rollback"
    (stored,) = rows(store_url, f"select {columns} from segue_store.migration_steps")
    custom = "# python count.py:up\n" + FUNCTION
    assert stored == ("data-migration", custom, None, "python count.py:down", True)
    shown = segue("plan", "show", "count", "--yaml").expect(0).stdout
    (segue.folder / "count.py").unlink()
    again = segue("plan", "validate", "-", text=shown).expect(0)
    assert "cannot be analysed (script)" in again.stdout + again.stderr


WRONG = """\
plan: wrong
version: 1.0.0
description: What cannot be run
steps:
  - name: two-forms
    kind: script
    type: validation
    python: there.py:up
    command: ['true']
  - name: missing-file
    kind: script
    type: validation
    python: missing.py:up
  - name: not-executable
    kind: script
    type: validation
    command: [./there.py]
  - name: missing-function
    kind: script
    type: validation
    python: there.py:upp
  - name: wrong-reverse
    kind: script
    type: validation
    command: ['true']
    reverse:
      prisma: there.py
"""


def test_scripts_that_cannot_run_are_named_with_their_places(segue: Segue) -> None:
    (segue.folder / "there.py").write_text("#!/usr/bin/env python3\ndef up(connection): ...\n")
    (segue.folder / "wrong.yaml").write_text(WRONG)
    outcome = segue("plan", "validate", "wrong.yaml").expect(2)
    for said in (
        'wrong.yaml:5:5: step "two-forms": a script is exactly one of python, command, prisma',
        'wrong.yaml:13:13: step "missing-file": `python`: there is no file "missing.py"',
        'wrong.yaml:17:14: step "not-executable": `command`: "there.py" is not executable',
        'wrong.yaml:21:13: step "missing-function": `python`: "there.py" has no function "upp"',
        'wrong.yaml:27:15: step "wrong-reverse": "reverse.prisma": "there.py" is no script for Node',
    ):
        assert said in outcome.stderr


def test_wait_holds_nothing_until_its_condition_holds(desk: Desk, shops: Shops) -> None:
    condition = "{query: SELECT slow FROM counter, scalar: false}"
    ready = f"  - name: ready\n    kind: wait\n    every: 1h\n    condition: {condition}\n"
    shops.add(HEAD + ready + "  - name: soon\n    kind: wait\n    needs: [ready]\n    for: 200ms\n")
    with pytest.raises(MustWait, match='step "ready" waits for its condition: found true, expected false'):
        shops.run("count")
    assert shops.status()["status"] == "waiting"
    assert value(desk.url, "select count(*) from pg_stat_activity where application_name like 'segue%'") == 0
    desk.hurry()
    shops.run("count")
    assert [step["status"] for step in shops.status()["steps"]] == ["completed", "completed"]


MEETING = """
import os, pathlib, time

def up(connection):
    folder = pathlib.Path(os.environ["MEETING"])
    (folder / os.environ["SEGUE_STEP"]).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.02)
    connection.execute("update counter set n = n + 1")
"""


def test_scripts_that_do_not_need_each_other_run_side_by_side(desk: Desk, shops: Shops, tmp_path: Path) -> None:
    desk.write("count.py", MEETING)
    step = "  - {name: NAME, kind: script, type: validation, python: count.py:up, env: {MEETING: FOLDER}}\n"
    text = HEAD + step.replace("NAME", "one") + step.replace("NAME", "two")
    plan = desk.write("plan.yaml", text.replace("FOLDER", str(tmp_path)))
    checked = plans.check(plan.read_text(), str(plan), shops.parts)
    with shops.store.session() as session:
        plans.add(session, shops.settings, checked)
    shops.run("count")
    assert desk.count() == 2


# -- Node


@pytest.fixture(scope="session")
def project() -> Iterator[Path]:
    """Give a folder in which `npm install pg` was run."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        # In CI missing Node would turn these tests off without anybody's notice.
        outcome = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        outcome("needs Node and npm: apt-get install nodejs npm")
    folder = Path(tempfile.mkdtemp(prefix="segue-node-"))
    try:
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "pg@8"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


NODE = """
import pg from 'pg'
const client = new pg.Client({ connectionString: process.env.DATABASE_URL })
await client.connect()
const { rows } = await client.query(
  "update counter set n = n + 41 returning n, current_setting('application_name') as name")
console.log(JSON.stringify(rows[0]))
await client.end()
"""

NODE_BACK = """
const { Client } = require('pg')
const client = new Client()
client.connect()
  .then(() => client.query('update counter set n = 0'))
  .then(() => client.end())
"""

PRISMA = HEAD + (
    "  - name: up\n    kind: script\n    type: data-migration\n    prisma: lib/count.js\n    cwd: PROJECT\n"
    "    reverse: {prisma: lib/back.cjs, cwd: PROJECT}\n"
)


def test_script_for_node_reaches_the_target_with_the_projects_modules(
    desk: Desk, shops: Shops, project: Path, store_url: str
) -> None:
    desk.hurry()
    (desk.segue.folder / "lib").mkdir()
    (desk.segue.folder / "package.json").write_text('{"type": "module"}')
    desk.write("lib/count.js", NODE)
    desk.write("lib/back.cjs", NODE_BACK)
    plan = desk.write("plan.yaml", PRISMA.replace("PROJECT", str(project)))
    desk.segue("run", plan, "--env", "shop").expect(0)
    assert desk.count() == 41
    output = shops.status()["steps"][0]["detail"]["output"]
    assert json.loads(output[0])["name"].startswith("segue:")
    assert value(store_url, "select prisma_script from segue_store.migration_steps") == NODE
    shops.rollback()
    assert desk.count() == 0


# -- drivers that are stopped


@pytest.mark.slow
def test_script_of_a_stopped_run_ends_before_another_may_take_over(desk: Desk) -> None:
    desk.write("count", PROGRAM)
    process = desk.segue.start("run", desk.write("plan.yaml", COMMAND), "--env", "shop")
    until(lambda: value(desk.url, RUNNING))
    children = desk.children(process)
    process.send_signal(signal.SIGSTOP)
    try:
        # Well before the ten seconds after which another process may take the lease.
        until(lambda: all(map(gone, children[1:])), 20)
        silent = "select extract(epoch from clock_timestamp() - at) from segue.lease where role = 'heartbeat'"
        assert value(desk.url, silent) < 12
    finally:
        process.kill()
        process.wait()
