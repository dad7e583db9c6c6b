"""Linting 2,000 statements by all rules, as a folder of migrations and as one file: Segue beside squawk.

Both begin as processes and print their findings with the lines that they are about. squawk reads several files at a
time, on all cores; Segue reads one after the other, because what a statement does depends on what came before it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks._commands import environ
from benchmarks._migrations import write
from benchmarks._rounds import Stage, Timing
from benchmarks._server import run_child
from segue.errors import ConfigurationError, StepFailed

STATEMENTS = 2000
PEER = "squawk-cli==2.70.0"


class LintBenchmark:
    """See `benchmarks._rounds.Benchmark`."""

    contenders = ("segue", "squawk", "segue_one_file", "squawk_one_file")
    ratios = (("segue", "squawk"), ("segue_one_file", "squawk_one_file"))

    @contextlib.contextmanager
    def open(self, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Stage]:
        """Install the peer, and write the migrations."""
        say("installing squawk")
        peer = _peer(folder / "peer")
        statements = write(folder / "migrations", max(25, round(STATEMENTS * scale)))
        files = sorted((folder / "migrations").iterdir())
        (folder / "one.sql").write_text("".join(file.read_text() for file in files))
        (folder / "least.sql").write_text("SELECT 1;\n")
        say(f"{statements:,} statements in {len(files)} files")
        stage = _Stage(folder, peer, [str(file) for file in files], statements)
        for contender in self.contenders:  # the first run of each reads its program from disk
            stage.time(contender, 0)
        yield stage


@dataclass(slots=True)
class _Stage:
    folder: Path
    peer: Path
    files: list[str]
    rows: int

    def time(self, contender: str, number: int) -> Timing:
        """See `benchmarks._rounds.Stage`."""
        tool, _, one = contender.partition("_")
        if tool == "segue":
            seconds, cpu, said = self._segue("one.sql" if one else "migrations", 1)
            found = f"in {self.rows} statements" in said
        else:
            files = ["one.sql"] if one else self.files
            seconds, cpu, said = self._run([str(self.peer), *files], 1)
            found = f"(checked {len(files)} source file" in said
        if not found:
            raise StepFailed(f"{contender} did not read all statements", details=[said])
        return Timing(seconds, {f"cpu_seconds_{contender}": cpu})

    def beside(self, number: int) -> Mapping[str, float]:
        """Measure what each takes for one statement: mostly its start."""
        seconds, cpu, _ = self._segue("least.sql", 0)
        peer, _, _ = self._run([str(self.peer), "least.sql"], 0)
        return {"start_seconds_segue": seconds, "start_cpu_seconds_segue": cpu, "start_seconds_squawk": peer}

    def _segue(self, path: str, code: int) -> tuple[float, float, str]:
        return self._run([sys.executable, "-m", "segue", "lint", path], code)

    def _run(self, words: list[str], code: int) -> tuple[float, float, str]:
        out = self.folder / "lint.out"
        with out.open("wb") as said, (self.folder / "lint.err").open("wb") as complained:
            began = time.perf_counter()
            ended = run_child(words, self._environ(), said, complained, self.folder)
            seconds = time.perf_counter() - began
        end = out.read_text(errors="replace")[-500:]
        if ended.code != code:
            raise StepFailed(f"{Path(words[0]).name} ended with exit code {ended.code}", details=[end])
        return seconds, ended.cpu_seconds, end

    def _environ(self) -> dict[str, str]:
        # As an installed program is: compiled, wherever the sources are and whatever may be written there.
        found = {name: value for name, value in environ(self.folder).items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**found, "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode")}


def _peer(folder: Path) -> Path:
    """Install the peer where nothing of ours is, and return its command."""
    venv.create(folder, with_pip=True)
    words = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", PEER]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(
            "squawk could not be installed", details=[done.stderr.strip()[-1000:]], hint="pip needs its index"
        )
    return folder / "bin" / "squawk"


BENCHMARK = LintBenchmark()
