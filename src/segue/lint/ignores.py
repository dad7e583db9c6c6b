"""Comments that silence a rule: `-- segue: ignore RULE until=2027-01-31 reason="…"`, or `ignore-file` for a file.

One that stands before a statement, in it, or behind it on its last line is for that statement.
"""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

from segue.model.findings import Finding, Severity
from segue.model.impact import Duration, Lock
from segue.model.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.model.changes import Changed

UNUSED, EXPIRED, WRONG = "unused-ignore", "expired-ignore", "wrong-ignore"
_DIRECTIVE = re.compile(r"segue:\s*(ignore(?:-file)?)\b[ \t]*(.*?)\s*(?:\*/)?\s*$", re.DOTALL)
_UNTIL = re.compile(r"\buntil=(\S+)")
_REASON = re.compile(r"\breason=(\"[^\"]*\"|\S+)")


class _Ignore(Value):
    offset: int
    rules: list[str]
    until: date | None
    #: The characters of the statement it is for; None: the whole file.
    span: tuple[int, int] | None
    used: set[str]


def apply(
    file: str,
    text: str,
    findings: list[Finding],
    comments: list[tuple[int, str]],
    statements: list[Changed],
    position: Callable[[int], tuple[int, int]],
    today: date,
    active: set[str],
    known: set[str],
) -> list[Finding]:
    """Return the findings that are left, and one for each ignore that is wrong, expired or unused.

    `active` are the rules that were asked, `known` all there are: an ignore of a rule that was not asked is not unused.
    """

    def said(rule: str, offset: int, message: str) -> Finding:
        line, column = position(offset)
        return Finding(rule, Severity.WARNING, file, line, column, "", message, (), Lock.NONE, Duration.INSTANT)

    left: list[Finding] = []
    ignores: list[_Ignore] = []
    for offset, comment in comments:
        match = _DIRECTIVE.search(comment)
        if match is None:
            continue
        names, until, problem = _parsed(match[2], known)
        if problem:
            left.append(said(WRONG, offset, problem))
            continue
        span = None if match[1] == "ignore-file" else _span(offset, text, statements)
        ignores.append(_Ignore(offset, names, until, span, set()))
    spans = {position(item.offset): item.offset for item in statements}
    for found in findings:
        at = spans.get((found.line, found.column))
        covering = [item for item in ignores if found.rule in item.rules and (item.span is None or _covers(item, at))]
        for item in covering:
            item.used.add(found.rule)
        if not any(item.until is None or item.until >= today for item in covering):
            left.append(found)
    for item in ignores:
        if item.until is not None and item.until < today and item.used:
            left.append(said(EXPIRED, item.offset, f"this ignore was good until {item.until.isoformat()}"))
        for rule in item.rules:
            if rule in active and rule not in item.used:
                left.append(said(UNUSED, item.offset, f'nothing here is found by "{rule}"'))
    return sorted(left, key=lambda found: (found.line, found.column, found.rule))


def _parsed(words: str, known: set[str]) -> tuple[list[str], date | None, str]:
    until = None
    match = _UNTIL.search(words)
    if match:
        try:
            until = date.fromisoformat(match[1])
        except ValueError:
            return [], None, f'"{match[1]}" is not a date: write until=YYYY-MM-DD'
    names = [name for name in re.split(r"[\s,]+", _REASON.sub("", _UNTIL.sub("", words))) if name]
    unknown = [name for name in names if name not in known]
    if not names:
        return [], None, "an ignore names the rules that it silences"
    return names, until, f'there is no rule "{unknown[0]}"' if unknown else ""


def _covers(item: _Ignore, at: int | None) -> bool:
    return item.span is not None and at is not None and item.span[0] <= at < item.span[1]


def _span(offset: int, text: str, statements: list[Changed]) -> tuple[int, int]:
    """Return where the statement is that a comment is for: it is in it, behind it on its line, or before it."""
    for statement in statements:
        end = statement.offset + len(statement.sql)
        if statement.offset <= offset < end or (end <= offset and "\n" not in text[end:offset]):
            return statement.offset, end
        if offset < statement.offset:
            return statement.offset, end
    return len(text), len(text)
