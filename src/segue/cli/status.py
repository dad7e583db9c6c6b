"""Look at executions, and stop them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import _layout, _standing, _workers, output
from segue.cli._options import Format, Json
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import UsageError

if TYPE_CHECKING:
    from segue.store import Store

COMMANDS = {
    "status": "Show how far an execution is.",
    "logs": "Show what an execution said.",
    "pause": "Stop an execution at its next safe point, to go on later.",
    "cancel": "Stop an execution at its next safe point, for good.",
}

app = noun(__doc__, example="segue status")

Execution = Annotated[
    str | None,
    typer.Argument(help="The execution, or the beginning of its id; by default the latest.", show_default=False),
]


@app.command()
def status(
    execution: Execution = None,
    all_: Annotated[bool, typer.Option("--all", help="List the latest executions and the workers instead.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show it live until its end.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Show how far an execution is: its steps, its rows, its time, who works on it, and what it waits for.

    With --watch it stays until the execution ends: on a terminal a screen that is drawn anew every second, elsewhere a
    line for each change, with --json an object a line for each change. It ends with 0 when the execution is completed
    or rolled back, 2 when it failed, 3 when it was cancelled. Ctrl-C leaves with 130; the execution goes on.

    Examples:
        segue status
        segue status --watch
        segue status --all
    """
    from segue import settings as loader
    from segue.services import watching
    from segue.store import open_store

    if watch and all_:
        raise UsageError("--watch is about one execution", hint="leave out --all, or --watch")
    with open_store(loader.load()) as store:
        if watch:
            from segue.cli import _watch

            return _watch.stay(store, execution)
        if all_:
            _list(store)
            return 0
        with store.session() as session:
            content = watching.describe(session, watching.find(session, execution))
    if output.as_json():
        output.document(content)
    else:
        _standing.show(content)
    return 0


def _list(store: Store) -> None:
    from segue.services import watching, workers

    with store.session() as session:
        content = [watching.describe(session, row) for row in watching.latest(session)]
        found = workers.listed(session)
    if output.as_json():
        output.document({"executions": content, "workers": found})
        return
    if not content:
        output.say("no execution yet; `segue run PLAN --env ENV` starts one")
    else:
        _layout.table(
            ["execution", "plan", "environment", "status", "steps", "started", "seconds", "now"],
            [
                (
                    item["execution"],
                    item["plan"],
                    item["environment"],
                    _standing.status(item),
                    f"{item['steps_completed']}/{item['steps_total']}",
                    f"{item['started_at']:%Y-%m-%d %H:%M:%S}Z" if item["started_at"] else None,
                    item["seconds"],
                    _now(item),
                )
                for item in content
            ],
            spare=["seconds", "started", "steps", "environment"],
        )
    if found:
        output.data()
        _workers.show(found)
    elif any(item["handed_over"] and item["status"] in ("pending", "waiting", "running") for item in content):
        output.say("no worker runs; `segue worker` starts one")


def _now(item: dict[str, Any]) -> str:
    """Return what goes on with an execution, or what it waits for."""
    if item["status"] == "running" and not item["abandoned"]:
        return " by ".join(filter(None, [item["current_step"], item["worker"] or item["driven_by"]]))
    return _standing.waiting(item) or ""


@app.command()
def logs(
    execution: Execution = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the execution stops.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Show what an execution said, oldest line first. With --json one object a line.

    With --follow it goes on until nothing more can come by itself: while a process drives the execution, and while an
    execution that was handed over is not at its end.

    Examples:
        segue logs
        segue logs --follow
    """
    from segue import settings as loader
    from segue.cli import _watch
    from segue.services import watching
    from segue.store import open_store

    with open_store(loader.load()) as store:
        after = 0
        with store.session() as session:
            identity = watching.find(session, execution).id

        def read() -> tuple[list[dict[str, Any]], bool]:
            with store.session() as session:
                row = watching.find(session, identity)
                # In this order: what is written before it ends is in the lines then.
                more = follow and watching.goes_on(row)
                return watching.logs(session, row, after=after), more

        while True:
            lines, more = _watch.patiently(read) if follow else read()
            for line in lines:
                after = line["id"]
                if output.as_json():
                    output.line(line)
                else:
                    step = f"{line['step']}: " if line["step"] else ""
                    level = "" if line["level"] == "info" else f"{line['level'].upper()} "
                    message = line["message"].replace("\n", "\n    ")
                    output.data(f"{line['at']:%Y-%m-%d %H:%M:%S}Z  {level}{step}{message}")
            if not more and not (follow and lines):
                return
            sys.stdout.flush()
            time.sleep(0.5)


@app.command()
def pause(execution: Execution = None, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Stop an execution at its next safe point; `segue resume` goes on.

    Example:
        segue pause
    """
    _ask("pause", execution)


@app.command()
def cancel(execution: Execution = None, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Stop an execution at its next safe point, for good; `segue rollback` takes back what it did.

    Example:
        segue cancel
    """
    _ask("cancel", execution)


def _ask(what: str, execution: str | None) -> None:
    from segue import settings as loader
    from segue.services import executions, watching
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        words = getattr(executions, what)(store, execution, actor=settings.user)
        with store.session() as session:
            content = watching.describe(session, watching.find(session, execution))
    if output.as_json():
        output.document({"ok": True, "said": words, **content})
    else:
        output.say(words)
