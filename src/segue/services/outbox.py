"""Events that one service's database publishes for others: made, subscribed to, relayed, ended; all in the ledger."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from segue.errors import InvalidInput, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.model.outbox import OutboxStanding, Relayed, Subscription
    from segue.ports.outbox import Outbox, Relay
    from segue.settings import Settings
    from segue.store import Store

#: The ledger's subject; its id is the environment's or the consumer's name.
SUBJECT = "outbox"

_NAME = r"[a-z0-9][a-z0-9_-]{0,62}"
_TOPIC = r"[a-z0-9][a-z0-9._-]{0,62}"


class Publishing(Protocol):
    """The part of a database that an outbox needs."""

    def outbox(self, url: str) -> Outbox:
        """Take up the outbox of a database."""
        ...

    def relay(self, source: str, target: str, note: Callable[[str], None]) -> Relay:
        """Take up what goes from one database to another."""
        ...


class Outboxes:
    """What a person can ask of outboxes, by the names of environments."""

    def __init__(self, store: Store, settings: Settings, database: Callable[[str], Publishing]) -> None:
        self._store = store
        self._settings = settings
        self._database = database

    def create(self, environment: str, publishers: Sequence[str]) -> bool:
        """Make the publishing half; return False where it was there."""
        new = self._outbox(environment).create(publishers)
        if new or publishers:
            self._record("created" if new else "granted", environment, {"publishers": list(publishers)})
        return new

    def subscribe(self, subscription: Subscription, source: str, target: str, *, now: bool) -> bool:
        """Let a consumer receive topics. Raises InvalidInput for bad names."""
        _check(subscription)
        if source == target:
            raise UsageError("source and target are the same environment", hint="name two with --from and --to")
        new = self._relay(source, target).subscribe(subscription, now=now)
        if new:
            detail = {"source": source, "target": target, "topics": list(subscription.topics)}
            self._record("subscribed", subscription.name, {**detail, "handler": subscription.handler})
        return new

    def unsubscribe(self, name: str, source: str, target: str) -> None:
        """End a subscription, with what is parked of it."""
        self._relay(source, target).unsubscribe(name)
        self._record("unsubscribed", name, {"source": source, "target": target})

    def relay(
        self,
        name: str,
        source: str,
        target: str,
        *,
        batch: int,
        keep: float,
        follow: float | None,
        stop: Callable[[], bool],
        note: Callable[[str], None],
    ) -> Relayed:
        """Bring a consumer what is there, or go on."""
        return self._relay(source, target, note).run(name, batch=batch, keep=keep, follow=follow, stop=stop)

    def standing(self, environment: str) -> OutboxStanding:
        """Say how an environment's outbox and inbox stand."""
        return self._outbox(environment).standing()

    def retry(self, name: str, target: str) -> Relayed:
        """Give parked events to the handler again."""
        done = self._outbox(target).retry(name)
        self._record("retried", name, {"target": target, "handled": done.received, "parked": done.parked})
        return done

    def discard(self, name: str, target: str, event: int) -> None:
        """Leave a parked event out for good."""
        self._outbox(target).discard(name, event)
        self._record("discarded", name, {"target": target, "event": event})

    def drop(self, environment: str) -> None:
        """Remove both halves."""
        self._outbox(environment).drop()
        self._record("dropped", environment, {})

    def _outbox(self, environment: str) -> Outbox:
        url = self._url(environment)
        return self._database(url).outbox(url)

    def _relay(self, source: str, target: str, note: Callable[[str], None] = lambda _: None) -> Relay:
        url = self._url(source)
        return self._database(url).relay(url, self._url(target), note)

    def _url(self, environment: str) -> str:
        from segue.services import environments

        with self._store.session() as session:
            return environments.resolve(session, self._settings, environment)[1]

    def _record(self, action: str, subject: str, detail: dict[str, Any]) -> None:
        from segue.store import ledger

        with self._store.session() as session:
            ledger.append(
                session, actor=self._settings.user, action=action, subject=SUBJECT, subject_id=subject, detail=detail
            )


def _check(subscription: Subscription) -> None:
    if not re.fullmatch(_NAME, subscription.name):
        raise InvalidInput(
            f'"{subscription.name}" cannot name a consumer',
            hint="use at most 63 lower-case letters, digits, hyphens and underscores",
        )
    if not subscription.topics:
        raise UsageError("no topic is named", hint="name each with --topic")
    for topic in subscription.topics:
        if not re.fullmatch(_TOPIC, topic):
            raise InvalidInput(
                f'"{topic}" cannot be a topic',
                hint="use at most 63 lower-case letters, digits, dots, hyphens and underscores",
            )
