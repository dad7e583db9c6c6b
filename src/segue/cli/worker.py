"""Take work that was handed over: executions and copy slots, on any number of machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli import _workers, output
from segue.cli._options import Format, Json, LogFormat
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import UsageError
from segue.model.vocabulary import WorkQueue

if TYPE_CHECKING:
    from segue.store import Store

app = noun(__doc__, example="segue worker")


@app.command()
def worker(
    queue: Annotated[
        list[WorkQueue] | None, typer.Option("--queue", "-q", help="What to take; by default both.", show_default=False)
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", metavar="N", min=1, max=256, help="How much of each at a time.")
    ] = 4,
    name: Annotated[
        str | None, typer.Option("--name", help="By default the host and the process's number.", show_default=False)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is due any more.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the workers there are, and what they do.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="PORT",
            min=0,
            max=65535,
            help="Serve /metrics and /healthz here.",
            show_default=False,
        ),
    ] = None,
    metrics_host: Annotated[str, typer.Option("--metrics-host", help="At which address.")] = "127.0.0.1",
    log_format: LogFormat = Form.TEXT,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Take work that was handed over with `segue run --detach`: executions and copy slots.

    Any number of workers share the work of a store. SIGTERM or Ctrl-C stops one: it takes nothing new, comes to the
    next safe point with what it does, and leaves the rest to the others; a second one stops it at once, which loses
    nothing either.

    Examples:
        segue worker --concurrency 8 --metrics-port 9187
        segue worker --queue slots --log-format json
        segue worker --list
    """
    from segue import settings as loader
    from segue.store import open_store

    settings = loader.load()
    if list_:
        with open_store(settings) as store:
            _show(store)
        return
    if name is not None and not name.strip():
        raise UsageError("the name of a worker must not be empty")

    from contextlib import ExitStack

    from segue import wiring
    from segue.cli import _logs
    from segue.services.workers import Wanted, Worker

    with open_store(settings) as store, ExitStack() as opened:
        wanted = Wanted((name or "").strip(), list(dict.fromkeys(queue or WorkQueue)), concurrency, once)
        found = Worker(store, settings, wiring.parts(), wanted)
        _logs.configure(as_json=log_format is Form.JSON, worker=found.name)
        if metrics_port is not None:
            from segue.services import metrics

            port = opened.enter_context(metrics.served(store, found, metrics_host, metrics_port))
            output.say(f"metrics are at http://{metrics_host}:{port}/metrics")
        found.run()


def _show(store: Store) -> None:
    from segue.services import workers

    with store.session() as session:
        found = workers.listed(session)
    if output.as_json():
        output.document({"workers": found})
        return
    if not found:
        output.say("no worker runs; `segue worker` starts one")
    _workers.show(found)
