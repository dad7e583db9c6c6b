"""For people: the statement's first lines with a caret, what happens, the lock, the safe form, a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.lint.report import Report, Seen, Trace
    from segue.model.findings import Finding

    Paint = Callable[[str, str], str]

_STYLES = {"error": "red", "warning": "yellow", "info": "dim"}


def render(report: Report, paint: Paint = lambda text, style: text) -> str:
    """Return the report; `paint(text, style)` puts colour on it."""
    blocks = []
    for file in report.files:
        lines = file.text.splitlines() or [""]
        if file.broken is not None:
            at = file.broken
            head = f"{file.path}:{at.line}:{at.column}: {paint('does not parse', 'red')}: {at.message}"
            more = [f"  hint: {at.hint}"] if at.hint else []
            blocks.append("\n".join([head, *_frame(lines, at.line, at.column, paint), *more]))
        blocks += [_finding(found, lines, paint) for found in file.findings]
        for line, column, why in file.unanalysed:
            blocks.append(f"{file.path}:{line}:{column}: {paint('not judged', 'yellow')}: {why}")
    if report.trace is not None:
        blocks.append(_trace(report.trace, paint))
    return "\n\n".join([*blocks, _summary(report, paint)])


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


def _finding(found: Finding, lines: list[str], paint: Paint) -> str:
    severity = paint(found.severity.value, _STYLES[found.severity.value])
    parts = [f"{found.file}:{found.line}:{found.column}: {severity} {paint(found.rule, 'bold')}: {found.message}"]
    parts += _frame(lines, found.line, found.column, paint)
    if found.lock.value:
        on = ", ".join(found.tables)
        parts.append(f"  lock: {found.lock.value} on {on}, blocks {found.lock.blocks}; held: {found.duration.value}")
    if found.safe:
        parts += [f"  {'safe: ' if not at else '      '}{line}" for at, line in enumerate(found.safe.splitlines())]
    return "\n".join(parts)


def _frame(lines: list[str], line: int, column: int, paint: Paint) -> list[str]:
    source = lines[line - 1] if line <= len(lines) else ""
    # A line of a dump may have megabytes.
    left = max(column - 60, 0)
    shown = source[left : left + 120].replace("\t", " ")
    number = str(line)
    return [
        f"  {paint(number + ' |', 'dim')} {shown}",
        f"  {' ' * len(number)} {paint('|', 'dim')} {' ' * (column - 1 - left)}{paint('^', 'red')}",
    ]


def _summary(report: Report, paint: Paint) -> str:
    counts = [
        f"{number} {word}{'s' * (number != 1)}"
        for word in ("error", "warning", "info")
        if (number := sum(found.severity.value == word for found in report.findings))
    ]
    files = f"{len(report.files)} file{'s' * (len(report.files) != 1)}"
    broken = f"; {len(report.broken)} of them did not parse" if report.broken else ""
    words = ", ".join(counts) or paint("nothing found", "green")
    return f"{words} in {report.statements} statements of {files}{broken}"
