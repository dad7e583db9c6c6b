"""What other programs read is what they expect: SARIF by its schema, JUnit by a reader of it."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import jsonschema
import junitparser
import pytest

from segue.cli._linting import PostgreSQL
from segue.lint.formats import render
from segue.lint.formats.text import columns
from segue.lint.report import Report
from segue.lint.rule import Wanted
from segue.lint.rules import rules
from segue.lint.running import run
from segue.lint.sources import Source, source

#: As @microsoft/jest-sarif brings it.
SCHEMA = Path(__file__).parent / "schemas/sarif-2.1.0.json"
TEXTS = {
    "empty.sql": "",
    "several é.sql": "CREATE INDEX i ON orders (day);\nALTER TABLE orders DROP COLUMN \"a<b&'c'\";\n",
    "broken.sql": "SELECT 1;\nCREATE TABEL x ();\n",
    "unknown.sql": "DO $$ BEGIN END $$;\n",
    "odd.sql": "DROP TABLE \"]]>\"; -- segue: ignore nothing\nCOMMENT ON TABLE t IS '\x01';\n",
}


#: What GitLab's documentation of custom code quality tools asks for.
CODE_QUALITY = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string", "pattern": "^[a-z-]+$"},
            "fingerprint": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": "^[^/.]"},
                    "lines": {"type": "object", "required": ["begin"], "properties": {"begin": {"type": "integer"}}},
                },
            },
        },
    },
}


@pytest.fixture
def report() -> Report:
    """Return what is found in texts of every kind."""
    texts: list[Source] = [source(name, text.encode()) for name, text in TEXTS.items()]
    return run(texts, list(rules().values()), set(rules()), PostgreSQL(), Wanted(), date(2026, 6, 1))


def test_sarif_is_valid(report: Report) -> None:
    log = json.loads(render("sarif", report))
    jsonschema.Draft4Validator(json.loads(SCHEMA.read_text())).validate(log)
    assert {item["ruleId"] for item in log["runs"][0]["results"]} >= {"drop-column", "create-index-not-concurrently"}


def test_sarif_of_every_rule_is_valid() -> None:
    texts = [source(f"{name}.sql", f"{rule.before};{rule.bad}".encode()) for name, rule in rules().items()]
    found = run(texts, list(rules().values()), set(rules()), PostgreSQL(), Wanted(), date(2026, 6, 1))
    assert not found.broken
    jsonschema.Draft4Validator(json.loads(SCHEMA.read_text())).validate(json.loads(render("sarif", found)))


def test_junit_is_read_with_its_counts(report: Report) -> None:
    suites = list(junitparser.JUnitXml.fromstring(render("junit", report).encode()))
    assert [Path(suite.name).name for suite in suites] == list(TEXTS)
    assert [(suite.tests, suite.failures, suite.errors) for suite in suites] == [
        (len(list(suite)), sum(map(failed, suite)), sum(map(broken, suite))) for suite in suites
    ]
    assert [suite.errors for suite in suites] == [0, 0, 1, 0, 0]
    assert [suite.skipped for suite in suites] == [0, 0, 0, 1, 0]
    assert suites[1].failures >= 2


def test_gitlab_has_the_fields_of_a_code_quality_report(report: Report) -> None:
    issues = json.loads(render("gitlab", report))
    jsonschema.Draft202012Validator(CODE_QUALITY).validate(issues)
    assert len({issue["fingerprint"] for issue in issues}) == len(issues) >= 4
    assert ("syntax", "broken.sql", 2) in {
        (issue["check_name"], issue["location"]["path"], issue["location"]["lines"]["begin"]) for issue in issues
    }


def test_workflow_commands_are_a_line_each_and_escaped(report: Report) -> None:
    lines = render("github", report).splitlines()
    found = [
        re.fullmatch(r"::(error|warning|notice) file=([^,]*),line=(\d+),col=(\d+),title=([^,]*)::(.+)", line)
        for line in lines
    ]
    assert all(found)
    assert "not judged" in next(line for line in lines if "unknown.sql" in line)
    assert not any(re.search(r"%(?!25|0A|0D|3A|2C)", line) for line in lines)


def test_compilers_lines_are_a_line_each(report: Report) -> None:
    lines = render("gcc", report).splitlines()
    assert all(re.fullmatch(r"[^:]+\.sql:\d+:\d+: (error|warning|note): .+ \[[a-z-]+\]", line) for line in lines)
    assert {line.rpartition("[")[2].rstrip("]") for line in lines} >= {"syntax", "not-judged", "drop-column"}


def test_markdown_is_a_table_whose_rows_have_its_columns(report: Report) -> None:
    rows = [line for line in render("md", report).splitlines() if line.startswith("|")]
    assert len(rows) == len(report.findings) + 2
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


HOSTILE = (
    '\tALTER TABLE "日本" DROP COLUMN \t"a\x1b[31m\u202eb";\r\n'
    + "SELECT 'é日' /* "
    + "日本 " * 60
    + " */; DROP TABLE "
    + "x" * 60
    + "; SELECT "
    + "1, " * 100
    + "2;\n"
)


@pytest.mark.parametrize("width", [None, 40, 80, 200])
def test_marks_stand_below_what_is_meant_and_nothing_is_wider_than_the_terminal(width: int | None) -> None:
    texts = [source("h.sql", HOSTILE.encode())]
    found = run(texts, list(rules().values()), set(rules()), PostgreSQL(), Wanted(), date(2026, 6, 1))
    lines = render("text", found, lambda text, _: text, width).splitlines()
    frames = [(lines[at - 1], line) for at, line in enumerate(lines) if line.strip(" |^") == "" and "^" in line]
    assert len(frames) == len(found.findings) > 2
    for above, marks in frames:
        assert columns(above) <= (width or 130)
        begin, end = marks.index("^"), marks.rindex("^") + 1
        at = next(place for place in range(len(above)) if columns(above[:place]) == begin)
        assert above[at:].startswith(("ALTER TABLE", "DROP TABLE"))
        assert columns(above) >= end
    assert not set("\t\r\x1b\u202e") & set("".join(lines))


def failed(case: junitparser.TestCase) -> bool:
    """Return whether a case failed."""
    return any(isinstance(item, junitparser.Failure) for item in case.result)


def broken(case: junitparser.TestCase) -> bool:
    """Return whether a case could not be judged."""
    return any(isinstance(item, junitparser.Error) for item in case.result)
