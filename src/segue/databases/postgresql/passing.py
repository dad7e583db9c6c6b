"""Rows passed from one database to another as the bytes the server sends, without looking into them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import psycopg
    from psycopg import sql

    Connection = psycopg.Connection[tuple[Any, ...]]

#: The server sends a row at a time; joined to this many bytes they cost less to pass on.
BLOCK = 128 * 1024

# `plain`: its binary form says the same in every database. Values of domains, composites and extensions go as text:
# what is within them may be numbers of this database.
PLAIN = """
e.typtype = 'e' or e.typnamespace = 'pg_catalog'::regnamespace and e.typtype in ('b', 'r', 'm')
    and e.typname <> all (%(numbered)s)
"""
#: Their binary form is a number that means something else in another database.
NUMBERED = (
    *("regclass", "regproc", "regprocedure", "regoper", "regoperator", "regtype", "regrole", "regnamespace"),
    *("regconfig", "regdictionary", "regcollation", "oid", "oidvector"),
)


def pass_through(
    source: Connection,
    copy_out: sql.Composed,
    target: Connection,
    copy_in: sql.Composed,
    *,
    reading: Callable[[], AbstractContextManager[object]] = nullcontext,
    writing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> int:
    """Copy what `COPY … TO STDOUT` of one session gives into `COPY … FROM STDIN` of another; return the rows.

    Both statements have the same format, binary unless a column's values mean something else in another database
    (see PLAIN). The caller owns both transactions; after an error neither is of any more use. `reading` and `writing`
    are entered around what the source and the target do, to tell whose error it is. Raises the driver's errors.
    """
    cursor = target.cursor()
    with source.cursor().copy(copy_out) as out, writing(), cursor.copy(copy_in) as into:
        for block in blocks(out, reading):
            into.write(block)
    return cursor.rowcount


def blocks(out: psycopg.Copy, reading: Callable[[], AbstractContextManager[object]] = nullcontext) -> Iterator[bytes]:
    """Yield what comes of a COPY in pieces that cost less to pass on than rows; `reading` is entered around it."""
    held: list[bytes] = []
    size = 0
    with reading():
        for piece in out:
            held.append(bytes(piece))
            size += len(piece)
            if size >= BLOCK:
                yield b"".join(held)
                held, size = [], 0
        yield b"".join(held)
