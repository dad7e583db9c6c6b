"""Run a plan in an environment."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import output
from segue.cli.commands import noun
from segue.cli.output import Form, Format, Json, Yes
from segue.errors import Blocked, Retry, SegueError, UsageError

if TYPE_CHECKING:
    from segue.services.executions import Options, Outcome

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


Environment = Annotated[str | None, typer.Option("--env", "-e", help="The environment.", show_default=False)]
Execution = Annotated[
    str | None,
    typer.Argument(help="The execution, or the beginning of its id; by default the latest.", show_default=False),
]
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
    environment: Environment = None,
    resume_: Annotated[bool, typer.Option("--resume", help="Only go on with an unfinished execution.")] = False,
    accept_drift: AcceptDrift = False,
    resolve: Resolve = None,
    detach: Annotated[bool, typer.Option("--detach", help="Hand over to a worker.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for approvals and windows.")] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Walk the environments in promotion order.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Run a plan in an environment, or go on where an earlier run stopped.

    Safe to repeat at any time: what is done is not done again. Ctrl-C stops at the next safe point.

    Examples:
        segue run add-full-name.yaml --env staging
        segue run add-full-name --env production --json
    """
    for flag, given, needs in (
        ("--detach", detach, "a worker"),
        ("--wait", wait, "approvals and windows"),
        ("--promote", promote, "approvals between environments"),
    ):
        if given:
            raise Blocked(f"{flag} needs {needs}, which this version does not have", hint=f"leave out {flag}")
    if environment is None:
        raise UsageError("no environment is named", hint="add --env NAME; `segue env list` shows the environments")

    from segue.services import plans

    # A file is read before the store is opened: a typo in it is said at once.
    checked = None
    if plans.looks_like_file(plan):
        from segue import wiring

        checked = plans.check(*plans.read_source(plan), wiring.parts())

    def work(store: Any, settings: Any, parts: Any, watch: Any) -> Outcome:
        from segue.services import executions

        name = plan
        if checked is not None:
            name = checked.plan.plan
            with store.session() as session:
                plans.add(session, settings, checked)
        return executions.run(
            store, settings, parts, name, environment, _options(resume_, accept_drift, resolve), watch
        )

    _work(work, already="is completed already; nothing to do")


@app.command()
def resume(
    execution: Execution = None,
    accept_drift: AcceptDrift = False,
    resolve: Resolve = None,
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

        return executions.resume(store, settings, parts, execution, _options(True, accept_drift, resolve), watch)

    _work(work, already="has nothing left to do")


@app.command()
def rollback(
    execution: Execution = None,
    accept_drift: AcceptDrift = False,
    resolve: Resolve = None,
    yes: Yes = False,
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
        from segue.services import executions

        if output.interactive() and not yes:
            with store.session() as session:
                row = executions.find(session, execution)
                question = f'Take back "{row.plan.plan_name}" in "{row.environment.name}" (execution {row.id})?'
            output.ask(question, yes=yes, refuse="nobody is here to confirm the rollback")
        return executions.rollback(store, settings, parts, execution, _options(False, accept_drift, resolve), watch)

    _work(work, already="is rolled back already; nothing to do")


def _options(resume_: bool, accept_drift: bool, resolve: Seen | None) -> Options:
    from segue.ports import Observed
    from segue.services.executions import Options

    seen = {Seen.DONE: Observed.DONE, Seen.NOT_DONE: Observed.NOT_DONE}
    return Options(resume_, accept_drift, seen[resolve] if resolve else None)


def _work(work: Any, *, already: str) -> None:
    """Do the work with a live view, then print what the execution came to, also when it failed."""
    from segue import settings as loader
    from segue import wiring
    from segue.cli import _live
    from segue.services import executions
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        parts = wiring.parts()
        with _live.view() as watch:
            try:
                outcome = work(store, settings, parts, watch)
            except SegueError as error:
                if error.retry is not Retry.NEVER and not error.hint:
                    error.hint = "run again to go on"
                raise
        with store.session() as session:
            content = executions.describe(session, executions.find(session, outcome.execution))
    if output.as_json():
        output.document({"ok": True, "nothing_to_do": outcome.nothing_to_do, **content})
        return
    if outcome.nothing_to_do:
        output.say(f'plan "{content["plan"]}" in "{content["environment"]}" {already}')
    output.data(
        f"{content['execution']}  {content['plan']}  {content['environment']}  {content['status']}"
        f"  {content['steps_completed']}/{content['steps_total']} steps"
    )
    sys.stdout.flush()
