"""What migration tools write into SQL files: which part goes forward, and whether a transaction is around it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from segue.model.values import Value

if TYPE_CHECKING:
    from pathlib import PurePath

_DBMATE = re.compile(r"^--[ \t]*migrate:(up|down)\b([^\n]*)", re.MULTILINE)
_GOOSE = re.compile(r"^--[ \t]*\+goose[ \t]+(up|down|no transaction)\b[^\n]*", re.MULTILINE | re.IGNORECASE)
#: Characters that are made blank at once: the data of a dump may have a million lines.
_BLOCK = 1 << 20
_BACKWARD_NAME = re.compile(r"(\.down|_down|\.undo|\.rollback)\.sql$|^U\d[\w.]*__.*\.sql$|^down\.sql$", re.IGNORECASE)


class Marked(Value):
    """The forward part of a text, the rest blank, and whether its tool runs it in a transaction (None: no marker)."""

    sql: str
    in_transaction: bool | None = None


def forward(text: str) -> Marked:
    """Return the part of a text that goes forward: dbmate's `migrate:up`, goose's `+goose Up`, or all of it."""
    if "migrate:" in text and (found := list(_DBMATE.finditer(text))):
        alone = any(match[1] == "up" and "transaction:false" in match[2].replace(" ", "") for match in found)
        return Marked(_without_down(text, found), not alone)
    if "+goose" in text and (found := list(_GOOSE.finditer(text))):
        alone = any(match[1].lower().startswith("no") for match in found)
        return Marked(_without_down(text, found), not alone)
    return Marked(text)


def backward(path: PurePath) -> bool:
    """Return whether a file, by its name, takes back or checks what others do (sqitch, Flyway, golang-migrate)."""
    return bool(_BACKWARD_NAME.search(path.name)) or bool({"revert", "verify"} & set(path.parts[:-1]))


def blank(text: str, begin: int, end: int) -> str:
    """Return a part of a text as blanks, its lines kept."""
    pieces = (text[at : min(at + _BLOCK, end)].split("\n") for at in range(begin, end, _BLOCK))
    return "".join("\n".join([" " * len(line) for line in lines]) for lines in pieces)


def _without_down(text: str, found: list[re.Match[str]]) -> str:
    pieces, at, down = [], 0, False
    for match in found:
        word = match[1].lower()
        if word not in ("up", "down"):
            continue
        pieces.append(blank(text, at, match.start()) if down else text[at : match.start()])
        at, down = match.start(), word == "down"
    pieces.append(blank(text, at, len(text)) if down else text[at:])
    return "".join(pieces)
