"""Pieces of SQL that a plan holds: whether one is an expression and nothing more, and how a name is quoted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import InvalidInput

if TYPE_CHECKING:
    from segue.ports import Database


def is_expression(text: str, database: Database) -> bool:
    """Return whether a text stands for one value, by itself and wherever it is put in parentheses."""
    if text.strip().upper() == "DEFAULT":
        return True
    try:
        # Parsed, never run. The first finds what closes more parentheses than it opens, the second what is a list.
        alone = database.statements(f"SELECT\n{text}")
        database.statements(f"SELECT CAST(\n{text}\nAS text)")
    except InvalidInput:
        return False
    return len(alone) == 1


def quoted(name: str) -> str:
    """Return a name in double quotes."""
    return '"' + name.replace('"', '""') + '"'
