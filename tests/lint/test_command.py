"""`segue lint`: what it reads, what it says in which form, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from segue.cli._linting import PostgreSQL
from segue.lint.formats import NAMES, render
from segue.lint.rule import Wanted
from segue.lint.rules import rules
from segue.lint.running import run
from segue.lint.sources import source

INDEX = "CREATE INDEX i ON orders (day);\n"


def lint(*arguments: str, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "segue", "lint", *arguments], input=stdin, capture_output=True, cwd=cwd, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def found(*arguments: str, stdin: bytes = b"") -> dict[str, Any]:
    """Return what the command prints as JSON."""
    content: dict[str, Any] = json.loads(lint(*arguments, "--json", stdin=stdin).stdout)
    return content


def test_finding_has_the_promised_fields() -> None:
    content = found("-", stdin=INDEX.encode())
    assert list(content) == ["segue", "findings", "statements", "unanalysed"]
    assert content["findings"] == [
        {
            "rule": "create-index-not-concurrently",
            "severity": "error",
            "file": "<stdin>",
            "line": 1,
            "column": 1,
            "statement": "CREATE INDEX i ON orders (day)",
            "message": "writes to orders wait until the index is built",
            "tables": ["orders"],
            "lock": "SHARE",
            "blocks": "writes",
            "duration": "index build",
            "depth": "predicted",
            "safe": "CREATE INDEX CONCURRENTLY i ON orders (day)",
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 1),
        (["--fail-on", "never"], 0),
        (["--ignore", "create-index-not-concurrently"], 0),
        (["--select", "alter-type-rewrite"], 0),
        (["--select", "no-such-rule"], 64),
    ],
)
def test_exit_code_says_what_was_found(arguments: list[str], code: int) -> None:
    assert lint("-", *arguments, stdin=INDEX.encode()).returncode == code


def test_broken_file_is_shown_with_its_place_and_the_others_are_judged(tmp_path: Path) -> None:
    (tmp_path / "1.sql").write_text("SELECT 1;\nCREATE TABEL x ();\n")
    (tmp_path / "2.sql").write_text(INDEX)
    done = lint(".", cwd=tmp_path)
    assert done.returncode == 2
    assert '1.sql:2:8: does not parse: syntax error at or near "TABEL"' in done.stdout
    assert "  2 | CREATE TABEL x ();\n    |        ^" in done.stdout
    assert "2.sql:1:1: error create-index-not-concurrently" in done.stdout


def test_empty_file_has_nothing_to_find() -> None:
    done = lint("-", stdin=b"")
    assert (done.returncode, done.stdout) == (0, "nothing found in 0 statements of 1 file\n")


def test_folder_without_sql_is_said(tmp_path: Path) -> None:
    done = lint(".", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "warning: there is no SQL file in .\n")


def test_missing_file_is_named(tmp_path: Path) -> None:
    done = lint(str(tmp_path / "no.sql"))
    assert done.returncode == 2
    assert "no.sql" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_format_prints_the_rule_and_the_place(name: str) -> None:
    text = source("x.sql", b"\n" + INDEX.encode())
    report = run([text], list(rules().values()), set(rules()), PostgreSQL(), Wanted(), date(2026, 6, 1))
    words = render(name, report)
    assert "create-index-not-concurrently" in words
    assert "x.sql" in words


def test_sarif_says_level_and_fingerprint_of_each_result() -> None:
    log = json.loads(lint("-", "--format", "sarif", stdin=INDEX.encode()).stdout)
    (result,) = log["runs"][0]["results"]
    assert (log["version"], result["level"]) == ("2.1.0", "error")
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 1, "startColumn": 1}
    assert result["partialFingerprints"]["statement/v1"]


def test_junit_counts_failures_and_errors(tmp_path: Path) -> None:
    (tmp_path / "1.sql").write_text("SELEC;")
    (tmp_path / "2.sql").write_text(INDEX)
    root = ET.fromstring(lint(".", "--format", "junit", cwd=tmp_path).stdout)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", "1", "1")


def test_gitlab_fingerprints_of_the_same_statement_twice_differ() -> None:
    issues = json.loads(lint("-", "--format", "gitlab", stdin=2 * INDEX.encode()).stdout)
    assert len({issue["fingerprint"] for issue in issues}) == 2


def test_command_imports_no_driver_and_no_store() -> None:
    words = "import sys; sys.argv = ['segue', 'lint', '-']; from segue.cli.commands import root; root(['lint', '-']);"
    seen = "print(sorted({'psycopg', 'procrastinate', 'sqlalchemy', 'rich', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", words + seen], input=b"SELECT 1", capture_output=True, check=True)
    assert done.stdout.decode().splitlines()[-1] == "[]"


def test_explain_says_what_a_rule_finds_and_what_to_write_instead() -> None:
    command = [sys.executable, "-m", "segue", "explain", "create-index-not-concurrently"]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "**Instead:** CREATE INDEX CONCURRENTLY, outside a transaction." in words
