"""GitLab's code quality report."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.lint.report import Report

_WORDS = {"error": "critical", "warning": "major", "info": "info"}


def render(report: Report) -> str:
    """Return a list with an issue for each finding."""
    entries = [_entry("syntax", "blocker", path, at.line, at.message, at.message) for path, at in report.broken]
    seen: dict[tuple[str, ...], int] = {}
    for found in report.findings:
        # The place is no part of it: lines move. The same statement twice is told apart by its number.
        key = (found.rule, found.file, found.statement, found.message)
        seen[key] = seen.get(key, 0) + 1
        severity = _WORDS[found.severity.value]
        entries.append(_entry(found.rule, severity, found.file, found.line, found.message, *key, str(seen[key])))
    return json.dumps(entries, indent=2, ensure_ascii=False)


def _entry(rule: str, severity: str, file: str, line: int, message: str, *print_of: str) -> dict[str, object]:
    return {
        "description": message,
        "check_name": rule,
        "fingerprint": hashlib.sha256("\0".join((rule, file, *print_of)).encode()).hexdigest(),
        "severity": severity,
        "location": {"path": file.removeprefix("./"), "lines": {"begin": line}},
    }
