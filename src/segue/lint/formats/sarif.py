"""SARIF 2.1.0, for code scanning."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from segue import __version__
from segue.lint.rules import rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.report import Report
    from segue.model.findings import Severity

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def render(report: Report) -> str:
    """Return a log with one run: the rules that found something, and the results."""
    known = rules()
    used = sorted({found.rule for found in report.findings})
    results = [
        _result(found.rule, found.severity, found.message, found.file, found.line, found.column, found.statement)
        for found in report.findings
    ]
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "segue",
                "version": __version__,
                "rules": [
                    {
                        "id": name,
                        "shortDescription": {"text": known[name].condition if name in known else name},
                        **(
                            {
                                "fullDescription": {"text": known[name].effect},
                                "help": {"text": known[name].instead},
                                "defaultConfiguration": {"level": _LEVELS[known[name].severity.value]},
                            }
                            if name in known
                            else {}
                        ),
                    }
                    for name in used
                ],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": not report.broken,
                "toolExecutionNotifications": list(_notifications(report)),
            }
        ],
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _notifications(report: Report) -> Iterator[dict[str, Any]]:
    """Yield what does not parse, and what could not be judged."""
    for path, at in report.broken:
        yield _notification("error", at.message, _location(path, at.line, at.column))
    for file in report.files:
        for line, column, why in file.unanalysed:
            yield _notification("note", f"not judged: {why}", _location(file.path, line, column))


def _notification(level: str, words: str, location: dict[str, Any]) -> dict[str, Any]:
    return {"level": level, "message": {"text": words}, "locations": [location]}


def _result(
    rule: str, severity: Severity, message: str, file: str, line: int, column: int, statement: str
) -> dict[str, Any]:
    print_of = hashlib.sha256("\0".join((rule, file, statement, message)).encode()).hexdigest()
    return {
        "ruleId": rule,
        "level": _LEVELS[severity.value],
        "message": {"text": message},
        "locations": [_location(file, line, column)],
        "partialFingerprints": {"statement/v1": print_of},
    }


def _location(file: str, line: int, column: int) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(file.replace("\\", "/").removeprefix("./"))},
            "region": {"startLine": line, "startColumn": column},
        }
    }
