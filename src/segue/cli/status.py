"""Look at executions, and stop them."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from segue.cli import output
from segue.cli.commands import noun
from segue.cli.output import Form, Format, Json

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
    all_: Annotated[bool, typer.Option("--all", help="List the latest executions instead.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Show how far an execution is: its steps, its rows, its time, and what stopped it.

    Examples:
        segue status
        segue status --all
    """
    from segue import settings as loader
    from segue.services import watching
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        if all_:
            content = [watching.describe(session, row) for row in watching.latest(session)]
        else:
            content = [watching.describe(session, watching.find(session, execution))]
    if output.as_json():
        output.document({"executions": content} if all_ else content[0])
        return
    if all_:
        if not content:
            output.say("no execution yet; `segue run PLAN --env ENV` starts one")
        output.table(
            ["execution", "plan", "environment", "status", "steps", "started", "seconds"],
            [
                (
                    item["execution"],
                    item["plan"],
                    item["environment"],
                    _word(item),
                    f"{item['steps_completed']}/{item['steps_total']}",
                    item["started_at"],
                    item["seconds"],
                )
                for item in content
            ],
        )
        return
    _show(content[0])


@app.command()
def logs(
    execution: Execution = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the execution stops.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Show what an execution said, oldest line first. With --json one object a line.

    Examples:
        segue logs
        segue logs --follow
    """
    from segue import settings as loader
    from segue.services import watching
    from segue.store import open_store

    with open_store(loader.load()) as store:
        after = 0
        with store.session() as session:
            identity = watching.find(session, execution).id
        while True:
            with store.session() as session:
                row = watching.find(session, identity)
                running = watching.driven(row)
                lines = watching.logs(session, row, after=after)
            for line in lines:
                after = line["id"]
                if output.as_json():
                    output.line(line)
                else:
                    step = f"{line['step']}: " if line["step"] else ""
                    level = "" if line["level"] == "info" else f"{line['level'].upper()} "
                    output.data(f"{line['at']:%Y-%m-%d %H:%M:%S}Z  {level}{step}{line['message']}")
            if not follow or (not running and not lines):
                return
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


def _word(item: dict[str, Any]) -> str:
    if item["abandoned"]:
        return "interrupted"
    if item["requested"] and item["driven_by"]:
        return f"{item['status']} ({item['requested']} requested)"
    back = item["direction"] == "backward" and item["status"] not in ("rolled-back", "cancelled")
    return f"{item['status']} (rolling back)" if back else str(item["status"])


def _rows(job: dict[str, Any]) -> str:
    """Return how far a job is; without a share while more rows came than the table was estimated to have."""
    from segue.model.quantities import count

    rows = count(job["processed_rows"])
    if job["status"] != "completed" and job["processed_rows"] >= (job["total_rows"] or 0):
        return f"{rows} so far"
    return f"{rows} ({int(job['percent'])} %)"


def _took(seconds: float | None) -> str | None:
    """Return a whole execution's time, which the store keeps in whole seconds."""
    from segue.model.quantities import duration

    if seconds is None:
        return None
    return duration(seconds) if seconds else "under 1 s"


def _kept_out(item: dict[str, Any], metrics: dict[str, Any]) -> str | None:
    """Return since when the application waits behind its fence, or for how long it did."""
    if item["fenced_at"] is not None:
        since, until = (f"{item[name]:%Y-%m-%d %H:%M:%S}Z" for name in ("fenced_at", "fenced_until"))
        return f"kept out since {since}, until {until} at the latest"
    return f"was kept out for {_took(metrics['write_stop_s'])}" if metrics.get("write_stop_s") else None


def _show(item: dict[str, Any]) -> None:
    from segue.model.quantities import duration, size

    metrics = item["metrics"] or {}
    latency = metrics.get("latency_ms") or {}
    output.fields(
        [
            ("plan", item["plan"]),
            ("environment", item["environment"]),
            ("execution", f"{item['execution']} (number {item['number']})"),
            ("status", _word(item)),
            ("application", _kept_out(item, metrics)),
            ("driven by", item["driven_by"]),
            ("started", item["started_at"]),
            ("took", _took(item["seconds"])),
            ("steps", f"{item['steps_completed']} of {item['steps_total']}"),
            ("WAL written", size(metrics["wal_bytes"]) if metrics.get("wal_bytes") else None),
            (
                "lock waits",
                f"{metrics['lock_waits']} ({metrics['lock_wait_ms']} ms)" if metrics.get("lock_waits") else None,
            ),
            ("round trip", f"p50 {latency['p50']} ms, p99 {latency['p99']} ms" if latency else None),
            ("rollback until", item["rollback_until"]),
        ]
    )
    output.data()
    output.table(
        ["#", "step", "kind", "status", "took", "rows"],
        [
            (
                step["number"],
                step["name"],
                step["kind"],
                step["status"],
                duration(step["seconds"]) if step["seconds"] is not None else None,
                _rows(step["job"]) if "job" in step else "",
            )
            for step in item["steps"]
        ],
    )
    if item["error"]:
        output.data()
        output.data(f"stopped: {item['error']['message']}")
        for line in item["error"].get("details", []):
            output.data(f"  {line}")
        if item["error"].get("hint"):
            output.data(f"hint: {item['error']['hint']}")
    elif item["abandoned"]:
        output.data()
        output.data("its process is gone; `segue resume` goes on, `segue rollback` takes it back")
