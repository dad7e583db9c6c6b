"""Writes control characters out, so that what others wrote does not act on the terminal that shows it."""

from __future__ import annotations

import re

# Our own colours, and what would act on a terminal or turn the order of letters round.
_ACTS = re.compile(r"\x1b\[(?:0|1|2|31|32|33)m|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def visible(text: str, *, colors: bool = False) -> str:
    """Return a text in which nothing acts but lines' ends and, with `colors`, our own colours.

    What is JSON stays the same JSON.
    """

    def shown(found: re.Match[str]) -> str:
        return found[0] if colors and len(found[0]) > 1 else f"\\u{ord(found[0][0]):04x}{found[0][1:]}"

    return _ACTS.sub(shown, text)
