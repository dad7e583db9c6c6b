"""JUnit: a file is a suite, a finding a failed case."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from segue.lint.report import FileReport, Report

#: What XML 1.0 cannot hold at all.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def render(report: Report) -> str:
    """Return the document; a file without findings is one case that passed."""
    suites = [_suite(file) for file in report.files]
    tests, failures, errors = (
        (sum(counts) for counts in zip(*(counts for _, *counts in suites), strict=True)) if (suites) else (0, 0, 0)
    )
    head = f'<testsuites name="segue lint" tests="{tests}" failures="{failures}" errors="{errors}">'
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *(text for text, *_ in suites), "</testsuites>"])


def _suite(file: FileReport) -> tuple[str, int, int, int]:
    cases = []
    name = _attribute(file.path)
    if file.broken is not None:
        at = file.broken
        cases.append(
            f"    <testcase name={_attribute(f'line {at.line}: syntax')} classname={name}>"
            f'<error type="syntax" message={_attribute(at.message)}/></testcase>'
        )
    for found in file.findings:
        words = f"{file.path}:{found.line}:{found.column}\n{found.statement}\n{found.safe}".strip()
        cases.append(
            f"    <testcase name={_attribute(f'line {found.line}: {found.rule}')} classname={name}>"
            f"<failure type={_attribute(found.rule)} message={_attribute(found.message)}>{_text(words)}</failure>"
            "</testcase>"
        )
    for line, column, why in file.unanalysed:
        cases.append(
            f"    <testcase name={_attribute(f'line {line}, column {column}: not judged')} classname={name}>"
            f"<skipped message={_attribute(why)}/></testcase>"
        )
    failures, errors = len(file.findings), int(file.broken is not None)
    if not cases:
        cases = [f'    <testcase name="no findings" classname={name}/>']
    skipped = len(file.unanalysed)
    head = f'  <testsuite name={name} tests="{len(cases)}" failures="{failures}" errors="{errors}" skipped="{skipped}">'
    return "\n".join([head, *cases, "  </testsuite>"]), len(cases), failures, errors


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("\ufffd", text))


def _attribute(text: str) -> str:
    return quoteattr(_FORBIDDEN.sub("\ufffd", text))
