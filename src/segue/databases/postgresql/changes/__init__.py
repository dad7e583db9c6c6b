"""From SQL text to neutral changes: each statement is read once, from its syntax tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from segue.databases.postgresql import grammar
from segue.databases.postgresql.changes import data, domains, objects, session, tables
from segue.databases.postgresql.changes.slices import SLICE, Slice, slices
from segue.errors import SqlSyntaxError
from segue.model import changes as to

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BEFORE = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", re.DOTALL)
#: How a statement begins that writes rows and reads none: the same words name the same table.
_NAME = r'(?:[\w$]+|"[^"]*")'
_ROWS = re.compile(
    rf"INSERT\s+INTO\s+{_NAME}(?:\.{_NAME})?\s*(?:\(\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\)\s*)?"
    r"(?:OVERRIDING\s+\w+\s+VALUE\s+)?VALUES\s*\(",
    re.IGNORECASE,
)
T = TypeVar("T")
#: What reads a statement, by the name that the tree has for its kind.
_READERS = {**tables.READERS, **objects.READERS, **domains.READERS, **data.READERS, **session.READERS}


def read(sql: str) -> list[to.Changed]:
    """Return what each statement of a text does. Raises SqlSyntaxError, with the character, where it does not parse."""
    try:
        if len(sql) <= SLICE:
            return _read(sql, 0)
        return [statement for piece in slices(sql) for statement in _sliced(piece)]
    except SqlSyntaxError as error:
        error.sql = sql
        raise


def comments(sql: str) -> list[tuple[int, str]]:
    """Return the comments of a text that parses, each with the character where it begins."""
    found = []
    for piece in slices(sql) if len(sql) > SLICE else (Slice(sql, 0, ()),):
        if "--" not in piece.text and "/*" not in piece.text:
            continue  # rows, mostly: their tokens are more than their bytes
        raw = piece.text.encode()
        for token in grammar.comments(grammar.tokens(piece.text)):
            begin = piece.begin + len(raw[: token.start].decode())
            found.append((begin, raw[token.start : token.end].decode()))
    return found


def _read(sql: str, base: int) -> list[to.Changed]:
    """Return what the statements of a text do that begins at a character of the whole."""
    tree = grammar.tree(sql)
    found = []
    for item, begin, end in _spans(sql, ((item, item.stmt_location, item.stmt_len) for item in tree.stmts)):
        offset = _first(sql, begin, end)
        found.append(to.Changed(sql[offset:end].rstrip(), base + offset, tuple(changes_of(item.stmt, base + offset))))
    return found


def _sliced(piece: Slice) -> list[to.Changed]:
    """Return what the statements of a slice do; of those that write rows into the same table one after the other, one.

    What such statements say before their rows is the same, letter by letter; all of them parse.
    """
    sql, base = piece.text, piece.begin
    runs: list[tuple[str, int, int, int]] = []  # how they begin ("" if they are no such), where, until where, how many
    for _, begin, end in _spans(sql, ((None, *place) for place in piece.places)):
        offset = _first(sql, begin, end)
        match = _ROWS.match(sql, offset, end)
        head = match[0] if match else ""
        if runs and runs[-1][0] == head:
            _, first, _, number = runs[-1]
            runs[-1] = head, first, end, number + 1
        else:
            runs.append((head, offset, end, 1))
    found: list[to.Changed] = []
    for head, begin, end, number in runs:
        if not head:
            found += _read(sql[begin:end], base + begin)
            continue
        one = _read(f"{head}1)", base + begin)[0]
        found.append(to.Changed(sql[begin:end].rstrip(), one.offset, one.changes, number))
    return found


def _spans(sql: str, items: Iterable[tuple[T, int, int]]) -> Iterator[tuple[T, int, int]]:
    """Yield things with the characters where their statements are, which are given as a byte and a length in bytes."""
    raw = None if sql.isascii() else sql.encode()
    at = byte = 0  # the same place, in characters and in bytes: statements come in the text's order
    for item, location, length in items:
        stop = location + length if length else None
        if raw is None:
            yield item, location, len(sql) if stop is None else stop
            continue
        begin = at + len(raw[byte:location].decode())
        end = begin + len(raw[location:stop].decode())
        at, byte = end, len(raw) if stop is None else stop
        yield item, begin, end


def _first(sql: str, begin: int, end: int) -> int:
    """Return the first character of a statement that is no comment and no space."""
    skipped = _BEFORE.match(sql, begin, end)
    return skipped.end() if skipped else begin


def changes_of(node: Any, offset: int) -> Iterator[to.Change]:
    """Yield what one statement of a syntax tree does; `offset` is where it begins, in characters."""
    kind = node.WhichOneof("node")
    reader = _READERS.get(kind)
    if reader is None:
        yield to.Other(offset=offset, verb=kind.removesuffix("_stmt").replace("_", " ").upper())
    else:
        yield from reader(getattr(node, kind), offset)
