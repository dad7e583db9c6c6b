"""The README's tour, walked as a reader would: pasted into a shell, on Debian's PostgreSQL 15."""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_process import clean_environ
from fix_servers import DEBIAN
from psycopg.conninfo import conninfo_to_dict

from segue.embedded import Cluster

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
WRITE: dict[str, Any] = runpy.run_path(str(ROOT / "docs/write.py"))

# What differs from one run and one machine to another.
VARIES = re.compile(
    r"\b[a-z0-9]{24}\b"  # ids
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ?"
    r"|\d[\d,.]*( (ms|s|m|h|kB|MB|GB)\b( \d+ [sm]\b)?)?"
    r"|\S+(?=/shop\b)"  # where the server is
    r"|(?<=: )(small|medium|low)\b"  # how large and how busy it is
)
# Lines that depend on what a moment brings: progress, waits, who did it.
PASSING = re.compile(r" rows, |waiting for locks|^(driven by|lock waits|round trip|WAL written) |waits for locks")


def stable(output: str) -> list[str]:
    """Return the lines of an output that are the same on every machine, without what varies in them."""
    lines = [line for line in output.splitlines() if not PASSING.search(line)]
    return [" ".join(VARIES.sub("#", re.sub(r"Z  \w+  ", "Z  #  ", line)).split()) for line in lines]


@pytest.fixture
def reader(debian_server: Cluster, home: Path, store_url: str) -> Iterator[dict[str, str]]:
    """Give the variables of a reader with a server at hand and nothing of Segue's yet."""
    given = conninfo_to_dict(debian_server.url("postgres"))
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
    path = os.pathsep.join([str(Path(sys.executable).parent), str(DEBIAN), os.environ["PATH"]])
    yield {
        **clean_environ(),
        **{variable: str(given[word]) for word, variable in names.items()},
        "PATH": path,
        "SEGUE_HOME": str(home),
        # Quicker than the embedded store, which would be started for each command anew; it has tests of its own.
        "SEGUE_STORE": store_url,
    }
    with psycopg.connect(debian_server.url("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")


@pytest.mark.timeout(300)
def test_the_tour_goes_as_the_readme_says(reader: dict[str, str]) -> None:
    blocks = WRITE["tour"](README)
    went = WRITE["walk"](blocks, reader, timeout=280)
    assert len(blocks) > 8
    for told, real in zip(blocks, went, strict=True):
        assert real.code == told.code, f"{real.script}\n{real.output}"
    for told, real in zip(merged(blocks), merged(went), strict=True):
        assert stable(real.output) == stable(told.output), real.script


def merged(blocks: list[Any]) -> list[Any]:
    """Return the blocks, a killed run and the one that goes on as one: how far the first came is a matter of speed."""
    found: list[Any] = []
    for block in blocks:
        before = found.pop().output.replace("Killed\n", "") if found and found[-1].code == 137 else ""
        found.append(replace(block, output=before + block.output))
    return found


def test_the_readme_shows_the_plan_as_it_is() -> None:
    shown = re.search(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1] == (ROOT / "examples/full-name.yaml").read_text()


def test_the_readme_has_both_commands_first() -> None:
    assert re.search(r"```sh\nmake demo\nmake test\n```", README)
