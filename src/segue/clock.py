"""The only source of time, so that nothing else reads a clock on its own."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


def ticks() -> float:
    """Return seconds of a monotonic clock; only differences mean something."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Wait for this many seconds."""
    time.sleep(max(0.0, seconds))
