"""Run a plan in an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import output
from segue.cli._options import Format, Json, LogFormat, Yes
from segue.cli._running import (
    AcceptDrift,
    At,
    Detach,
    Execution,
    OutsideWindow,
    Resolve,
    Wait,
    options_of,
    work_on,
)
from segue.cli._throttle import LatencyBudget, LatencyProbe, LatencyUrl, checked_limits
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import UsageError

if TYPE_CHECKING:
    from segue.services.beginnings import Outcome

COMMANDS = {
    "run": "Run a plan in an environment, or go on where an earlier run stopped.",
    "resume": "Go on with an execution that was paused, failed, or lost its process.",
    "rollback": "Take an execution back, step by step, last first.",
}

app = noun(__doc__, example="segue run plan.yaml --env staging")


Environments = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", help="The environment; several for a rolling plan, in order.", show_default=False),
]


@app.command()
def run(
    plan: Annotated[str, typer.Argument(help="A stored plan's name, or a file (- reads stdin).", show_default=False)],
    environments: Environments = None,
    resume_: Annotated[bool, typer.Option("--resume", help="Only go on with an unfinished execution.")] = False,
    accept_drift: AcceptDrift = False,
    resolve: Resolve = None,
    detach: Detach = False,
    wait: Wait = False,
    at: At = None,
    outside_window: OutsideWindow = None,
    latency_budget: LatencyBudget = None,
    latency_probe: LatencyProbe = None,
    latency_url: LatencyUrl = None,
    promote: Annotated[bool, typer.Option("--promote", help="Walk the environments in promotion order.")] = False,
    log_format: LogFormat = Form.TEXT,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Run a plan in an environment, or go on where an earlier run stopped.

    Safe to repeat at any time: what is done is not done again. Ctrl-C stops at the next safe point. Where an approval
    is missing or a window is closed, the execution waits: run again, or --wait for it here, or --detach to leave it to
    the workers.

    Several environments, of a rolling plan or with --promote, come one after the other: each when the one before is
    completed, its validations have passed, and its target is calm.

    Examples:
        segue run add-full-name.yaml --env staging
        segue run add-full-name --env production --detach --wait
        segue run add-full-name --promote
    """
    if promote and environments:
        raise UsageError("--promote names the environments itself", hint="leave out --env, or --promote")
    if not promote and not environments:
        raise UsageError("no environment is named", hint="add --env NAME; `segue env list` shows the environments")
    if (promote or len(environments or []) > 1) and (resume_ or resolve):
        word = "--resume" if resume_ else "--resolve"
        raise UsageError(f"{word} is about one environment", hint="name the one with --env; then run all of them again")
    tuning = checked_limits(
        {"latency_budget": latency_budget, "latency_probe": latency_probe, "latency_url": latency_url}
    )

    from segue.services import plans

    # A file is read before the store is opened: a typo in it is said at once.
    checked = None
    if plans.looks_like_file(plan):
        from segue import wiring

        checked = plans.check(*plans.read_source(plan), wiring.parts())

    def work(store: Any, settings: Any, parts: Any, watch: Any) -> Outcome | list[Outcome]:
        from segue.services import executions, rollouts

        name = plan
        if checked is not None:
            name = checked.plan.plan
            with store.session() as session:
                plans.add(session, settings, checked)
        options = options_of(resume_, accept_drift, resolve, at=at, outside_window=outside_window, tuning=tuning)
        if promote or len(environments or []) > 1:
            with store.session() as session:
                names = rollouts.promotion(session) if promote else list(environments or [])
                if not promote:
                    rollouts.check(session, name)
            if detach:
                return rollouts.hand_over(store, settings, parts, name, names, options)
            return rollouts.run(store, settings, parts, name, names, options, watch)
        (environment,) = environments or []
        if detach:
            return executions.hand_over(store, settings, parts, name, environment, options)
        return executions.run(store, settings, parts, name, environment, options, watch)

    work_on(work, already="is completed already; nothing to do", detach=detach, wait=wait)


@app.command()
def resume(
    execution: Execution = None,
    accept_drift: AcceptDrift = False,
    resolve: Resolve = None,
    detach: Detach = False,
    wait: Wait = False,
    log_format: LogFormat = Form.TEXT,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Go on with an execution that was paused, failed, or lost its process.

    A rollback that was interrupted goes on as a rollback.

    Example:
        segue resume
    """

    def work(store: Any, settings: Any, parts: Any, watch: Any) -> Outcome:
        from segue.services import executions

        options = options_of(True, accept_drift, resolve)
        if detach:
            return executions.hand_over_resume(store, settings, parts, execution, options)
        return executions.resume(store, settings, parts, execution, options, watch)

    work_on(work, already="has nothing left to do", detach=detach, wait=wait)


@app.command()
def rollback(
    execution: Execution = None,
    accept_drift: AcceptDrift = False,
    resolve: Resolve = None,
    detach: Detach = False,
    wait: Wait = False,
    yes: Yes = False,
    log_format: LogFormat = Form.TEXT,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Take an execution back, step by step, last first.

    What the application wrote since stays; only what the steps did is undone.

    Examples:
        segue rollback
        segue rollback tz4a98 --yes
    """

    def work(store: Any, settings: Any, parts: Any, watch: Any) -> Outcome:
        from segue.services import executions, watching

        if output.interactive() and not yes:
            with store.session() as session:
                row = watching.to_take_back(session, execution)
                question = f'Take back "{row.plan.plan_name}" in "{row.environment.name}" (execution {row.id})?'
            output.ask(question, yes=yes, refuse="nobody is here to confirm the rollback")
        options = options_of(False, accept_drift, resolve)
        if detach:
            return executions.hand_over_rollback(store, settings, parts, execution, options)
        return executions.rollback(store, settings, parts, execution, options, watch)

    work_on(work, already="is rolled back already; nothing to do", detach=detach, wait=wait)
