"""Runs of scripts killed with -9 at each point of theirs: a function's work is there once, a command's as it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fix_shops import Shops
from fix_targets import rows, run_sql, value

DRIVER = Path(__file__).with_name("driver.py")

# Both ways, a function that must not be called twice, and a command that may be run twice; both print what they are.
PLAN = """
plan: scripts
version: 1.0.0
description: Scripts whose effects can be counted
steps:
  - name: function
    kind: script
    type: data-migration
    python: scripts.py:up
    reverse: {python: "scripts.py:down"}
  - name: moment
    kind: wait
    needs: [function]
    for: 10ms
  - name: command
    kind: script
    type: data-migration
    needs: [moment]
    command: [sh, -c, "psql -Xq -c 'UPDATE counter SET marked = true'"]
    idempotent: true
    reverse:
      command: [sh, -c, "psql -Xq -c 'UPDATE counter SET marked = false'"]
      done_when: {query: SELECT marked FROM counter, scalar: false}
"""

FUNCTIONS = """
def up(connection):
    connection.execute("update counter set n = n + 1")

def down(connection):
    connection.execute("update counter set n = n - 1")
"""


class Scripts:
    """Targets with a counter, and a driver that is killed where it is told."""

    def __init__(self, shops: Shops, make: Callable[[], str], environ: dict[str, str]) -> None:
        self.shops, self.make, self.urls = shops, make, dict[str, str]()
        self.plan = shops.settings.home / "plan.yaml"
        self.plan.write_text(PLAN)
        self.plan.with_name("scripts.py").write_text(FUNCTIONS)
        self.driver = subprocess.Popen(
            [sys.executable, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )

    def target(self) -> str:
        url = self.make()
        name = f"shop-{len(self.urls)}"
        run_sql(url, "create table counter (n int not null, marked bool)", "insert into counter values (0)")
        self.urls[name] = url
        return self.shops.open(name, url)

    def ask(self, *arguments: str, kill: tuple[str, int] | None = None) -> dict[str, Any]:
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(json.dumps([arguments, *(kill or (None, 1))]) + "\n")
        self.driver.stdin.flush()
        return dict(json.loads(self.driver.stdout.readline()))

    def run(self, name: str, kill: tuple[str, int] | None = None) -> dict[str, Any]:
        return self.ask("run", str(self.plan), "--env", name, kill=kill)

    def back(self, name: str, kill: tuple[str, int] | None = None) -> dict[str, Any]:
        return self.ask("rollback", self.shops.on(name)["execution"], kill=kill)

    def state(self, name: str) -> tuple[Any, ...]:
        """Return what must be the same however often a run was killed."""
        effects = "select step, direction, state, count(*) from segue.history group by 1, 2, 3 order by 1, 2"
        return rows(self.urls[name], "select n, marked from counter"), rows(self.urls[name], effects)

    def close(self) -> None:
        assert self.driver.stdin is not None
        with self.driver:
            self.driver.stdin.close()


@pytest.fixture
def scripts(shops: Shops, new_debian_database: Callable[[], str], store_url: str) -> Iterator[Scripts]:
    home = str(shops.settings.home)
    environ = {**os.environ, "SEGUE_HOME": home, "SEGUE_STORE": store_url, "SEGUE_USER": "tester"}
    found = Scripts(shops, new_debian_database, environ)
    yield found
    found.close()


def places(points: list[str]) -> list[tuple[str, int]]:
    """Return where to kill: at every point of the scripts and of their effects."""
    counted = Counter(point for point in points if point.startswith(("script-", "effect-")))
    return [(name, occurrence) for name, count in counted.items() for occurrence in range(1, count + 1)]


@pytest.mark.timeout(300)
def test_scripts_killed_at_each_point_end_in_the_same_state(scripts: Scripts) -> None:
    unharmed = scripts.target()
    answer = scripts.run(unharmed)
    assert answer["status"] == 0, answer["output"]
    expected = scripts.state(unharmed)
    assert expected[0] == [(1, True)]
    found = places(answer["points"])
    assert {name for name, _ in found} == {"script-begun", "script-called", "script-ran", "effect-committed"}
    for place in found:
        name = scripts.target()
        assert scripts.run(name, kill=place)["status"] == -9, place
        again = scripts.run(name)
        assert again["status"] == 0, (place, again["output"])
        assert scripts.state(name) == expected, place


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_undo_of_scripts_killed_at_each_point_ends_in_the_same_state(scripts: Scripts) -> None:
    unharmed = scripts.target()
    assert scripts.run(unharmed)["status"] == 0
    answer = scripts.back(unharmed)
    assert answer["status"] == 0, answer["output"]
    expected = scripts.state(unharmed)
    assert expected[0] == [(0, False)]
    for place in places(answer["points"]):
        name = scripts.target()
        assert scripts.run(name)["status"] == 0
        assert scripts.back(name, kill=place)["status"] == -9, place
        again = scripts.back(name)
        assert again["status"] == 0, (place, again["output"])
        assert scripts.state(name) == expected, place


def test_killed_scripts_are_taken_back_as_far_as_they_came(scripts: Scripts) -> None:
    for place, left in (("script-called", (0, None)), ("script-begun", (0, False)), ("script-ran", (0, False))):
        name = scripts.target()
        assert scripts.run(name, kill=(place, 1))["status"] == -9, place
        again = scripts.back(name)
        assert again["status"] == 0, (place, again["output"])
        assert value(scripts.urls[name], "select count(*) from counter where n <> 0") == 0, place
        assert scripts.state(name)[0] == [left], place
