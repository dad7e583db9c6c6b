"""For people: the statement's first lines with a caret, what happens, the lock, the safe form, a summary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segue.lint.report import FileReport, Report, Seen, Trace
    from segue.model.findings import Finding

    Paint = Callable[[str, str], str]

_STYLES = {"error": "red", "warning": "yellow", "info": "dim"}
#: Columns of a terminal that is not there.
WIDTH = 120
#: Characters that the terminal would act upon, or that take no place in it.
_ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def render(report: Report, paint: Paint = lambda text, style: text, width: int | None = None) -> str:
    """Return the report; `paint(text, style)` puts colour on it, `width` is that of a terminal which shows it."""
    page = _Page(paint, width)
    blocks = [block for file in report.files for block in page.file(file)]
    if report.trace is not None:
        blocks.append(_trace(report.trace, paint))
    return "\n\n".join([*blocks, _summary(report, paint)])


class _Page:
    """How a report is written: with which colours, and how wide."""

    def __init__(self, paint: Paint, width: int | None) -> None:
        self._paint, self._width = paint, width

    def file(self, file: FileReport) -> Iterator[str]:
        """Yield what is said of a file, a paragraph each."""
        if not (file.broken or file.findings or file.unanalysed):
            return
        lines = file.text.split("\n")
        paint = self._paint
        if file.broken is not None:
            at = file.broken
            head = self._said(f"{file.path}:{at.line}:{at.column}: ", "does not parse", "red", f": {at.message}")
            more = [f"  {paint('hint:', 'bold')} {at.hint}"] if at.hint else []
            yield "\n".join([*head, *self._frame(lines, at.line, at.column), *more])
        for found in file.findings:
            yield "\n".join(self._finding(found, lines))
        for line, column, why in file.unanalysed:
            yield "\n".join(self._said(f"{file.path}:{line}:{column}: ", "not judged", "yellow", f": {why}"))

    def _finding(self, found: Finding, lines: list[str]) -> Iterator[str]:
        paint, severity = self._paint, found.severity.value
        place = f"{found.file}:{found.line}:{found.column}: "
        yield from self._said(place, severity, _STYLES[severity], f": {found.message}", found.rule)
        yield from self._frame(lines, found.line, found.column, found.statement.split("\n", 1)[0])
        if found.lock.value:
            on = ", ".join(found.tables)
            lock = f"{found.lock.value} on {on}, blocks {found.lock.blocks}; held: {found.duration.value}"
            yield f"  {paint('lock:', 'bold')} {clean(lock)}"
        for number, line in enumerate(found.safe.splitlines()):
            yield f"  {'     ' if number else paint('safe:', 'bold')} {clean(line)}"

    def _said(self, place: str, word: str, style: str, rest: str, rule: str = "") -> list[str]:
        """Return what was found where, in lines that a terminal shows whole."""
        place, rest = clean(place), clean(rest)
        head = f"{place}{self._paint(word, style)}{' ' * bool(rule)}{self._paint(rule, 'bold') if rule else ''}"
        if self._width is None or columns(f"{place}{word} {rule}{rest}") <= self._width:
            return [head + rest]
        import textwrap

        return [f"{head}:", *(f"  {line}" for line in textwrap.wrap(rest.removeprefix(": "), max(self._width - 2, 20)))]

    def _frame(self, lines: list[str], line: int, column: int, marked: str = "") -> list[str]:
        """Return a line of the source, or the part of it that there is room for, and marks below it."""
        source = lines[line - 1].rstrip("\r") if line <= len(lines) else ""
        number = str(line)
        room = max((self._width or WIDTH) - len(number) - 5, 20)
        begin = column - 1
        end = begin + len(marked) if marked and source.startswith(marked, begin) else begin + 1
        left = begin if columns(clean(source[: min(end, begin + room)])) > room and begin else 0
        before, under = clean(source[left:begin]), clean(source[begin:end])
        shown = cut(before + under + clean(source[end : end + room]), room - bool(left))
        indent = columns(before) + bool(left)
        marks = "^" * max(min(columns(under), room - indent), 1)
        paint = self._paint
        return [
            f"  {paint(number + ' |', 'dim')} {'…' * bool(left)}{shown}",
            f"  {' ' * len(number)} {paint('|', 'dim')} {' ' * indent}{paint(marks, 'red')}",
        ]


def clean(text: str) -> str:
    """Return a text in which nothing acts on a terminal, and each character takes the place that it is counted as."""
    return text if text.isprintable() else _ACTS.sub("\ufffd", text.replace("\t", "    "))


def cut(text: str, room: int) -> str:
    """Return a text that takes no more columns than there are, "…" at its end where some of it is left out."""
    if columns(text) <= room:
        return text
    used = 0
    for place, character in enumerate(text):
        used += columns(character)
        if used >= room:
            return f"{text[:place]}…"
    return text


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _trace(trace: Trace, paint: Paint) -> str:
    lines = [paint(f"tried on PostgreSQL {trace.server}, without rows:", "bold")]
    lines += [f"  {paint('note:', 'yellow')} {note}" for note in trace.notes]
    for item in trace.statements:
        at = f"  {item.file}:{item.line}:{item.column}:"
        if item.tried.error:
            lines.append(f"{at} {paint('failed', 'red')}: {item.tried.error}")
        elif item.tried.note:
            lines.append(f"{at} not seen: {item.tried.note}")
        elif item.tried.seen:
            lines.append(f"{at} " + ", ".join(_seen(each) for each in item.tried.seen))
    return "\n".join(lines)


def _seen(item: Seen) -> str:
    return f"{item.lock.value or 'no lock'} on {item.table}{', written anew' if item.rewritten else ''}"


def _summary(report: Report, paint: Paint) -> str:
    counts = [
        paint(f"{number} {word}{'s' * (number != 1)}", _STYLES[word])
        for word in ("error", "warning", "info")
        if (number := sum(found.severity.value == word for found in report.findings))
    ]
    files = f"{len(report.files)} file{'s' * (len(report.files) != 1)}"
    broken = f"; {len(report.broken)} of them did not parse" if report.broken else ""
    words = ", ".join(counts) or paint("nothing found", "green")
    return f"{words} in {report.statements} statement{'s' * (report.statements != 1)} of {files}{broken}"
