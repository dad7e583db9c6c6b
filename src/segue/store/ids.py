"""The ids of stored records: cuid2 strings, made here and not by the server."""

from __future__ import annotations

from cuid2 import create_id


def new_id() -> str:
    """Return a new id: 24 lower-case letters and digits, the first a letter, not guessable from another one."""
    return str(create_id())
