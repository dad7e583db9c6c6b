"""How an application's fence stands: refused writes while a plan changes what the application writes to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


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
