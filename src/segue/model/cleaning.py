"""What came of taking Segue's objects out of a database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was removed. `schema`: whether Segue's own was there; `dropped`: left-overs of changes that are gone.

    `left`: what looks like a left-over and may hold rows, so that a person has to look at it; a line each.
    """

    schema: bool
    dropped: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
