"""A process that runs command lines and can be killed at any journal point: for tests of what comes after."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

DRIVER = Path(__file__).parent / "crash" / "driver.py"

Place = tuple[str, int]


class Crasher:
    """Runs `segue` in copies of one process, each killed with -9 at the place where it is told."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._driver = subprocess.Popen(
            [sys.executable, str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )

    def __call__(self, *arguments: str | Path, kill: Place | None = None) -> dict[str, Any]:
        """Run a command; return its `status` (-9 when it was killed), its `points` and its `output`."""
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        point, occurrence = kill or (None, 1)
        self._driver.stdin.write(json.dumps([[str(word) for word in arguments], point, occurrence]) + "\n")
        self._driver.stdin.flush()
        return dict(json.loads(self._driver.stdout.readline()))

    def execution(self, environment: str) -> dict[str, Any]:
        """Return the execution in an environment, as `segue status` shows it."""
        found = json.loads(self("status", "--all", "--json")["output"])["executions"]
        return next(item for item in found if item["environment"] == environment)

    def close(self) -> None:
        """End the process."""
        assert self._driver.stdin is not None
        with self._driver:
            self._driver.stdin.close()


#: A matrix of kills: at each point the first time and the last, or, as a slow test, whenever it comes.
EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ends", "every"])


def places(points: list[str], wanted: Callable[[str], bool] = lambda point: True, *, every: bool = True) -> list[Place]:
    """Return where to kill: every point, of those that come in numbers the first two and the last.

    Without `every`, of each the first and the last.
    """
    counted = Counter(point for point in points if wanted(point))
    return [
        (name, occurrence)
        for name, count in counted.items()
        for occurrence in range(1, count + 1)
        if occurrence in (1, count)
        or (every and (occurrence == 2 or not name.startswith(("chunk-", "batch-", "job-written"))))
    ]


def came_up(answer: dict[str, Any], place: Place) -> bool:
    """Return whether a run was killed at the place, as it must be.

    How often threads claim and write depends on one another: of these points the run may have passed fewer this time.
    """
    name, occurrence = place
    fewer = name.startswith(("chunk-", "batch-", "job-written")) and answer["points"].count(name) < occurrence
    assert answer["status"] == -9 or fewer, (place, answer)
    return bool(answer["status"] == -9)


@contextmanager
def kept(*urls: str) -> Iterator[Callable[[], None]]:
    """Keep databases as they are now, and give a function that makes them so again: quicker than to come there anew.

    Whoever is connected to them loses the connection.
    """
    found = {str(conninfo.conninfo_to_dict(url)["dbname"]): f"kept_{secrets.token_hex(6)}" for url in urls}
    with psycopg.connect(conninfo.make_conninfo(urls[0], dbname="postgres"), autocommit=True) as connection:

        def drop(name: str) -> None:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

        def copy(name: str, to: str, oid: int | None = None) -> None:
            drop(to)
            connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
            query = sql.SQL("create database {} template {}").format(sql.Identifier(to), sql.Identifier(name))
            connection.execute(query if oid is None else query + sql.SQL(" oid {}").format(oid))

        numbered = dict(connection.execute("select datname, oid::bigint from pg_database").fetchall())

        def again() -> None:
            for name, kept in found.items():
                # By the number an execution knows its target: with another one it would refuse to go on.
                copy(kept, name, numbered[name])

        try:
            for name, kept in found.items():
                copy(name, kept)
            yield again
        finally:
            for kept in found.values():
                drop(kept)


@pytest.fixture
def new_crasher() -> Iterator[Callable[..., Crasher]]:
    """Give a function that starts a crasher with these variables; all of them are ended afterwards."""
    made: list[Crasher] = []

    def make(**environ: str) -> Crasher:
        made.append(Crasher(environ))
        return made[-1]

    yield make
    for crasher in made:
        crasher.close()
