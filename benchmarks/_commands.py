"""Runs Segue as its users do: the command line, as a process, with a home of the benchmark's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
