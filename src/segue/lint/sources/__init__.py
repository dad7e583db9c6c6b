"""Where texts come from: files, folders, standard input; what other tools write into them is taken out in place."""

from __future__ import annotations

import codecs
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from segue.errors import InvalidInput
from segue.lint.sources import markers, prisma, psql
from segue.model.values import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.lint.sources.programs import Part

#: How a file that is not UTF-8 is read, where it does not say it itself.
OTHERWISE = "cp1252"
_ENCODING = re.compile(rb"client_encoding\s*(?:=|TO)\s*'?([A-Za-z0-9_-]+)'?", re.IGNORECASE)
_NUMBERS = re.compile(r"(\d+)")


class Source(Value):
    """A text to judge: characters stand where they stand in the file, but what is not SQL is blank."""

    path: str
    text: str  # as it is in the file
    sql: str
    in_transaction: bool | None  # whether its tool runs it in a transaction; None: it does not say
    together: bool = False  # its statements are sent as one message: a transaction, if there are several
    note: str = ""  # how it was read, where that is not plain
    #: Of a program that makes SQL: the text is the program, `parts` say what of it made which SQL.
    program: bool = False
    parts: tuple[Part, ...] = ()
    unanalysed: tuple[tuple[int, str], ...] = ()  # where in the text, and why
    session: tuple[tuple[str, str], ...] = ()  # settings that its sessions begin with
    reported: bool = True  # else it is only what happened before


def gather(paths: Sequence[str], stdin: bytes | None = None) -> list[Source]:
    """Return the texts of files, of folders (in the order in which tools run them) and of "-", standard input.

    Raises InvalidInput for a path that is not there or cannot be read.
    """
    found = []
    for name in paths:
        if name == "-":
            found.append(source("<stdin>", stdin or b""))
            continue
        path = Path(name)
        try:
            if path.is_dir():
                found += [source(str(file), file.read_bytes()) for file in _files(path)]
            else:
                found.append(source(name, path.read_bytes()))
        except OSError as error:
            raise InvalidInput(f'"{name}" cannot be read: {(error.strerror or "unknown error").lower()}') from error
    return found


def source(path: str, raw: bytes) -> Source:
    """Return the text of a file's bytes."""
    text, note = _decoded(raw)
    marked = markers.forward(text)
    sql = psql.without_commands(marked.sql)
    return Source(path, text, sql, marked.in_transaction, prisma.wrote(PurePath(path)), note)


def _files(folder: Path) -> list[Path]:
    """Return the SQL files below a folder that change forward, by number where names have numbers."""
    files = [
        path for path in folder.rglob("*.sql") if path.is_file() and not markers.backward(path.relative_to(folder))
    ]
    return sorted(files, key=lambda path: [_natural(part) for part in path.relative_to(folder).parts])


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _NUMBERS.split(name) if part]


def _decoded(raw: bytes) -> tuple[str, str]:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace"), "read as UTF-16"
    try:
        return raw.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        said = _ENCODING.search(raw)
        encoding = said[1].decode() if said else OTHERWISE
        try:
            codecs.lookup(encoding)
        except LookupError:
            encoding = OTHERWISE
        return raw.decode(encoding, errors="replace"), f"is not UTF-8: read as {encoding}"
