"""Let services hear of each other's writes: events in a table of one database, relayed to others in order, once."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import output
from segue.cli._options import Format, Json, Yes
from segue.cli._stopping import stopped
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode
from segue.model.quantities import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.services.outbox import Outboxes

app = noun(__doc__, example="segue outbox relay stock --from orders-db --to catalogue-db --follow")

Environment = Annotated[str, typer.Option("--env", "-e", help="The environment.", show_default=False)]
Consumer = Annotated[str, typer.Argument(help="The consumer's name.", show_default=False)]
Source = Annotated[str, typer.Option("--from", help="The environment that publishes.", show_default=False)]
Target = Annotated[str, typer.Option("--to", help="The environment that receives.", show_default=False)]


@app.command()
def create(
    environment: Environment,
    grant: Annotated[
        list[str] | None, typer.Option("--grant", help="A role that may publish; repeatable.", show_default=False)
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Make an outbox in a database. The application then publishes in its own transactions.

    `SELECT segue_outbox.publish(topic, key, payload)` writes an event: it is told when the transaction is committed,
    and not at all when it is rolled back. Events of one key reach each consumer in the order they were written.

    Example:
        segue outbox create --env orders-db --grant shop
    """
    with _outboxes() as outboxes:
        new = outboxes.create(environment, grant or [])
    if output.as_json():
        output.document({"ok": True, "environment": environment, "created": new})
    else:
        output.say("created: segue_outbox.publish(topic, key, payload) writes an event" if new else "it is there")


@app.command()
def subscribe(
    name: Consumer,
    source: Source,
    target: Target,
    topic: Annotated[list[str], typer.Option("--topic", "-t", help="A topic; repeatable.", show_default=False)],
    handler: Annotated[
        str | None,
        typer.Option(
            "--handler",
            help="A function (bigint, text, text, jsonb) there that is given each event's id, topic, key and payload; "
            "without one they come to segue_outbox.inbox.",
            show_default=False,
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--from-now", help="Only what is written from now on.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Let a consumer receive topics of another database. Their events are kept until it has them.

    Example:
        segue outbox subscribe stock --from orders-db --to catalogue-db --topic order.placed --handler app.reserve
    """
    from segue.model.outbox import Subscription

    with _outboxes() as outboxes:
        new = outboxes.subscribe(Subscription(name, tuple(topic), handler), source, target, now=now)
    if output.as_json():
        output.document({"ok": True, "consumer": name, "created": new})
    else:
        output.say(f"subscribed; `segue outbox relay {name}` brings the events" if new else "it is so already")


@app.command()
def relay(
    name: Consumer,
    source: Source,
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until SIGTERM or Ctrl-C.")] = False,
    poll: Annotated[str, typer.Option("--poll", help="With --follow: how often to look when nothing came.")] = "200ms",
    batch: Annotated[int, typer.Option("--batch", min=1, max=100_000, help="Events in one transaction.")] = 1000,
    keep: Annotated[str, typer.Option("--keep", help="How long received events stay at the source.")] = "7d",
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Bring a consumer its events: each once, those of one key in order.

    The position is written in the transaction that hands the events over, so it may be killed at any moment. An event
    that the handler refuses is parked, and so are later ones of its key; others go on. Exit 1 when some are parked.

    Examples:
        segue outbox relay stock --from orders-db --to catalogue-db
        segue outbox relay stock --from orders-db --to catalogue-db --follow --poll 1s
    """
    from segue.model.quantities import seconds

    interval, kept = seconds(poll), seconds(keep)
    with _outboxes() as outboxes, stopped() as stop:
        done = outboxes.relay(
            name,
            source,
            target,
            batch=batch,
            keep=kept,
            follow=interval if follow else None,
            stop=stop,
            note=output.say,
        )
    return _brought(name, done.received, done.parked, done.seconds, "received")


@app.command()
def status(environment: Environment, format_: Format = Form.TEXT, json_: Json = False) -> int:
    """Show who receives what a database publishes, how far each is, and what is parked there.

    Exit 1 when events are parked.

    Example:
        segue outbox status --env orders-db
    """
    with _outboxes() as outboxes:
        found = outboxes.standing(environment)
    if output.as_json():
        output.document({"ok": not found.parked, "environment": environment, **asdict(found)})
    else:
        output.fields([("events kept", found.events), ("parked here", len(found.parked))])
        output.table(
            ("consumer", "topics", "waiting", "oldest", "confirmed"),
            [
                (c.name, ", ".join(c.topics), c.waiting, _ago(c.oldest_seconds), _ago(c.confirmed_seconds))
                for c in found.consumers
            ],
        )
        output.table(
            ("consumer", "event", "topic", "key", "tries", "why"),
            [(p.consumer, p.id, p.topic, p.key, p.tries, p.error or "behind another one") for p in found.parked],
        )
    return ExitCode.FINDINGS if found.parked else ExitCode.DONE


@app.command()
def retry(name: Consumer, target: Target, format_: Format = Form.TEXT, json_: Json = False) -> int:
    """Give a consumer's parked events to its handler again, those of one key in order.

    Example:
        segue outbox retry stock --to catalogue-db
    """
    with _outboxes() as outboxes:
        done = outboxes.retry(name, target)
    return _brought(name, done.received, done.parked, done.seconds, "handled")


@app.command()
def discard(
    name: Consumer,
    target: Target,
    event: Annotated[int, typer.Option("--event", help="The event's number, as in status.", show_default=False)],
    yes: Yes = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Leave a parked event out for good. Those behind it are handled by the next `retry`.

    Example:
        segue outbox discard stock --to catalogue-db --event 4711 --yes
    """
    output.ask(f"Leave event {event} out for good?", yes=yes, refuse="nobody is here to confirm")
    with _outboxes() as outboxes:
        outboxes.discard(name, target, event)
    if output.as_json():
        output.document({"ok": True, "consumer": name, "discarded": event})
    else:
        output.say(f"left out; `segue outbox retry {name} --to {target}` goes on with those behind it")


@app.command()
def unsubscribe(
    name: Consumer, source: Source, target: Target, yes: Yes = False, format_: Format = Form.TEXT, json_: Json = False
) -> None:
    """End a subscription. What waits for the consumer, is parked or lies in its inbox is lost to it.

    Example:
        segue outbox unsubscribe stock --from orders-db --to catalogue-db --yes
    """
    output.ask(f"End {name}? It receives nothing more.", yes=yes, refuse="nobody is here to confirm")
    with _outboxes() as outboxes:
        outboxes.unsubscribe(name, source, target)
    if output.as_json():
        output.document({"ok": True, "consumer": name, "status": "ended"})
    else:
        output.say("ended")


@app.command()
def drop(environment: Environment, yes: Yes = False, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Remove outbox and inbox from a database; refused while anybody is subscribed.

    Example:
        segue outbox drop --env orders-db --yes
    """
    output.ask("Remove the outbox with its events?", yes=yes, refuse="nobody is here to confirm")
    with _outboxes() as outboxes:
        outboxes.drop(environment)
    if output.as_json():
        output.document({"ok": True, "environment": environment, "status": "dropped"})
    else:
        output.say("removed")


def _brought(name: str, count: int, parked: int, seconds: float, verb: str) -> int:
    if output.as_json():
        output.document({"ok": not parked, "consumer": name, verb: count, "parked": parked, "seconds": seconds})
    else:
        held = f"; {parked} parked: `segue outbox status` says why" if parked else ""
        output.say(f"{count} {verb} in {duration(seconds)}{held}")
    return ExitCode.FINDINGS if parked else ExitCode.DONE


def _ago(seconds: float | None) -> Any:
    return "" if seconds is None else f"{duration(seconds)} ago"


@contextmanager
def _outboxes() -> Iterator[Outboxes]:
    from segue import settings as loader
    from segue import wiring
    from segue.services.outbox import Outboxes
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        yield Outboxes(store, settings, wiring.parts().database)
