"""How an application's fence stands: refused writes while a plan changes what the application writes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from segue.errors import Blocked


@dataclass(frozen=True, slots=True)
class Downtime:
    """How long an application may be kept out of a target, in seconds, and how.

    By triggers on `tables` (None: all of the plan's schema), or by commands of the user's own: `close` and `open`,
    each with `timeout` seconds. `lock_timeout`: how long to wait for the application's transactions that have begun.
    """

    seconds: float
    tables: Sequence[str] | None = None
    close: Sequence[str] = ()
    open: Sequence[str] = ()
    timeout: float = 60.0
    lock_timeout: float = 60.0

    @property
    def by_command(self) -> bool:
        """Return whether commands of the user's keep the application out."""
        return bool(self.close)


@dataclass(frozen=True, slots=True)
class FenceState:
    """What a target says of the fence: whose it is, and since when and until when the application's writes wait.

    `state`: armed (ready to close), closing (a command was begun), closed, open. Seconds by the target's clock: `left`
    until the time is over, `since` it was closed, `stopped` from closed to open.
    """

    execution: str
    direction: str
    state: str
    closed_at: datetime | None = None
    until: datetime | None = None
    opened_at: datetime | None = None
    left: float | None = None
    since: float | None = None
    stopped: float | None = None

    @property
    def shut(self) -> bool:
        """Return whether the application is kept out, or may be."""
        return self.state in ("closing", "closed")

    def standing(self) -> Blocked:
        """Return the error that says whose fence stands in the way."""
        way = "rollback" if self.direction == "backward" else "resume"
        if self.shut:
            since = f" since {self.closed_at:%Y-%m-%d %H:%M:%S} UTC" if self.closed_at else ""
            words = f"the application is fenced off{since} by execution {self.execution}"
        else:
            words = f"execution {self.execution} was about to fence the application off, and has not ended"
        return Blocked(words, hint=f"`segue {way} {self.execution}` goes on with it, and lets the application in")
