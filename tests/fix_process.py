"""Segue's command line as a user meets it: a process with arguments, exit code, stdout and stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Return stdout as the one JSON object that it must be."""
        return json.loads(self.stdout)

    def expect(self, code: int) -> Outcome:
        """Return this outcome if the exit code is the expected one; otherwise fail with all that was said."""
        assert self.code == code, f"exit code {self.code}, expected {code}\n{self.stdout}\n{self.stderr}"
        return self


@dataclass
class Segue:
    """Runs `segue` commands in one home, with one store."""

    folder: Path
    env: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(
        self,
        *arguments: str | Path,
        env: Mapping[str, str | None] | None = None,
        text: str | None = None,
        timeout: float = 60,
    ) -> Outcome:
        """Run a command to its end. `env` adds variables, or with None takes them away; `text` is its stdin."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environ(env),
            cwd=self.folder,
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str | Path, env: Mapping[str, str | None] | None = None) -> subprocess.Popen[str]:
        """Start a command and return its process, with pipes; it is killed at the end of the test at the latest."""
        process = subprocess.Popen(
            self.command(*arguments),
            env=self.environ(env),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the words of the command."""
        return [sys.executable, "-m", "segue", *map(str, arguments)]

    def environ(self, env: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Return the variables that a command gets."""
        words: dict[str, str | None] = {**self.env, **(env or {})}
        return {name: value for name, value in words.items() if value is not None}


def clean_environ() -> dict[str, str]:
    """Return this process's variables without those that would lead a command to somebody's real databases."""
    foreign = ("SEGUE_", "PG", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


@pytest.fixture
def segue(home: Path, store_url: str) -> Iterator[Segue]:
    """Run commands with a home and a store of this test's own; `env={"SEGUE_STORE": None}` takes the embedded one."""
    # Its working directory is the empty home, so that no segue.toml of this repository's is found from there.
    runs = Segue(home, {**clean_environ(), "SEGUE_HOME": str(home), "SEGUE_STORE": store_url, "SEGUE_USER": "tester"})
    yield runs
    for process in runs.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
