"""Events that one service writes for others to hear of: who hears them, and how far each is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer: which topics it wants, and the function that is given each event; None: they come to the inbox."""

    name: str
    topics: tuple[str, ...]
    handler: str | None = None


@dataclass(frozen=True, slots=True)
class Relayed:
    """What was brought to a consumer. `parked`: events that its handler refused, and those that wait behind them."""

    received: int
    parked: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ConsumerStanding:
    """How far a consumer is: events that wait for it, at most `WAITING_MOST` counted, and the oldest one's age."""

    name: str
    topics: tuple[str, ...]
    waiting: int
    oldest_seconds: float | None
    confirmed_seconds: float | None


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that could not be handled, with why; None: it waits behind another one of its key."""

    consumer: str
    id: int
    topic: str
    key: str
    error: str | None
    tries: int


@dataclass(frozen=True, slots=True)
class OutboxStanding:
    """An outbox and inbox of one database: events kept, who waits for them, and what is parked here."""

    events: int
    consumers: tuple[ConsumerStanding, ...]
    parked: tuple[ParkedEvent, ...]


#: As far as waiting events are counted.
WAITING_MOST = 100_000
