"""Runs Segue as its users do: the command line, as a process, with a home of the benchmark's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from psycopg import conninfo

from benchmarks._rounds import Timing
from benchmarks._server import run_child
from segue.errors import StepFailed


def environ(folder: Path) -> dict[str, str]:
    """Return the variables of a process that works in this folder alone."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("SEGUE_", "PG"))}
    return {**mine, "SEGUE_HOME": str(folder / "home"), "SEGUE_USER": "bench", "NO_COLOR": "1"}


def command(folder: Path, arguments: list[str], text: str) -> None:
    """Run a command that is not timed, with a text as its input; raises StepFailed when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "segue", *arguments],
        input=text,
        env=environ(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StepFailed(f"segue {arguments[0]} ended with exit code {done.returncode}", details=[done.stderr.strip()])


def libpq(url: str) -> dict[str, str]:
    """Return the variables by which a program that uses libpq finds a database."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    return {names[name]: str(value) for name, value in conninfo.conninfo_to_dict(url).items() if name in names}


def timed_run(folder: Path, plan: Path, url: str, number: int) -> Timing:
    """Run a plan of one step as a user does: `segue run` as a process, with everything that it starts and writes.

    `number` names the environment, which has to be another one each time. Raises StepFailed.
    """
    # The same environment would be told that the plan is completed already.
    environment = f"round-{number}"
    command(folder, ["env", "add", environment, "--type", "test", "--url-stdin"], url)
    log = folder / "segue.log"
    with (folder / "segue.json").open("w+b") as out, log.open("ab") as err:
        began = time.perf_counter()
        ended = run_child(
            [sys.executable, "-m", "segue", "run", str(plan), "--env", environment, "--json"],
            environ(folder),
            out,
            err,
        )
        seconds = time.perf_counter() - began
        out.seek(0)
        said = out.read().decode(errors="replace")
    if ended.code:
        raise StepFailed(
            f"segue run ended with exit code {ended.code}", details=[said[-2000:], log.read_text()[-2000:]]
        )
    (step,) = json.loads(said)["steps"]
    return Timing(seconds, {"peak_memory_mb": ended.memory_mb, "segue_step_seconds": float(step["seconds"])})
