"""Run a plan in an environment."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import output
from segue.cli._throttle import LatencyBudget, LatencyProbe, LatencyUrl, checked_limits
from segue.cli.commands import noun
from segue.cli.output import Form, Format, Json, LogFormat, Yes
from segue.errors import Retry, SegueError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.services.beginnings import Options, Outcome

COMMANDS = {
    "run": "Run a plan in an environment, or go on where an earlier run stopped.",
    "resume": "Go on with an execution that was paused, failed, or lost its process.",
    "rollback": "Take an execution back, step by step, last first.",
}

app = noun(__doc__, example="segue run plan.yaml --env staging")


class Seen(StrEnum):
    """What a person saw of an effect that Segue cannot tell."""

    DONE = "done"
    NOT_DONE = "not-done"


Environments = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", help="The environment; several for a rolling plan, in order.", show_default=False),
]
Execution = Annotated[
    str | None,
    typer.Argument(help="The execution, or the beginning of its id; by default the latest.", show_default=False),
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it to the workers (`segue worker`).")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait here for approvals and windows, and for workers.")]
AcceptDrift = Annotated[
    bool, typer.Option("--accept-drift", help="Go on although somebody else changed the schema meanwhile.")
]
Resolve = Annotated[
    Seen | None,
    typer.Option("--resolve", help="Say what you saw of an effect that Segue cannot tell.", show_default=False),
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
    at: Annotated[
        str | None,
        typer.Option("--at", help='When to begin, e.g. "2026-11-29 02:00 Europe/Berlin".', show_default=False),
    ] = None,
    outside_window: Annotated[
        str | None,
        typer.Option("--outside-window", help="Why it may run while the window is closed.", show_default=False),
    ] = None,
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
        options = _options(resume_, accept_drift, resolve, at=at, outside_window=outside_window, tuning=tuning)
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

    _work(work, already="is completed already; nothing to do", detach=detach, wait=wait)


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

        options = _options(True, accept_drift, resolve)
        if detach:
            return executions.hand_over_resume(store, settings, parts, execution, options)
        return executions.resume(store, settings, parts, execution, options, watch)

    _work(work, already="has nothing left to do", detach=detach, wait=wait)


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
                row = watching.find(session, execution)
                question = f'Take back "{row.plan.plan_name}" in "{row.environment.name}" (execution {row.id})?'
            output.ask(question, yes=yes, refuse="nobody is here to confirm the rollback")
        options = _options(False, accept_drift, resolve)
        if detach:
            return executions.hand_over_rollback(store, settings, parts, execution, options)
        return executions.rollback(store, settings, parts, execution, options, watch)

    _work(work, already="is rolled back already; nothing to do", detach=detach, wait=wait)


def _options(
    resume_: bool,
    accept_drift: bool,
    resolve: Seen | None,
    *,
    at: str | None = None,
    outside_window: str | None = None,
    tuning: Mapping[str, Any] | None = None,
) -> Options:
    from segue.model.windows import parse_moment
    from segue.ports import Observed
    from segue.services.beginnings import Options

    if outside_window is not None and not outside_window.strip():
        raise UsageError("--outside-window needs a reason", hint="it is kept in the ledger")
    seen = {Seen.DONE: Observed.DONE, Seen.NOT_DONE: Observed.NOT_DONE}
    return Options(
        resume=resume_,
        accept_drift=accept_drift,
        resolve=seen[resolve] if resolve else None,
        at=parse_moment(at) if at is not None else None,
        outside_window=outside_window,
        tuning=tuning or {},
    )


def _work(work: Any, *, already: str, detach: bool, wait: bool) -> None:
    """Do the work with a live view, then print what the execution came to, also when it failed."""
    from segue import settings as loader
    from segue import wiring
    from segue.cli import _live
    from segue.services import watching
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        parts = wiring.parts()
        with _live.view() as watch:
            try:
                outcome = (
                    _repeated(work, store, settings, parts, watch) if wait else work(store, settings, parts, watch)
                )
                outcomes = outcome if isinstance(outcome, list) else [outcome]
                if detach and wait:
                    for one in outcomes:
                        watching.follow(store, one.execution, watch)
            except SegueError as error:
                if error.retry is not Retry.NEVER and not error.hint:
                    error.hint = "run again to go on"
                raise
        with store.session() as session:
            contents = [watching.describe(session, watching.find(session, one.execution)) for one in outcomes]
            for one in outcomes:
                if detach and not wait and not one.nothing_to_do:
                    output.say(watching.handed_words(session, one.execution))
    shown = [{"nothing_to_do": one.nothing_to_do, **content} for one, content in zip(outcomes, contents, strict=True)]
    if output.as_json():
        output.document({"ok": True, **({"executions": shown} if isinstance(outcome, list) else shown[0])})
        return
    for content in shown:
        if content["nothing_to_do"]:
            output.say(f'plan "{content["plan"]}" in "{content["environment"]}" {already}')
        output.data(
            f"{content['execution']}  {content['plan']}  {content['environment']}  {content['status']}"
            f"  {content['steps_completed']}/{content['steps_total']} steps"
        )
    sys.stdout.flush()


def _once(work: Any, *arguments: Any) -> Any:
    return work(*arguments)


def _repeated(work: Any, store: Any, settings: Any, parts: Any, watch: Any) -> Any:
    """Do the work again and again for as long as it only has to wait; Ctrl-C leaves the execution waiting."""
    from segue.engine.control import MustWait
    from segue.services import watching

    while True:
        try:
            return work(store, settings, parts, watch)
        except MustWait as waits:
            watching.until_due(store, waits, watch)
