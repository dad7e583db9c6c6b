"""The options that set how polite data work is: the same words for `segue run` and `segue throttle`."""

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
