"""One JSON object."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.lint.report import Report


def render(report: Report) -> str:
    """Return the findings, how many statements there are, and what could not be judged or parsed."""
    content = {
        "segue": 1,
        "findings": [found.as_json() for found in report.findings],
        "statements": report.statements,
        "unanalysed": [
            {"file": file.path, "line": line, "column": column, "reason": why}
            for file in report.files
            for line, column, why in file.unanalysed
        ],
    }
    if report.broken:
        content["broken"] = [
            {"file": path, "line": at.line, "column": at.column, "message": at.message} for path, at in report.broken
        ]
    if report.trace is not None:
        content["trace"] = {
            "server": report.trace.server,
            "notes": report.trace.notes,
            "statements": [
                {
                    "file": item.file,
                    "line": item.line,
                    "column": item.column,
                    "locks": [
                        {"table": seen.table, "lock": seen.lock.value, "rewritten": seen.rewritten}
                        for seen in item.tried.seen
                    ],
                    "error": item.tried.error or None,
                    "note": item.tried.note or None,
                }
                for item in report.trace.statements
            ],
        }
    return json.dumps(content, indent=2, ensure_ascii=False)
