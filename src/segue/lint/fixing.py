"""Writes safe forms into the texts: one statement at a time, judged again after each, until nothing more can be done.

A statement changes only if its safe form is whole, parses, and is no longer found. Everything else stays as it is.
"""

from __future__ import annotations

import codecs
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import InvalidInput, SqlSyntaxError
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from segue.lint.report import Report
    from segue.lint.sources import Source
    from segue.model.findings import Finding

AROUND = (
    "a transaction is around it, in which its safe form cannot be: end that before it, or give it a file of its own"
)
ELSEWHERE = "the statement does not stand in the file as it is run"
AGAIN = "its safe form would be found again"
#: Rounds in which each statement may change once; a statement has as many as it has findings.
_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Left:
    """A finding whose safe form was not written, and why."""

    finding: Finding
    why: str


@dataclass(slots=True)
class Fixing:
    """The texts as they are now, what is found in them, what was written and what was not."""

    sources: list[Source]
    report: Report
    fixed: list[Finding] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


@dataclass(slots=True)
class _Edit:
    """One statement that changes: where it is, by what, how often its rule found it; where its new words are."""

    finding: Finding
    begin: int
    end: int
    words: str
    often: int
    now: tuple[int, int] = (0, 0)


def fix(sources: list[Source], judge: Callable[[list[Source]], Report], check: Callable[[str], object]) -> Fixing:
    """Write the safe forms of what is found; `check` raises SqlSyntaxError for a text that does not parse."""
    fixing = Fixing(list(sources), judge(sources))
    refused: set[tuple[str, str, str]] = set()
    for _ in range(_ROUNDS):
        edits = [
            _edits(source, file.findings, refused, check)
            for source, file in zip(fixing.sources, fixing.report.files, strict=True)
        ]
        if not any(edits):
            break
        changed = [_edited(source, items) for source, items in zip(fixing.sources, edits, strict=True)]
        report = judge(changed)
        again = [
            item
            for source, file, items in zip(changed, report.files, edits, strict=True)
            for item in items
            if file.broken is not None or _found(source, file.findings, item) >= item.often
        ]
        if again:
            refused |= {_key(item.finding) for item in again}
            continue
        fixing.sources, fixing.report = changed, report
        fixing.fixed += [item.finding for items in edits for item in items]
    fixing.left = [
        Left(found, _why(source, found))
        for source, file in zip(fixing.sources, fixing.report.files, strict=True)
        for found in file.findings
        if found.fix is not None
    ]
    return fixing


def write(source: Source, text: str) -> None:
    """Put a text into a source's file, whole or not at all. Raises InvalidInput where that would harm the file."""
    path = Path(source.path)
    try:
        raw = path.read_bytes()
        bom = codecs.BOM_UTF8 if raw.startswith(codecs.BOM_UTF8) else b""
        if raw != bom + source.text.encode():
            raise InvalidInput(
                f'"{path}" is not written: it is not UTF-8, or was changed meanwhile',
                hint="nothing of it is lost; the files before it are written",
            )
        # Through a link to the file that it names, with the same rights.
        real = path.resolve()
        beside = real.with_name(f".{real.name}.{os.getpid()}")
        try:
            beside.write_bytes(bom + text.encode())
            shutil.copymode(real, beside)
            beside.replace(real)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(f'"{path}" cannot be written: {(error.strerror or "unknown error").lower()}') from error


def offset(text: str, line: int, column: int) -> int:
    """Return the character at a line and column, both from 1."""
    at = 0
    for _ in range(line - 1):
        at = text.find("\n", at) + 1
    return at + column - 1


def _key(found: Finding) -> tuple[str, str, str]:
    return found.file, found.rule, found.statement


def _place(source: Source, found: Finding) -> tuple[int, int] | None:
    """Return where a finding's statement stands, None if the text has other words there."""
    begin = offset(source.text, found.line, found.column)
    end = begin + len(found.statement)
    return (begin, end) if source.text[begin:end] == source.sql[begin:end] == found.statement else None


def _why(source: Source, found: Finding) -> str:
    if _place(source, found) is None:
        return ELSEWHERE
    return AROUND if found.in_transaction and found.fix and found.fix.outside else AGAIN


def _edits(
    source: Source, findings: Iterable[Finding], refused: set[tuple[str, str, str]], check: Callable[[str], object]
) -> list[_Edit]:
    """Return one change for each statement that can be changed, in the order of the text."""
    chosen: dict[int, _Edit] = {}
    often = Counter((found.line, found.column, found.rule) for found in findings)
    # What takes a statement apart comes before what is put in front of it.
    for found in sorted(findings, key=lambda item: item.fix is None or not item.fix.outside):
        place = _place(source, found) if found.fix is not None else None
        if found.fix is None or place is None or place[0] in chosen or _key(found) in refused:
            continue
        if found.in_transaction and found.fix.outside:
            continue
        words = _joined(found.fix.statements, source.text, place[0])
        try:
            check(words)
        except SqlSyntaxError:
            refused.add(_key(found))
            continue
        chosen[place[0]] = _Edit(found, *place, words, often[found.line, found.column, found.rule])
    return [chosen[begin] for begin in sorted(chosen)]


def _joined(statements: tuple[str, ...], text: str, begin: int) -> str:
    """Return statements one below the other, as far to the right as the first; the last has no semicolon."""
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    before = text[text.rfind("\n", 0, begin) + 1 : begin]
    indent = before if not before.strip() else ""
    pieces = []
    for words in statements[:-1]:
        # A comment at the end would swallow the semicolon.
        stop = f"{end_of_line}{indent};" if "--" in words.rsplit("\n", 1)[-1] else ";"
        pieces.append(words + stop)
    return f"{end_of_line}{indent}".join([*pieces, statements[-1]])


def _edited(source: Source, edits: list[_Edit]) -> Source:
    text: list[str] = []
    sql: list[str] = []
    at = length = 0
    for edit in edits:
        text += [source.text[at : edit.begin], edit.words]
        sql += [source.sql[at : edit.begin], edit.words]
        begin = length + edit.begin - at
        length = begin + len(edit.words)
        edit.now, at = (begin, length), edit.end
    return replace(source, text="".join([*text, source.text[at:]]), sql="".join([*sql, source.sql[at:]]))


def _found(source: Source, findings: Iterable[Finding], edit: _Edit) -> int:
    """Return how often the rule finds something in what was written."""
    return sum(
        edit.now[0] <= offset(source.text, found.line, found.column) < edit.now[1]
        for found in findings
        if found.rule == edit.finding.rule
    )
