"""How polite data work is, in the same words for every command: the options that set it, and how it stands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from segue.errors import UsageError

LatencyBudget = Annotated[
    str | None,
    typer.Option(
        "--latency-budget",
        help="The application's latency that must hold, e.g. p95=10ms (p50, p95, p99, avg, max; none).",
        show_default=False,
    ),
]
LatencyProbe = Annotated[
    str | None,
    typer.Option("--latency-probe", help="A SELECT whose time stands for the latency.", show_default=False),
]
LatencyUrl = Annotated[
    str | None,
    typer.Option("--latency-url", help="A URL that answers the latency in milliseconds.", show_default=False),
]


def checked_limits(given: dict[str, Any]) -> dict[str, Any]:
    """Return the limits that were given, by the store's names; raises UsageError for what is none."""
    from segue.model.throttling import settings_of

    try:
        return settings_of({name: value for name, value in given.items() if value is not None}).given
    except ValueError as error:
        raise UsageError(str(error), hint="`segue throttle --help` shows what can be set") from error


def pace_words(throttle: dict[str, Any]) -> str:
    """Return how fast data work goes."""
    if throttle["state"] == "stopped":
        return "stopped"
    if throttle["duty"] == 1 and throttle["workers"] is None:
        return "full speed"
    workers = throttle["workers"]
    return f"{throttle['duty']:.0%} of the time" + (f", {workers} worker{'s' * (workers != 1)}" if workers else "")


def latency_words(latency: dict[str, Any]) -> str | None:
    """Return the application's latency, where it comes from, and what it may be; None when nobody measures it."""
    if not latency:
        return None
    read = ", ".join(f"{kind} {latency[kind]:.3g} ms" for kind in ("p50", "p95", "p99", "told") if kind in latency)
    budget = f", budget {latency['budget']}" if latency["budget"] else ""
    return f"{read or 'not measured yet'} ({latency['source'] or 'no source yet'}{budget})"
