"""Markdown, for a comment on a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.lint.report import Report


def render(report: Report) -> str:
    """Return a table of the findings, and the safe forms below it."""
    found = report.findings
    lines = [f"**segue lint**: {len(found)} finding{'s' * (len(found) != 1)} in {report.statements} statements"]
    lines += [f"- `{path}:{at.line}:{at.column}` does not parse: {_cell(at.message)}" for path, at in report.broken]
    lines += [
        f"- `{file.path}:{line}:{column}` is not judged: {_cell(why)}"
        for file in report.files
        for line, column, why in file.unanalysed
    ]
    if found:
        lines += ["", "| | Where | Rule | What happens | Lock | Held |", "| --- | --- | --- | --- | --- | --- |"]
    for item in found:
        lock = f"{item.lock.value} (blocks {item.lock.blocks})" if item.lock.value else ""
        cells = (item.severity.value, f"`{item.file}:{item.line}`", f"`{item.rule}`", item.message, lock)
        lines.append("| " + " | ".join(map(_cell, (*cells, item.duration.value))) + " |")
    for item in found:
        if item.safe:
            # A fence longer than any in the text.
            fence = "`" * max(3, item.safe.count("`") + 1)
            lines += ["", f"`{item.file}:{item.line}`, instead:", f"{fence}sql", item.safe, fence]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
