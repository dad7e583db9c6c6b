"""From SQL text to neutral changes: each statement is read once, from its syntax tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import parse
from segue.databases.postgresql.changes import data, domains, objects, session, tables
from segue.errors import SqlSyntaxError
from segue.model import changes as to

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEFORE = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", re.DOTALL)
#: What reads a statement, by the name that the tree has for its kind.
_READERS = {**tables.READERS, **objects.READERS, **domains.READERS, **data.READERS, **session.READERS}


def read(sql: str) -> list[to.Changed]:
    """Return what each statement of a text does. Raises SqlSyntaxError, with the character, where it does not parse."""
    try:
        tree = parse.tree(sql)
    except SqlSyntaxError as error:
        error.sql = sql
        raise
    raw = None if sql.isascii() else sql.encode()
    found = []
    at = byte = 0  # the same place, in characters and in bytes: statements come in the text's order
    for item in tree.stmts:
        stop = item.stmt_location + item.stmt_len if item.stmt_len else None
        if raw is None:
            begin, end = item.stmt_location, stop
        else:
            begin = at + len(raw[byte : item.stmt_location].decode())
            words = raw[item.stmt_location : stop].decode()
            end = begin + len(words)
            at, byte = end, stop or len(raw)
        skipped = _BEFORE.match(sql, begin, len(sql) if end is None else end)
        offset = skipped.end() if skipped else begin
        first = item.stmt_location + len(sql[begin:offset].encode())
        what = tuple(changes_of(item.stmt, offset))
        found.append(to.Changed(sql[offset:end].rstrip(), offset, what, (item.stmt, first)))
    return found


def comments(sql: str) -> list[tuple[int, str]]:
    """Return the comments of a text that parses, each with the character where it begins."""
    from postgast import pg_query_pb2 as pb
    from postgast import scan

    raw = sql.encode()
    return [
        (len(raw[: token.start].decode()), raw[token.start : token.end].decode())
        for token in scan(sql).tokens
        if token.token in (pb.SQL_COMMENT, pb.C_COMMENT)
    ]


def changes_of(node: Any, offset: int) -> Iterator[to.Change]:
    """Yield what one statement of a syntax tree does; `offset` is where it begins, in characters."""
    kind = node.WhichOneof("node")
    reader = _READERS.get(kind)
    if reader is None:
        yield to.Other(offset=offset, verb=kind.removesuffix("_stmt").replace("_", " ").upper())
    else:
        yield from reader(getattr(node, kind), offset)
