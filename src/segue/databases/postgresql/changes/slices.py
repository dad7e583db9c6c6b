"""Long texts, a slice of whole statements at a time, so that no tree is larger than a slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from segue.databases.postgresql import grammar
from segue.errors import SqlSyntaxError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Characters that are read at once.
SLICE = 1 << 19


class Slice(NamedTuple):
    """Whole statements: their text, where it begins, and where in it each of them is and how long, in bytes."""

    text: str
    begin: int
    places: Sequence[tuple[int, int]]


def slices(sql: str) -> Iterator[Slice]:
    """Yield the slices of a text. Raises SqlSyntaxError, with the character of the whole, where it does not parse.

    It is cut behind a semicolon at the end of a line. Where that stands in a string, a comment or a body, what is
    before it does not parse, and the slice grows.
    """
    begin, size = 0, SLICE
    while begin < len(sql):
        end = len(sql)
        if begin + size < end:
            end = max(sql.rfind(mark, begin, begin + size) for mark in (";\n", ";\r\n")) + 1
        places = _places(sql[begin:end], begin, whole=end == len(sql)) if end else None
        if places is None:
            size *= 2
            continue
        yield Slice(sql[begin:end], begin, places)
        begin, size = end, SLICE


def _places(text: str, begin: int, *, whole: bool) -> list[tuple[int, int]] | None:
    """Return where the statements of a text are, None if it ends in the middle of one."""
    try:
        return grammar.places(text, grammar.encoded(text))
    except SqlSyntaxError as error:
        if not whole:
            return None
        error.offset += begin
        raise
