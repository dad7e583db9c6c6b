"""Write the rows of a table, transformed, into another one, and settle what could not be written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import _job_making, _job_rows, _layout, output
from segue.cli._job_rows import settle
from segue.cli._job_words import Job, Name, Where
from segue.cli._options import Format, Json, LogFormat
from segue.cli._running import AcceptDrift, At, Detach, OutsideWindow, Wait, options_of, work_on
from segue.cli._throttle import LatencyBudget, LatencyProbe, LatencyUrl, checked_limits
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode
from segue.model.quantities import count, duration

if TYPE_CHECKING:
    from segue.services.beginnings import Outcome

app = noun(__doc__, example="segue job create orders-to-sales --from orders --to sales")

Environment = Annotated[str, typer.Option("--env", "-e", help="The environment.", show_default=False)]

app.command()(_job_making.create)


@app.command()
def start(
    name: Name,
    environment: Environment,
    accept_drift: AcceptDrift = False,
    detach: Detach = False,
    wait: Wait = False,
    at: At = None,
    outside_window: OutsideWindow = None,
    latency_budget: LatencyBudget = None,
    latency_probe: LatencyProbe = None,
    latency_url: LatencyUrl = None,
    log_format: LogFormat = Form.TEXT,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Run a job, or go on where it stopped. `segue rollback` takes its rows out again.

    Safe to repeat at any time: no row is written twice.

    Examples:
        segue job start orders-to-sales --env staging
        segue job start orders-to-sales --env production --detach --latency-budget p95=20ms
    """
    limits = {"latency_budget": latency_budget, "latency_probe": latency_probe, "latency_url": latency_url}
    options = options_of(False, accept_drift, None, at=at, outside_window=outside_window, tuning=checked_limits(limits))

    def work(store: Any, settings: Any, parts: Any, watch: Any) -> Outcome:
        from segue.services import jobs

        return jobs.start(store, settings, parts, name, environment, options, watch, detach=detach)

    work_on(work, already="is completed already; nothing to do", detach=detach, wait=wait)


@app.command()
def pause(job: Job = None, environment: Where = None, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Ask a job to stop after its running batches.

    Example:
        segue job pause orders-to-sales
    """
    _ask("pause", job, environment)


@app.command()
def cancel(job: Job = None, environment: Where = None, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Ask a job to stop for good. What it has written stays until `segue rollback`.

    Example:
        segue job cancel orders-to-sales
    """
    _ask("cancel", job, environment)


@app.command()
def resume(
    job: Job = None,
    environment: Where = None,
    accept_drift: AcceptDrift = False,
    detach: Detach = False,
    wait: Wait = False,
    log_format: LogFormat = Form.TEXT,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Go on with a job that was paused, failed, or lost its process.

    Example:
        segue job resume orders-to-sales
    """
    _resume(job, environment, accept_drift=accept_drift, detach=detach, wait=wait)


@app.command()
def retry(
    job: Job = None,
    environment: Where = None,
    accept_drift: AcceptDrift = False,
    detach: Detach = False,
    wait: Wait = False,
    log_format: LogFormat = Form.TEXT,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Try again what failed: a failed job goes on; of a completed one, every rejected row is tried once more.

    It ends with 1 when rows are left that cannot be written.

    Example:
        segue job retry orders-to-sales
    """
    from segue import settings as loader
    from segue.services import jobs
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        over = jobs.completed(session, job, environment)
    if not over:
        _resume(job, environment, accept_drift=accept_drift, detach=detach, wait=wait)
        return ExitCode.DONE
    return settle(job, [], jobs.Decision("retry"), environment)


@app.command("list")
def list_(
    environment: Annotated[
        str | None, typer.Option("--env", "-e", help="Only those of an environment.", show_default=False)
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """List the jobs, newest first: data jobs, and the backfills of plans.

    Example:
        segue job list --env production
    """
    from segue import settings as loader
    from segue.services import jobs
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        rows = jobs.listed(session, environment=environment)
    if output.as_json():
        output.document({"jobs": rows})
        return
    if not rows:
        output.say("no job yet; `segue job create NAME --from TABLE --to TABLE` makes one")
        return
    _layout.table(
        ["plan", "environment", "kind", "from", "to", "status", "%", "rows", "failed", "started", "execution"],
        [
            (
                one["plan"],
                one.get("environment"),
                one["kind"],
                one["source"],
                one["target"],
                one["status"],
                int(one.get("percent") or 0),
                one.get("successful_rows"),
                one.get("failed_rows"),
                one.get("started_at"),
                one.get("execution"),
            )
            for one in rows
        ],
        spare=["started", "kind", "execution", "environment"],
    )


@app.command()
def show(job: Job = None, environment: Where = None, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Show a job: how far it is, how fast, what it counted, and what is set for it.

    Example:
        segue job show orders-to-sales
    """
    from segue import settings as loader
    from segue.services import jobs
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        content = jobs.describe(session, jobs.find(session, job, environment))
    if output.as_json():
        output.document(content)
        return
    rate, average = content["rows_per_second"], content["average_batch_ms"]
    output.fields(
        [
            ("job", content["job"]),
            ("kind", content["kind"]),
            ("from", content["source"]),
            ("to", content["target"]),
            ("set", (content["transformation"] or "").partition("\n")[0] or None),
            ("where", content["filter"]),
            ("execution", f"{content['execution']} ({content['execution_status']} in {content['environment']})"),
            ("status", f"{content['status']} ({content['percent']:.1f} %)"),
            ("stopped", (content["error"] or {}).get("message")),
            ("rows processed", count(content["processed_rows"])),
            ("written", count(content["successful_rows"])),
            ("failed", count(content["failed_rows"])),
            ("skipped", count(content["skipped_rows"])),
            ("rate", f"{count(rate)} rows/s" if rate else None),
            ("average batch", duration(average / 1000) if average else None),
            ("workers", content["workers"]),
            ("retry", f"{content['retry']} of {content['max_retries']}" if content["retry"] else None),
            ("started", content["started_at"]),
            ("paused", content["paused_at"]),
            ("expected end", content["estimated_completion"]),
            ("ended", content["completed_at"]),
        ]
    )
    if content["failed_rows"]:
        output.data(f"next: `segue job errors {content['plan']}` lists the rows that could not be written")


app.command()(_job_rows.errors)
app.command()(_job_rows.resolve)

# -- parts


def _ask(how: str, job: str | None, environment: str | None) -> None:
    from segue import settings as loader
    from segue.services import executions, jobs
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        with store.session() as session:
            execution = jobs.execution_of(session, job, environment)
        act = executions.pause if how == "pause" else executions.cancel
        said = act(store, execution, actor=settings.user)
    if output.as_json():
        output.document({"ok": True, "execution": execution, "message": said})
    else:
        output.say(said)


def _resume(job: str | None, environment: str | None, *, accept_drift: bool, detach: bool, wait: bool) -> None:
    options = options_of(True, accept_drift, None)

    def work(store: Any, settings: Any, parts: Any, watch: Any) -> Outcome:
        from segue.services import jobs

        return jobs.resume(store, settings, parts, job, options, watch, environment=environment, detach=detach)

    work_on(work, already="has nothing left to do", detach=detach, wait=wait)
