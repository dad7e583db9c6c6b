"""Lay text out for the terminal that there is: columns that fit, paragraphs that are broken between words."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from segue.cli import output

#: Longer lines are hard to read, however wide the terminal.
WIDEST = 110
NARROWEST = 40


def room() -> int | None:
    """Return how many columns a line may have; None where nobody looks at lines: a file, a pipe."""
    return max(NARROWEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def paragraph(text: str, *, indent: str = "", first: str | None = None, shown: str | None = None) -> None:
    """Print a text, broken between words; `first` begins its first line, `indent` the others.

    `shown` is `first` with the signs that colour it, which take no room.
    """
    width = min(room() or WIDEST, WIDEST)
    begin = indent if first is None else first
    lines = textwrap.wrap(
        text,
        max(width, len(indent) + NARROWEST // 2),
        initial_indent=begin,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [begin.rstrip()]
    if shown is not None:
        lines[0] = shown + lines[0][len(begin) :]
    for line in lines:
        output.data(line)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, spare: Sequence[str] = ()) -> list[str]:
    """Print a table, without those of the `spare` columns, first to last, for which there is no room; return those."""
    left = list(columns)
    gone: list[str] = []
    cells = [[_text(value) for value in row] for row in rows]
    width = room()
    for name in spare:
        if width is None or _needed(left, columns, cells) <= width:
            break
        left.remove(name)
        gone.append(name)
    places = [list(columns).index(name) for name in left]
    output.table(left, [[row[place] for place in places] for row in rows])
    return gone


def _needed(left: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    places: Mapping[str, int] = {name: at for at, name in enumerate(columns)}
    widths = [max(len(name), *(len(row[places[name]]) for row in cells)) for name in left]
    return sum(widths) + 2 * (len(widths) - 1)


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
