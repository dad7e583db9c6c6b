"""Annotations of a pull request, as GitHub Actions reads them from a step's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.lint.report import Report

_WORDS = {"error": "error", "warning": "warning", "info": "notice"}


def render(report: Report) -> str:
    """Return a workflow command for each finding."""
    lines = [_line("error", path, at.line, at.column, "syntax", at.message) for path, at in report.broken]
    for found in report.findings:
        words = found.message + (f"\nInstead: {found.safe}" if found.safe else "")
        lines.append(_line(_WORDS[found.severity.value], found.file, found.line, found.column, found.rule, words))
    for file in report.files:
        lines += [_line("notice", file.path, line, column, "not judged", why) for line, column, why in file.unanalysed]
    return "\n".join(lines)


def _line(word: str, file: str, line: int, column: int, rule: str, message: str) -> str:
    where = f"file={_value(file)},line={line},col={column},title={_value(f'segue: {rule}')}"
    return f"::{word} {where}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _value(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
