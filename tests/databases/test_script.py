"""Scripts on a real target: a function's work is done or not done, and of a command it is known what is known."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fix_targets import Background, Open, Run, rows, run_sql, session, until, value

from segue.databases.postgresql import DATABASE
from segue.databases.postgresql.target import PostgresTarget
from segue.engine.control import PauseRequested
from segue.errors import CannotTell, Interrupted, LockNotGranted, SegueError, StepFailed
from segue.ports import BACKWARD, Observed
from segue.steps.script import STEP as SCRIPT
from segue.steps.script import ScriptParams

COUNT_UP = """
def up(connection):
    connection.execute("update counter set n = n + 1")
    print("counted up")

def down(connection):
    connection.execute("update counter set n = n - 1")
"""

ALIVE = "select count(*) from pg_stat_activity where application_name like 'segue:%:%:%' and pid <> pg_backend_pid()"


@pytest.fixture
def counter(database: str) -> str:
    """Give a database with a counter that nothing may count up twice."""
    run_sql(database, "create table counter (n int not null)", "insert into counter values (0)")
    return database


class Scripts:
    """Runs scripts as steps of one execution on one target."""

    def __init__(self, folder: Path, url: str, open_target: Open) -> None:
        self.folder = folder
        self.url = url
        self._open = open_target
        self.target: PostgresTarget = open_target(url, "execution")

    def take_over(self) -> None:
        """Hold the target anew, as another process would that goes on with the execution."""
        self.target.close()
        self.target = self._open(self.url, "execution")

    def step(self, *, direction: str = "forward", work: float = 60, **fields: Any) -> Run:
        params = ScriptParams.model_validate({"name": "step", "type": "data-migration", **fields})
        assert SCRIPT.problems(params, DATABASE) == []
        return Run(self.target, SCRIPT.prepare(params, self.folder), direction=direction, work=work)

    def python(self, text: str, function: str = "up", **fields: Any) -> Run:
        """Return a step that calls a function of this text."""
        (self.folder / "script.py").write_text(text)
        fields = {"python": f"script.py:{function}", "irreversible": "a test", **fields}
        return self.step(**fields)

    def command(self, text: str, **fields: Any) -> Run:
        """Return a step that runs this text as a Python program of its own."""
        program = self.folder / "program"
        program.write_text(f"#!{sys.executable}\nimport os, sys, time, psycopg\n{text}")
        program.chmod(0o755)
        fields = {"command": ["./program"], "irreversible": "a test", **fields}
        return self.step(**fields)

    def count(self) -> int:
        return int(value(self.url, "select n from counter"))

    def history(self) -> list[tuple[Any, ...]]:
        return rows(self.url, "select direction, state from segue.history order by id")


@pytest.fixture
def scripts(tmp_path: Path, counter: str, open_target: Open) -> Scripts:
    return Scripts(tmp_path, counter, open_target)


def failing(run: Run, kind: type[SegueError] = StepFailed) -> SegueError:
    with pytest.raises(kind) as caught:
        SCRIPT.run(run)
    return caught.value


# -- functions


def test_function_is_called_once_and_its_output_is_kept(scripts: Scripts) -> None:
    run = scripts.python(COUNT_UP)
    SCRIPT.run(run)
    SCRIPT.run(run)
    assert (scripts.count(), scripts.history()) == (1, [("forward", "done")])
    assert run.notes == ["counted up"]
    assert run.kept == {"exit_code": 0, "output": ["counted up"], "output_lines": 1}
    assert SCRIPT.observe(run) is Observed.DONE


def test_function_is_taken_back_by_its_reverse(scripts: Scripts) -> None:
    fields: dict[str, Any] = {"irreversible": None, "reverse": {"python": "script.py:down"}}
    SCRIPT.run(scripts.python(COUNT_UP, **fields))
    back = scripts.python(COUNT_UP, direction=BACKWARD, **fields)
    SCRIPT.undo(back)
    SCRIPT.undo(back)
    assert (scripts.count(), scripts.history()) == (0, [("forward", "done"), ("backward", "done")])


def test_undo_of_a_function_that_took_no_effect_does_nothing(scripts: Scripts) -> None:
    fields: dict[str, Any] = {"irreversible": None, "reverse": {"python": "script.py:down"}}
    failing(scripts.python(COUNT_UP.replace('print("counted up")', "raise KeyError(5)"), **fields))
    SCRIPT.undo(scripts.python(COUNT_UP, direction=BACKWARD, **fields))
    assert (scripts.count(), scripts.history()) == (0, [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise ValueError('no such thing')", "failed: up: ValueError: no such thing"),
        ("connection.execute('select 1/0')", "division by zero (22012)"),
        ("connection.commit()", "Explicit commit() forbidden"),
        ("sys.exit(0)", "failed: up: SystemExit: 0"),
        ("os._exit(3)", "ended with exit code 3"),
        ("os.kill(os.getpid(), 9)", "ended with exit code 137 (SIGKILL)"),
        ("try: connection.execute('nonsense')\n    except Exception: pass", "went on after a statement had failed"),
    ],
)
def test_function_that_fails_leaves_nothing(scripts: Scripts, line: str, said: str) -> None:
    text = f'import os, sys\ndef up(connection):\n    connection.execute("update counter set n = n + 1")\n    {line}\n'
    error = failing(scripts.python(text), SegueError)
    assert said in error.message
    assert (scripts.count(), scripts.history()) == (0, [])


def test_error_of_a_function_shows_the_users_line(scripts: Scripts) -> None:
    error = failing(scripts.python("def up(connection):\n    print('so far')\n    return 1 / 0\n"))
    assert "ZeroDivisionError" in error.message
    assert any("script.py" in line and "line 3" in line for line in error.details), error.details
    assert not any("calling.py" in line for line in error.details)
    assert error.details[0] == "so far"


def test_function_that_commits_past_segue_is_left_to_a_person(scripts: Scripts) -> None:
    text = COUNT_UP.replace("print", 'connection.execute("commit"); print')
    assert "ended its transaction itself" in failing(scripts.python(text)).message
    assert (scripts.count(), scripts.history()) == (1, [("forward", "begun")])
    failing(scripts.python(text), CannotTell)
    scripts.take_over()
    told = scripts.python(text)
    told.word = Observed.DONE
    SCRIPT.run(told)
    assert (scripts.count(), scripts.history()) == (1, [("forward", "done")])


def test_function_waits_for_locks_in_slices_and_names_who_holds_them(scripts: Scripts) -> None:
    with session(scripts.url, "update public.counter set n = n"):
        run = scripts.python(COUNT_UP)
        run.patience = type(run.patience)(locks=0.5, work=30)
        error = failing(run, LockNotGranted)
    assert any("holds" in line for line in error.details), error.details
    SCRIPT.run(run)
    assert scripts.count() == 1


def test_function_imports_what_stands_beside_it_and_finds_its_files(scripts: Scripts) -> None:
    (scripts.folder / "lib").mkdir()
    (scripts.folder / "lib" / "amount.py").write_text("AMOUNT = 40\n")
    (scripts.folder / "more.txt").write_text("2")
    text = (
        "import sys, os, pathlib\nsys.path.append(os.environ['SEGUE_FILES'] + '/lib')\nfrom amount import AMOUNT\n"
        "def up(connection):\n    more = int(pathlib.Path('more.txt').read_text())\n"
        "    connection.execute('update counter set n = %s', [AMOUNT + more])\n"
    )
    SCRIPT.run(scripts.python(text, files=["lib/amount.py", "more.txt"]))
    assert scripts.count() == 42


def test_function_without_a_transaction_may_do_what_cannot_be_in_one(scripts: Scripts) -> None:
    text = "def up(connection):\n    connection.execute('create index concurrently counter_n on counter (n)')\n"
    run = scripts.python(text, transaction=False)
    SCRIPT.run(run)
    SCRIPT.run(run)
    assert value(scripts.url, "select count(*) from pg_indexes where indexname = 'counter_n'") == 1
    assert scripts.history() == [("forward", "done")]


def test_function_is_ended_after_its_timeout_with_all_that_it_started(scripts: Scripts, tmp_path: Path) -> None:
    text = (
        "import subprocess\ndef up(connection):\n    connection.execute('update counter set n = n + 1')\n"
        # One that leaves the group, and does not care for SIGTERM.
        f"    child = subprocess.Popen(['sh', '-c', 'trap \"\" TERM; echo $$ > {tmp_path}/pid; sleep 600'],"
        " start_new_session=True)\n    connection.execute('select pg_sleep(600)')\n"
    )
    error = failing(scripts.python(text, work=3))
    assert "was ended after its timeout" in error.message
    pid = int((tmp_path / "pid").read_text())
    assert gone(pid)
    assert value(scripts.url, ALIVE) == 0
    assert (scripts.count(), scripts.history()) == (0, [])


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] == "Z"


# -- commands

CONNECTED = "connection = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True)\n"
INCREASE = CONNECTED + "connection.execute('update counter set n = n + 1')\n"


def test_command_runs_once_with_the_way_to_the_target(scripts: Scripts) -> None:
    text = (
        INCREASE
        + "row = connection.execute(\"select current_database(), current_setting('application_name'), "
        + "current_setting('search_path'), current_setting('statement_timeout')\").fetchone()\n"
        + "same = psycopg.connect('').info\n"
        + "print(*row, same.dbname == row[0], os.environ['EXTRA'], os.environ['SEGUE_DIRECTION'], sep='|')\n"
        + "print(sorted(name for name in os.environ if name.startswith('SEGUE_')), file=sys.stderr)\n"
    )
    run = scripts.command(text, env={"EXTRA": "one"})
    SCRIPT.run(run)
    SCRIPT.run(run)
    assert (scripts.count(), scripts.history()) == (1, [("forward", "done")])
    _, application, path, limit, *rest = run.notes[0].split("|")
    assert application.startswith(f"segue:execution:{scripts.target.fence}:")
    assert (path, limit, rest) == ('"public"', "0", ["True", "one", "forward"])
    assert run.notes[1] == str([f"SEGUE_{word}" for word in ("DIRECTION", "EXECUTION", "FILES", "PLAN", "STEP")])


def test_command_that_fails_is_left_to_a_person(scripts: Scripts) -> None:
    text = INCREASE + "print('then it broke')\nsys.exit(7)\n"
    error = failing(scripts.command(text))
    assert "ended with exit code 7" in error.message
    assert error.details == ["then it broke"]
    assert "--resolve" in error.hint
    assert scripts.history() == [("forward", "begun")]
    assert SCRIPT.observe(scripts.command(text)) is Observed.CANNOT_TELL
    failing(scripts.command(text), CannotTell)
    assert scripts.count() == 1


@pytest.mark.parametrize(("word", "count"), [(Observed.DONE, 1), (Observed.NOT_DONE, 2)])
def test_persons_word_decides_what_an_earlier_run_left(scripts: Scripts, word: Observed, count: int) -> None:
    failing(scripts.command(INCREASE + "sys.exit(1)\n"))
    again = scripts.command(INCREASE)
    again.word = word
    # It speaks of what was there before this run: not of what this run itself has just left.
    failing(again, CannotTell)
    scripts.take_over()
    again = scripts.command(INCREASE)
    again.word = word
    SCRIPT.run(again)
    assert (scripts.count(), scripts.history()) == (count, [("forward", "done")])


def test_command_that_may_be_repeated_is(scripts: Scripts) -> None:
    failing(scripts.command(INCREASE + "sys.exit(1)\n", idempotent=True))
    SCRIPT.run(scripts.command(INCREASE, idempotent=True))
    assert (scripts.count(), scripts.history()) == (2, [("forward", "done")])


DONE_WHEN = {"query": "select n > 0 from counter", "scalar": True}


def test_query_tells_whether_a_command_has_done_its_work(scripts: Scripts) -> None:
    failing(scripts.command("sys.exit(1)\n", done_when=DONE_WHEN))
    failing(scripts.command(INCREASE + "sys.exit(1)\n", done_when=DONE_WHEN))
    run = scripts.command(INCREASE, done_when=DONE_WHEN)
    SCRIPT.run(run)
    assert (scripts.count(), scripts.history()) == (1, [("forward", "done")])
    assert any("`done_when` holds" in note for note in run.notes)


def test_command_that_ends_well_without_its_work_fails(scripts: Scripts) -> None:
    assert "does not hold" in failing(scripts.command("pass\n", done_when=DONE_WHEN)).message
    assert scripts.history() == [("forward", "begun")]


def test_query_that_holds_before_the_command_was_begun_asks_a_person(scripts: Scripts) -> None:
    run_sql(scripts.url, "update counter set n = 5")
    assert "never begun" in failing(scripts.command(INCREASE, done_when=DONE_WHEN), CannotTell).message
    told = scripts.command(INCREASE, done_when=DONE_WHEN)
    told.word = Observed.DONE
    SCRIPT.run(told)
    assert (scripts.count(), scripts.history()) == (5, [("forward", "done")])


BACK = {"irreversible": None, "reverse": {"command": ["./back"]}}


@pytest.mark.parametrize(
    ("fields", "word", "expected"),
    [
        ({}, None, None),
        ({}, Observed.DONE, 100),
        ({}, Observed.NOT_DONE, 1),
        ({"idempotent": True}, None, 100),
        ({"done_when": DONE_WHEN}, None, 100),
        ({"done_when": {**DONE_WHEN, "scalar": False}, "idempotent": True}, None, 100),
    ],
)
def test_undo_of_a_command_that_stopped_half_way_knows_or_asks(
    scripts: Scripts, fields: dict[str, Any], word: Observed | None, expected: int | None
) -> None:
    back = scripts.folder / "back"
    back.write_text(
        f"#!{sys.executable}\nimport os, psycopg\n{CONNECTED}connection.execute('update counter set n=100')"
    )
    back.chmod(0o755)
    failing(scripts.command(INCREASE + "sys.exit(1)\n", **BACK, **fields))
    scripts.take_over()
    undo = scripts.command("", direction=BACKWARD, **BACK, **fields)
    undo.word = word
    if expected is None:
        with pytest.raises(CannotTell):
            SCRIPT.undo(undo)
    else:
        SCRIPT.undo(undo)
        assert scripts.count() == expected


def test_undo_of_a_command_whose_work_is_not_there_does_nothing(scripts: Scripts) -> None:
    failing(scripts.command("sys.exit(1)\n", **{**BACK, "reverse": {"command": ["false"]}}, done_when=DONE_WHEN))
    undo = {**BACK, "reverse": {"command": ["false"]}}
    SCRIPT.undo(scripts.command("", direction=BACKWARD, done_when=DONE_WHEN, **undo))
    assert scripts.history() == []


def waiting(scripts: Scripts, text: str, **fields: Any) -> tuple[Run, Callable[[], Any]]:
    """Start a command that has counted up and does not end; return its run and what waits for that."""
    run = scripts.command(INCREASE + text, **fields)
    work = Background(lambda: SCRIPT.run(run))
    until(lambda: scripts.count() == 1)
    return run, work.result


def stopping(error: SegueError) -> Callable[[], None]:
    def stop() -> None:
        raise error

    return stop


@pytest.mark.parametrize("fields", [{"idempotent": True}, {"done_when": DONE_WHEN}])
def test_pause_ends_a_command_that_can_go_on_later(scripts: Scripts, fields: dict[str, Any]) -> None:
    run, result = waiting(scripts, "time.sleep(600)\n", **fields)
    run.boundaries = stopping(PauseRequested("paused"))
    with pytest.raises(PauseRequested):
        result()
    assert scripts.history() == [("forward", "begun")]
    assert value(scripts.url, ALIVE) == 0


def test_pause_lets_a_command_end_that_cannot_be_stopped_half_way(scripts: Scripts) -> None:
    end = scripts.folder / "end"
    run, result = waiting(scripts, f"while not os.path.exists({str(end)!r}): time.sleep(0.05)\n")
    run.boundaries = stopping(PauseRequested("paused"))
    until(lambda: any("cannot be stopped half-way" in note for note in run.notes))
    end.touch()
    result()
    assert scripts.history() == [("forward", "done")]


def test_second_thought_of_a_person_ends_any_command(scripts: Scripts) -> None:
    said = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: (print('told to end'), sys.exit(3)))\n"
    run, result = waiting(scripts, said + "print('ready', flush=True)\ntime.sleep(600)\n")
    until(lambda: "ready" in run.notes)
    run.boundaries = stopping(Interrupted("stopped"))
    with pytest.raises(Interrupted):
        result()
    assert "told to end" in run.notes
    assert scripts.history() == [("forward", "begun")]
    assert run.kept["exit_code"] is None


def test_statement_of_a_command_that_was_ended_is_ended_too(scripts: Scripts) -> None:
    run = scripts.command(CONNECTED + "connection.execute('select pg_sleep(600)')\n", idempotent=True)
    work = Background(lambda: SCRIPT.run(run))
    until(lambda: value(scripts.url, ALIVE + " and state = 'active'"))
    run.boundaries = stopping(Interrupted("stopped"))
    with pytest.raises(Interrupted):
        work.result()
    assert value(scripts.url, ALIVE) == 0


def test_password_and_control_characters_do_not_get_into_the_output(scripts: Scripts) -> None:
    password = scripts.target._work.info.password
    assert password
    text = (
        "print('it is', os.environ['PGPASSWORD'], os.environ['DATABASE_URL'])\n"
        "print('\\x1b[31mred\\x1b[0m\\x00 bell\\x07')\nsys.exit(os.environ['PGPASSWORD'])\n"
    )
    error = failing(scripts.command(text))
    assert error.details[0].startswith("it is *** postgresql://")
    assert error.details[1:] == ["red bell", "***"]


@pytest.mark.parametrize(
    "fields", [{"command": ["no-such-program"]}, {"command": ["/no/such"]}, {"command": ["true"], "cwd": "/no/such"}]
)
def test_what_is_missing_is_said_before_anything_is_begun(scripts: Scripts, fields: dict[str, Any]) -> None:
    error = failing(scripts.step(irreversible="a test", **fields))
    assert "this machine" in error.message
    assert scripts.history() == []


def test_folder_of_a_script_is_private_and_gone_afterwards(scripts: Scripts) -> None:
    run = scripts.step(command=["sh", "-c", "pwd; stat -c %a ..; ls -A"], irreversible="a test")
    SCRIPT.run(run)
    folder = Path(run.notes[0])
    assert run.notes[1:] == ["700"]
    assert not folder.parent.exists()


def test_script_goes_along_with_the_plan(scripts: Scripts) -> None:
    (scripts.folder / "plans").mkdir()
    (scripts.folder / "lib").mkdir()
    (scripts.folder / "lib" / "script.py").write_text(COUNT_UP)
    params = ScriptParams.model_validate(
        {"name": "step", "type": "data-migration", "python": "../lib/script.py:up", "irreversible": "a test"}
    )
    prepared = SCRIPT.prepare(params, scripts.folder / "plans")
    (scripts.folder / "lib" / "script.py").unlink()
    SCRIPT.run(Run(scripts.target, SCRIPT.prepare(prepared, None)))
    assert scripts.count() == 1


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node; another test fails without it in CI")
def test_typescript_runs_or_what_is_missing_is_said(scripts: Scripts) -> None:
    (scripts.folder / "look.ts").write_text("const n: number = 1\nconsole.log('it is', n)\n")
    run = scripts.step(prisma="look.ts", irreversible="a test", cwd="/")
    said = subprocess.check_output(["node", "-p", "process.versions.node"], text=True)
    if tuple(map(int, said.split(".")[:2])) >= (22, 6) or shutil.which("tsx"):
        SCRIPT.run(run)
        assert "it is 1" in run.notes
        return
    error = failing(run)
    assert '"look.ts" is TypeScript, which Node v' in error.message
    assert "npm install tsx" in error.hint
    tsx = scripts.folder / "node_modules" / ".bin" / "tsx"
    tsx.parent.mkdir(parents=True)
    tsx.write_text("#!/bin/sh\necho it runs ${1##*/}\n")
    tsx.chmod(0o755)
    run = scripts.step(prisma="look.ts", irreversible="a test", cwd=str(scripts.folder))
    SCRIPT.run(run)
    assert run.notes == ["it runs look.ts"]
