"""What a database does for events that one service writes for others to hear of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.model.outbox import OutboxStanding, Relayed, Subscription

    Note = Callable[[str], None]


class Outbox(Protocol):
    """The two halves of an outbox in one database: what it publishes, and what it has received."""

    def create(self, publishers: Sequence[str]) -> bool:
        """Make the publishing half, usable by these roles; return False where it was there."""
        ...

    def standing(self) -> OutboxStanding:
        """Say how it stands."""
        ...

    def retry(self, consumer: str) -> Relayed:
        """Give parked events to the handler again, in order; what fails stays."""
        ...

    def discard(self, consumer: str, event: int) -> None:
        """Leave a parked event out for good; those behind it stay until they are retried."""
        ...

    def drop(self) -> None:
        """Remove both halves. Raises Blocked while there are consumers."""
        ...


class Relay(Protocol):
    """Brings one consumer what another database publishes."""

    def subscribe(self, subscription: Subscription, *, now: bool) -> bool:
        """Begin; with `now`, only what is written from now on. Return False where it was so already."""
        ...

    def unsubscribe(self, name: str) -> None:
        """End; parked events are lost."""
        ...

    def run(self, name: str, *, batch: int, keep: float, follow: float | None, stop: Callable[[], bool]) -> Relayed:
        """Bring what is there, and with `follow` go on, looking every so many seconds, until `stop` says so.

        Received events stay at the source for `keep` seconds.
        """
        ...
