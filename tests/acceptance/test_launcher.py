"""Programs under a driver's eye: their end is seen, and nothing that they started is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fix_targets import Background, until

from segue.engine import scripts
from segue.engine.scripts import Output, Program
from segue.errors import Interrupted


class Watched:
    """Runs a shell's words as a program, and keeps what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.output = Output((), lambda stream, line: self.said.append(line))
        self.stop = False

    def boundary(self) -> None:
        if self.stop:
            raise Interrupted("stopped")

    def run(self, words: str) -> int:
        program = Program(["sh", "-c", words], self.folder, dict(os.environ))
        return scripts.execute(program, boundary=self.boundary, output=self.output, remove=self.folder / "scratch")

    def pid(self, name: str) -> int:
        """Wait until the program has written its number into a file, and return it."""
        return int(until(lambda: (self.folder / name).exists() and (self.folder / name).read_text().strip()))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] in ("Z", "X")
    except OSError:
        return True


def test_folder_of_a_killed_process_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    leave = (
        "import os; from segue.engine.scripts import private_folder; f = private_folder(); f.__enter__(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", leave], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    (left,) = tmp_path.iterdir()
    with scripts.private_folder() as held:
        assert {left, held} == set(tmp_path.iterdir())  # too young to tell
        for folder in (left, held):
            os.utime(folder, (0, 0))
        with scripts.private_folder() as other:
            assert {held, other} == set(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_exit_code_is_the_programs(watched: Watched, words: str, code: int) -> None:
    assert watched.run(words) == code


def test_program_that_is_none_says_so(watched: Watched) -> None:
    program = Program([str(watched.folder)], watched.folder, {})
    assert (
        scripts.execute(program, boundary=watched.boundary, output=watched.output, remove=watched.folder / "x") == 126
    )
    assert watched.said == [f"{watched.folder}: Permission denied"]


def test_everything_printed_is_read_to_the_end(watched: Watched) -> None:
    assert watched.run("seq 200000; echo end >&2; exit 5") == 5
    assert watched.output.lines == 200_001
    assert {"200000", "end"} <= set(watched.output.last)


def test_program_that_closes_its_streams_is_waited_for(watched: Watched) -> None:
    assert watched.run("exec >&- 2>&-; sleep 0.5; exit 4") == 4


def test_what_a_program_leaves_behind_ends_with_it(watched: Watched) -> None:
    assert watched.run("sleep 600 & echo $! > near; setsid sh -c 'echo $$ > far; sleep 600' & sleep 0.3") == 0
    assert gone(watched.pid("near"))
    assert gone(watched.pid("far"))


def test_stopped_program_may_end_by_itself_first(watched: Watched) -> None:
    work = Background(lambda: watched.run("trap 'echo told; exit 0' TERM; echo $$ > pid; while :; do sleep 0.05; done"))
    pid = watched.pid("pid")
    watched.stop = True
    with pytest.raises(Interrupted):
        work.result()
    assert gone(pid)
    assert watched.said[-1] == "told"


def test_program_that_will_not_end_is_killed_with_all_of_its_own(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "GRACE", 0.2)
    deaf = "trap '' TERM; setsid sh -c \"trap '' TERM; echo \\$\\$ > far; while :; do sleep 0.1; done\" & "
    work = Background(lambda: watched.run(deaf + "echo $$ > near; while :; do sleep 0.1; done"))
    pids = watched.pid("near"), watched.pid("far")
    watched.stop = True
    with pytest.raises(Interrupted):
        work.result()
    assert all(map(gone, pids))


DRIVER = """
import os, sys
from pathlib import Path
from segue.engine import scripts
folder = Path(sys.argv[1])
output = scripts.Output((), lambda *_: None)
program = scripts.Program(["sh", "-c", sys.argv[2]], folder, dict(os.environ))
scripts.execute(program, boundary=lambda: None, output=output, remove=folder / "scratch")
"""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


@pytest.mark.parametrize("victim", ["driver", "launcher"])
def test_program_does_not_outlive_a_kill(watched: Watched, victim: str) -> None:
    (watched.folder / "scratch").mkdir()
    words = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done"
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(watched.folder), words]) as driver:
        try:
            pid = watched.pid("pid")
            launcher = parent(pid)
            os.kill(driver.pid if victim == "driver" else launcher, signal.SIGKILL)
            until(lambda: gone(pid) and gone(launcher))
            assert driver.wait(20) == (-9 if victim == "driver" else 0)
            # Who dies cannot clear up: the launcher does it for its driver.
            assert (watched.folder / "scratch").exists() is (victim == "launcher")
        finally:
            driver.kill()


def test_program_that_slept_longer_than_a_lease_gets_no_time_to_go_on(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "SILENCE", 1.5)
    work = Background(lambda: watched.run("trap 'echo told' TERM; echo $$ > pid; while :; do sleep 0.05; done"))
    pid = watched.pid("pid")
    launcher = parent(pid)
    # As after a machine's sleep: the driver, awake again, has written into the lifeline before its launcher looks.
    os.kill(launcher, signal.SIGSTOP)
    time.sleep(4)
    os.kill(launcher, signal.SIGCONT)
    assert work.result() != 0
    assert gone(pid)
    assert "told" not in watched.said
