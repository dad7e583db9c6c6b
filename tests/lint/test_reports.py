"""What other programs read is what they expect: SARIF by its schema, JUnit by a reader of it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import jsonschema
import junitparser
import pytest

from segue.cli._linting import PostgreSQL
from segue.lint.formats import render
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
    "odd.sql": "DROP TABLE \"]]>\"; -- segue: ignore nothing\nCOMMENT ON TABLE t IS '\x01';\n",
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
    assert [suite.errors for suite in suites] == [0, 0, 1, 0]
    assert suites[1].failures >= 2


def failed(case: junitparser.TestCase) -> bool:
    """Return whether a case failed."""
    return any(isinstance(item, junitparser.Failure) for item in case.result)


def broken(case: junitparser.TestCase) -> bool:
    """Return whether a case could not be judged."""
    return any(isinstance(item, junitparser.Error) for item in case.result)
