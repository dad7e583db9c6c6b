"""Show how polite an execution's data work is, or change that while it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from segue.cli import output
from segue.cli._options import Format, Json
from segue.cli._throttle import LatencyBudget, LatencyProbe, LatencyUrl, checked_limits, latency_words, pace_words
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import UsageError

app = noun(__doc__, example="segue throttle --latency-budget p95=10ms")


@app.command()
def throttle(
    execution: Annotated[
        str | None,
        typer.Argument(help="The execution, or the beginning of its id; by default the latest.", show_default=False),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--env", "-e", help="Set or show the limits of an environment instead.", show_default=False),
    ] = None,
    latency_budget: LatencyBudget = None,
    latency_probe: LatencyProbe = None,
    latency_url: LatencyUrl = None,
    replica_lag: Annotated[
        str | None,
        typer.Option("--replica-lag", help="How far a replica may be behind, e.g. 64MB or none.", show_default=False),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", help="Any limit, NAME=VALUE, e.g. lock-waiters=5; repeatable.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="The most workers at a time.", show_default=False)
    ] = None,
    duty: Annotated[
        str | None,
        typer.Option("--duty", help="The most of the time that a worker may work, e.g. 50%.", show_default=False),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Let no signal slow the work down, until it is re-tuned.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Take back what was set here before.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Show how polite an execution's data work is, or change that while it runs.

    Without options it shows the pace, why it is that, and what each signal reads. With options it changes them; a
    running execution follows within about two seconds. "none" takes a limit away.

    Examples:
        segue throttle
        segue throttle --latency-budget p95=10ms --workers 2
        segue throttle --env production --limit replica-delay=5s
    """
    if environment is not None and execution is not None:
        raise UsageError("an execution and an environment are named", hint="leave out one of them")
    changes = checked_limits(
        {
            **_named(limit or []),
            **_given(
                latency_budget=latency_budget,
                latency_probe=latency_probe,
                latency_url=latency_url,
                replica_lag=replica_lag,
                workers=workers,
                duty=duty,
                enabled=False if off else None,
            ),
        }
    )

    from segue import settings as loader
    from segue.services import environments, tuning, watching
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store, store.session() as session:
        if environment is not None:
            place = environments.get(session, environment)
            if changes or reset:
                tuning.tune_environment(session, place, changes, actor=settings.user, reset=reset)
            content: dict[str, Any] = {"environment": place.name, "limits": tuning.limits_of(place)}
        else:
            row = watching.find(session, execution)
            if changes or reset:
                tuning.tune(session, row, changes, actor=settings.user, reset=reset)
            content = tuning.describe(row, tuning.of_plan(row.plan.document), driven=watching.driven(row))
    if output.as_json():
        output.document({"ok": True, **content})
    elif environment is not None:
        _show_limits({name: {"value": value, "from": "environment"} for name, value in content["limits"].items()})
        if not content["limits"]:
            output.say(f'no limits are set for "{environment}"; the built-in ones hold')
    else:
        _show(content)
        if (changes or reset) and content["driven"]:
            output.say("the execution follows within about two seconds")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _named(limits: list[str]) -> dict[str, str]:
    found = {}
    for words in limits:
        name, equals, value = words.partition("=")
        if not equals or not value.strip():
            raise UsageError(f'"{words}" is no limit', hint="write NAME=VALUE, for example --limit lock-waiters=5")
        found[name.strip().lower().replace("-", "_")] = value.strip()
    return found


def _show(content: dict[str, Any]) -> None:
    throttle = content["throttle"] or {}
    latency = throttle.get("latency") or {}
    output.fields(
        [
            ("execution", f"{content['execution']} ({content['plan']} in {content['environment']})"),
            ("status", content["status"]),
            ("pace", pace_words(throttle) if throttle and content["driven"] else "nobody works on it now"),
            ("because", (throttle.get("reason") or None) if content["driven"] else None),
            ("latency", latency_words(latency)),
            ("replicas", ", ".join(content["replicas"]) or None),
        ]
    )
    if throttle and content["driven"]:
        output.data()
        output.table(
            ["signal", "state", "says"], [(one["name"], one["state"], one["words"]) for one in throttle["readings"]]
        )
        for name, why in throttle["unseen"].items():
            output.data(f"not seen: {name}: {why}")
    output.data()
    _show_limits(content["limits"])


def _show_limits(limits: dict[str, dict[str, Any]]) -> None:
    output.table(
        ["limit", "value", "from"],
        [(name.replace("_", "-"), _value(name, one["value"]), one["from"]) for name, one in limits.items()],
    )


def _value(name: str, value: Any) -> str:
    from segue.model.quantities import duration, size

    if isinstance(value, str | bool):
        return str(value).lower() if isinstance(value, bool) else value
    if name in ("replica_lag", "slot_backlog", "archive_backlog"):
        return size(value)
    if name == "wal_rate":
        return f"{size(value)}/s"
    if name in ("replica_delay", "checkpoint_gap"):
        return duration(value)
    return f"{value:.0%}" if name == "duty" else f"{value:g}"
