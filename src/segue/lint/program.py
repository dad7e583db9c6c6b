"""Judges a program that makes SQL: what is found in the SQL is said of the line of the program that made it."""

from __future__ import annotations

import io
import tokenize
from bisect import bisect_right
from typing import TYPE_CHECKING

from segue.errors import SqlSyntaxError
from segue.lint import ignores
from segue.lint.judging import lines_of
from segue.lint.report import Broken
from segue.model.changes import Changed
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from segue.lint.judging import Judge
    from segue.lint.report import FileReport
    from segue.lint.sources import Source
    from segue.model.findings import Finding


def judge(
    source: Source,
    file: FileReport,
    judge: Judge,
    read: Callable[[str], list[Changed]],
    today: date,
    active: set[str],
    known: set[str],
) -> None:
    """Judge what a program makes, and write it into the file's report."""
    position = lines_of(source.text)
    file.ends = {position(part.begin): position(part.end)[0] for part in source.parts}
    file.unanalysed = [(*position(begin), why) for begin, why in source.unanalysed]
    try:
        statements = read(source.sql)
    except SqlSyntaxError as error:
        file.broken = Broken(*position(_span(source, error.offset)[0]), error.message, error.hint or "")
        return
    judged = judge.judge(source.path, source.sql, statements, in_transaction=source.in_transaction)
    starts = [0]
    for line in source.sql.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def placed(line: int, column: int) -> tuple[int, int]:
        return position(_span(source, starts[line - 1] + column - 1)[0])

    def moved(found: Finding) -> Finding:
        line, column = placed(found.line, found.column)
        return replace(found, line=line, column=column)

    file.statements = judged.statements
    file.unanalysed += [(*placed(line, column), why) for line, column, why in judged.unanalysed]
    file.unanalysed.sort()
    file.findings = sorted(map(moved, judged.findings), key=lambda found: (found.line, found.column, found.rule))
    if "segue:" in source.text:
        spans = sorted({(part.begin, part.end) for part in source.parts})
        calls = [Changed(source.text[begin:end], begin, ()) for begin, end in spans]
        file.findings = ignores.apply(
            source.path, source.text, file.findings, _comments(source.text), calls, position, today, active, known
        )


def _span(source: Source, offset: int) -> tuple[int, int]:
    """Return the characters of the program that made what stands at a place of the SQL."""
    at = bisect_right(source.parts, offset, key=lambda part: part.offset) - 1
    return (source.parts[at].begin, source.parts[at].end) if source.parts else (0, 0)


def _comments(text: str) -> list[tuple[int, str]]:
    """Return the comments of a Python program, each with its place."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    try:
        return [
            (starts[token.start[0] - 1] + token.start[1], token.string)
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        ]
    except (tokenize.TokenError, SyntaxError):
        return []
