"""`--git-base`: what changed is reported, what was there before is history."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

OLD = "CREATE TABLE orders (id bigint, note varchar(9));\n"
INDEX = "CREATE INDEX {0} ON orders\n  ({0});\n"


def git(folder: Path, *arguments: str) -> None:
    """Run git without anybody's settings."""
    said = ["-c", "user.name=ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *said, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a repository with a branch that has left main."""
    (tmp_path / "1.sql").write_text(OLD)
    (tmp_path / "2.sql").write_text(INDEX.format("id") + INDEX.format("note"))
    (tmp_path / "3.sql").write_text("ALTER TABLE orders DROP COLUMN old;\n")
    git(tmp_path, "init", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "checkout", "-b", "work")
    return tmp_path


def found(folder: Path, ref: str = "main") -> list[tuple[str, int, str]]:
    """Return what is reported of the folder."""
    command = [
        sys.executable,
        "-m",
        "segue",
        "lint",
        ".",
        "--git-base",
        ref,
        "--ignore",
        "lock-without-timeout",
        "--json",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return [(item["file"], item["line"], item["rule"]) for item in json.loads(done.stdout)["findings"]]


def test_nothing_changed_is_nothing_found(folder: Path) -> None:
    assert found(folder) == []


def test_changed_line_is_reported_with_its_statement_and_the_others_are_not(folder: Path) -> None:
    (folder / "2.sql").write_text(INDEX.format("id") + INDEX.format("note").replace("(note)", "(note, id)"))
    git(folder, "commit", "-am", "second")
    (folder / "4.sql").write_text("ALTER TABLE orders ALTER COLUMN note TYPE varchar(5);\n")
    assert found(folder) == [("2.sql", 3, "create-index-not-concurrently"), ("4.sql", 1, "alter-type-rewrite")]


def test_line_that_went_from_a_statement_changes_it(folder: Path) -> None:
    (folder / "2.sql").write_text("CREATE INDEX id ON orders\n\n  (id);\n")
    git(folder, "commit", "-am", "second")
    (folder / "2.sql").write_text(INDEX.format("id"))
    assert found(folder, "HEAD") == [("2.sql", 1, "create-index-not-concurrently")]


def test_what_main_has_done_since_is_not_reported(folder: Path) -> None:
    git(folder, "checkout", "main")
    (folder / "5.sql").write_text(INDEX.format("id"))
    git(folder, "add", ".")
    git(folder, "commit", "-m", "later")
    git(folder, "checkout", "work")
    assert found(folder) == []


def test_unknown_commit_is_said(folder: Path) -> None:
    command = [sys.executable, "-m", "segue", "lint", ".", "--git-base", "nowhere"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "git does not know what has changed" in done.stderr
