"""Write the rows of a table, transformed, into another one, and settle what could not be written."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import _layout, output
from segue.cli._options import Format, Json, LogFormat
from segue.cli._running import AcceptDrift, At, Detach, OutsideWindow, Wait, options_of, work_on
from segue.cli._throttle import LatencyBudget, LatencyProbe, LatencyUrl, checked_limits
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode, InvalidInput, UsageError
from segue.model.quantities import count, duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.services.beginnings import Outcome

app = noun(__doc__, example="segue job create orders-to-sales --from orders --to sales")

Name = Annotated[str, typer.Argument(help="The job's name.", show_default=False)]
Job = Annotated[
    str | None,
    typer.Argument(help="The job, its execution, or the beginning of that; by default the latest.", show_default=False),
]
Environment = Annotated[str, typer.Option("--env", "-e", help="The environment.", show_default=False)]
Where = Annotated[
    str | None,
    typer.Option("--env", "-e", help="The environment; needed where it ran in several.", show_default=False),
]
Errors = Annotated[
    list[str] | None,
    typer.Argument(
        help="Rows, by their error's id or their key (values with commas between them).", show_default=False
    ),
]


class Conflict(StrEnum):
    """What becomes of a row whose key is there."""

    FAIL = "fail"
    SKIP = "skip"
    UPDATE = "update"


class Reverse(StrEnum):
    """What a rollback does."""

    DELETE = "delete"
    NOTHING = "nothing"


@app.command()
def create(
    name: Name,
    source: Annotated[str, typer.Option("--from", help="The table that is read.", show_default=False)],
    target: Annotated[str, typer.Option("--to", help="The table that is written.", show_default=False)],
    source_env: Annotated[
        str | None,
        typer.Option(
            "--from-env", help="The environment that the source is in.", show_default="the one that the job runs on"
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="COLUMN=EXPRESSION in SQL; repeatable. Others keep their name.", show_default=False),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="A column to fill; repeatable.", show_default=False)
    ] = None,
    where: Annotated[str | None, typer.Option("--where", help="Which rows; SQL.", show_default=False)] = None,
    lookups: Annotated[
        list[str] | None,
        typer.Option("--lookup", help='"ALIAS=TABLE ON COLUMN = EXPRESSION"; repeatable.', show_default=False),
    ] = None,
    checks: Annotated[
        list[str] | None,
        typer.Option("--check", help="NAME=CONDITION that each row must fulfil; repeatable.", show_default=False),
    ] = None,
    on_conflict: Annotated[
        Conflict, typer.Option("--on-conflict", help="What becomes of a row whose key is there.")
    ] = Conflict.FAIL,
    conflict: Annotated[
        list[str] | None,
        typer.Option("--conflict", help="A column of that key; repeatable.", show_default="the primary key's"),
    ] = None,
    continue_on_error: Annotated[
        bool, typer.Option("--continue-on-error", help="Go on without the rows that cannot be written.")
    ] = False,
    max_errors: Annotated[
        int, typer.Option("--max-errors", min=1, help="With more such rows than this, stop.")
    ] = 10_000,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Keys in the first batch.")] = 1000,
    batch_time: Annotated[str, typer.Option("--batch-time", help="The time that a batch should take.")] = "300ms",
    workers: Annotated[int, typer.Option("--workers", min=1, max=32, help="Batches written at the same time.")] = 1,
    pause: Annotated[str, typer.Option("--pause", help="Wait after each batch.")] = "0s",
    retries: Annotated[int, typer.Option("--retries", min=0, max=100, help="How often a failed run is repeated.")] = 3,
    reverse: Annotated[
        Reverse | None, typer.Option("--reverse", help="What a rollback does.", show_default="delete where safe")
    ] = None,
    schema: Annotated[str, typer.Option("--schema", help="Where tables without a schema are.")] = "public",
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Store a data job: a plan of one step. Nothing runs yet.

    The same again changes nothing; otherwise it becomes the job's next version. `segue plan show` shows it.

    Examples:
        segue job create orders-to-sales --from orders --to sales --set "cents=(total * 100)::bigint"
        segue job create people --from users --from-env old --to people
        segue job create people --from users --to people --check "adult=age >= 18" --continue-on-error
        segue job create people --from users --to people --lookup "c=country ON code = users.code" --set place=c.id
    """
    fields: dict[str, Any] = {
        "source": source,
        "source_env": source_env,
        "target": target,
        "set": _pairs(set_, "--set"),
        "columns": columns or None,
        "where": where,
        "lookups": [_lookup(text) for text in lookups or []],
        "checks": _pairs(checks, "--check"),
        "on_conflict": on_conflict.value,
        "conflict": conflict or None,
        "continue_on_error": continue_on_error,
        "max_errors": max_errors,
        "batch": {"size": batch_size, "target": batch_time, "max": max(batch_size, 50_000)},
        "workers": workers,
        "pause": pause,
        "retries": retries,
        "reverse": reverse.value if reverse else None,
    }

    from segue import settings as loader
    from segue import wiring
    from segue.services import jobs
    from segue.store import open_store

    asked = jobs.Asked(name, schema, {key: value for key, value in fields.items() if value not in (None, [], {})})
    settings = loader.load()
    with open_store(settings) as store:
        checked = jobs.create(store, settings, wiring.parts(), asked)
    if output.as_json():
        output.document({"ok": True, "job": name, "version": checked.plan.version, "hash": checked.digest})
    else:
        output.say(f'job "{name}" {checked.plan.version} is stored; `segue job start {name} --env ENV` runs it')


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
    return _settle(job, [], jobs.Decision("retry"), environment)


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
            ("set", content["transformation"] or None),
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


@app.command()
def errors(
    job: Job = None,
    environment: Where = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are settled.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="List so many rows at most.")] = 100,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """List the rows that a job could not write, with why. It ends with 1 when any is open.

    With --json each has its row of the source, what would have been written, and where it happened.

    Example:
        segue job errors orders-to-sales --limit 20
    """
    from segue import settings as loader
    from segue.services import jobs
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        row = jobs.find(session, job, environment)
        total, rows = jobs.errors(session, row, everything=everything, limit=limit)
        content = jobs.describe(session, row)
    if output.as_json():
        output.document({"job": content["plan"], "execution": content["execution"], "count": total, "errors": rows})
        return ExitCode.FINDINGS if total else ExitCode.DONE
    if rows:
        _layout.table(
            ["error", "key", "type", "message", "settled"],
            [
                (one["error"], ",".join(one["key"]), one["type"], one["message"], one["resolution"] or None)
                for one in rows
            ],
            spare=["type", "settled"],
        )
    output.say(
        f"{count(total)} {'row is' if total == 1 else 'rows are'} open; `segue job resolve` settles them"
        if total
        else "no row is open"
    )
    return ExitCode.FINDINGS if total else ExitCode.DONE


@app.command()
def resolve(
    job: Annotated[str, typer.Argument(help="The job, or its execution.", show_default=False)],
    rows: Errors = None,
    everything: Annotated[bool, typer.Option("--all", help="Every row that is open.")] = False,
    retry_: Annotated[bool, typer.Option("--retry", help="Write them as the source has them now.")] = False,
    skip: Annotated[str | None, typer.Option("--skip", help="Leave them out; why.", show_default=False)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Write one row with COLUMN=VALUE instead; repeatable.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="The same as a JSON object in a file; - reads stdin.", show_default=False),
    ] = None,
    environment: Where = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Settle rows that a job could not write: try again, leave out, or write corrected values.

    It ends with 1 when rows are left that cannot be written.

    Examples:
        segue job resolve orders-to-sales --all --retry
        segue job resolve orders-to-sales 4711 --set cents=1250
        segue job resolve orders-to-sales 4711 4712 --skip "test orders"
    """
    from segue.services.jobs import Decision

    given = [retry_, skip is not None, bool(set_) or data is not None]
    if sum(given) != 1:
        raise UsageError("say one thing that becomes of them", hint="--retry, --skip WHY, or --set COLUMN=VALUE")
    if bool(rows) == everything:
        raise UsageError("name rows, or --all of them", hint="`segue job errors` lists them")
    if skip is not None and not skip.strip():
        raise UsageError("--skip needs a reason", hint="it is kept with the row")
    if retry_:
        decision = Decision("retry")
    elif skip is not None:
        decision = Decision("skip", note=skip.strip())
    else:
        decision = Decision("correct", {**_json(data), **_pairs(set_, "--set")})
    return _settle(job, rows or [], decision, environment)


# -- parts


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UsageError(f'"{text}" is not NAME=VALUE', hint=f'write for example {option} "total=price * 2"')
        found[name.strip()] = value
    return found


def _lookup(text: str) -> dict[str, Any]:
    found = re.fullmatch(r"\s*(\w+)\s*=\s*(.+?)\s+on\s+(\w+)\s*=\s*(.+?)\s*", text, re.IGNORECASE | re.DOTALL)
    if found is None:
        raise UsageError(
            f'"{text}" is no lookup', hint='write for example --lookup "c=customers ON id = orders.customer_id"'
        )
    alias, table, column, expression = found.groups()
    return {"alias": alias, "table": table, "on": {column: expression}}


def _json(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    import sys

    try:
        content = json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} holds no JSON object", hint='write values by column, e.g. {"cents": 1250}')
    return content


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


def _settle(job: str | None, rows: list[str], decision: Any, environment: str | None) -> int:
    from segue import settings as loader
    from segue import wiring
    from segue.services import jobs
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        settled = jobs.resolve(store, settings, wiring.parts(), job, rows, decision, environment)
    if output.as_json():
        output.document({"ok": not settled.left, "settled": settled.done, "left": settled.left, "job": settled.job})
    else:
        for one in settled.left:
            output.data(f"{','.join(one['key'])}: {one['message']}")
        output.say(f"{count(settled.done)} settled, {count(len(settled.left))} still cannot be written")
    return ExitCode.FINDINGS if settled.left else ExitCode.DONE
