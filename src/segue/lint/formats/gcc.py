"""Lines as compilers print them, which editors jump to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.lint.report import Report

_WORDS = {"error": "error", "warning": "warning", "info": "note"}


def render(report: Report) -> str:
    """Return `file:line:column: severity: message [rule]`, a line each."""
    lines = [f"{path}:{at.line}:{at.column}: error: {at.message} [syntax]" for path, at in report.broken]
    lines += [
        f"{found.file}:{found.line}:{found.column}: {_WORDS[found.severity.value]}: {found.message} [{found.rule}]"
        for found in report.findings
    ]
    lines += [
        f"{file.path}:{line}:{column}: note: not judged: {why} [not-judged]"
        for file in report.files
        for line, column, why in file.unanalysed
    ]
    return "\n".join(" ".join(line.splitlines()) for line in lines)
