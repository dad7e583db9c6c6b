"""A plain `segue lint` is read without typer, and means what it means with it; nothing heavy is imported on its way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segue.cli import _linting, _plain
from segue.cli.commands import load
from segue.cli.lint import Level, LintForm

COMMAND: Any = load("lint", "lint")
#: What the command's own words mean, by the options that are read plainly.
OPTIONS = {name: option for option in COMMAND.params for name in option.opts}


def by_typer(words: list[str]) -> _linting.Asked:
    """Return what typer makes of the words."""
    given = COMMAND.make_context("lint", list(words)).params
    form = "json" if given.pop("json_") else given.pop("format_").value
    several = {name: tuple(given.pop(name) or ()) for name in ("paths", "select", "ignore")}
    given.pop("format_", None)
    return _linting.Asked(**{**given, **several, "format_": form, "fail_on": given["fail_on"].value})


@pytest.mark.parametrize(
    "words",
    [
        "a.sql",
        "-",
        "b a --json",
        "--format sarif a --select x --select=y b",
        "a --format=gcc --fail-on never --ignore z",
        "a --git-base origin/main --new-tables --assume-in-transaction --fix --diff",
        "a --json --format md",
    ],
)
def test_plain_words_mean_what_typer_reads(words: str) -> None:
    assert _plain.asked(words.split()) == by_typer(words.split())


@pytest.mark.parametrize(
    "words",
    ["", "--help", "a --fix=yes", "a --format xml", "a --select", "a --select --fix", "a --env shop", "a -e b", "-- a"],
)
def test_what_is_not_plain_is_left_to_typer(words: str) -> None:
    assert _plain.asked(words.split()) is None


def test_every_plain_option_is_one_of_the_command() -> None:
    for name, field in (*_plain.FLAGS.items(), *_plain.LISTS.items(), *_plain.VALUES.items()):
        assert OPTIONS[name].name == field
        assert OPTIONS[name].is_flag == (name in _plain.FLAGS)
        assert OPTIONS[name].multiple == (name in _plain.LISTS)
    assert tuple(LintForm) == _plain.CHOICES["--format"]
    assert tuple(Level) == _plain.CHOICES["--fail-on"]


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("SET lock_timeout = '1s';\nALTER TABLE orders ADD CONSTRAINT c CHECK (a > 0);\n")
    code = (
        "import json, sys; from segue.cli import perform; code = perform(sys.argv[1:]); "
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "lint", "a.sql"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    heavy = (
        "typer pydantic sqlalchemy alembic yaml psycopg rich postgast logging dataclasses inspect subprocess".split()
    )
    assert set(heavy) & set(json.loads(done.stderr)) == set()
