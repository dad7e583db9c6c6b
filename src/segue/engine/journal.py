"""Names every point at which a process may die with something begun and not yet recorded.

A test that kills a process at each point finds them all here: `point` is called between any two effects that are not
in one transaction. It does nothing else.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("segue.journal")


def point(name: str) -> None:
    """Pass a point between two effects."""
    _log.debug("point %s", name)
