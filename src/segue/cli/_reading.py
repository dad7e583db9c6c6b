"""Commands of `segue move` for what is only read elsewhere: copies that follow their home, and reads before writes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from segue.cli import output
from segue.cli._options import Format, Json
from segue.cli._stopping import stopped
from segue.cli.output import Form

Name = Annotated[str, typer.Argument(help="The move's name.", show_default=False)]
LockTimeout = Annotated[str, typer.Option("--lock-timeout", help="How long to try for the tables' locks.")]


def rehome(
    name: Name,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", help="The environment to follow; by itself, where the tables are now.", show_default=False
        ),
    ] = None,
    lock_timeout: LockTimeout = "60s",
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Have a read-only copy follow its tables' new home, once they were moved.

    Until then it follows by way of the old home, which gets what is written to the new one as long as that move has
    its way back; `complete` of that move asks for this. Nothing is copied but what differs. Safe to repeat.

    Example:
        segue move rehome customerreads
    """
    from segue import settings as loader
    from segue import wiring
    from segue.model.quantities import seconds
    from segue.ports import Patience
    from segue.services import mirrors
    from segue.store import open_store

    patience = Patience(seconds(lock_timeout), seconds(lock_timeout))
    settings = loader.load()
    with open_store(settings) as store:
        database = wiring.parts().database
        home, done = mirrors.rehome(store, settings, name, source, database, patience, output.say)
    if output.as_json():
        output.document({"ok": True, "move": name, "home": home, **({} if done is None else asdict(done))})
    else:
        output.say(f"it follows {home} already" if done is None else f"it follows {home}")


def reads(
    name: Name,
    percent: Annotated[int, typer.Argument(min=0, max=100, help="Reads for the target, of a hundred.")],
    max_lag: Annotated[str, typer.Option("--max-lag", help="The furthest that the target may be behind.")] = "1s",
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Let a share of the reads go to the target before the writes do, as long as this command runs.

    The application reads the view segue_routing.moves in the source. Refused (exit 4) while the target is further
    behind than --max-lag; when it falls behind later, all reads go to the source until it has caught up. When the
    command ends, or dies, the share ends too. 0 only makes the view, for an application that routes its writes by it.

    Examples:
        segue move reads orders 5
        segue move reads orders 50 --max-lag 500ms
    """
    from segue import settings as loader
    from segue import wiring
    from segue.model.quantities import seconds
    from segue.services import routing
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store, stopped() as stop:
        database = wiring.parts().database
        why = routing.keep_reads(store, settings, name, percent, seconds(max_lag), database, output.say, stop)
    if output.as_json():
        output.document({"ok": True, "move": name, "ended": why})
    else:
        output.say(why)
