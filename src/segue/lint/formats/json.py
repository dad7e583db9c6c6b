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
    return json.dumps(content, indent=2, ensure_ascii=False)
