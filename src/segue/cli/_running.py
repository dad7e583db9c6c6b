"""What commands that run an execution share: their options, the live view, and what is printed at the end."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import output
from segue.errors import Retry, SegueError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.services.beginnings import Options


class Seen(StrEnum):
    """What a person saw of an effect that Segue cannot tell."""

    DONE = "done"
    NOT_DONE = "not-done"


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
At = Annotated[
    str | None,
    typer.Option("--at", help='When to begin, e.g. "2026-11-29 02:00 Europe/Berlin".', show_default=False),
]
OutsideWindow = Annotated[
    str | None,
    typer.Option("--outside-window", help="Why it may run while the window is closed.", show_default=False),
]


def options_of(
    resume_: bool,
    accept_drift: bool,
    resolve: Seen | None,
    *,
    at: str | None = None,
    outside_window: str | None = None,
    tuning: Mapping[str, Any] | None = None,
) -> Options:
    """Return how to run, as the command's options say; raises UsageError."""
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


def work_on(work: Any, *, already: str, detach: bool, wait: bool) -> None:
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


def _repeated(work: Any, store: Any, settings: Any, parts: Any, watch: Any) -> Any:
    """Do the work again and again for as long as it only has to wait; Ctrl-C leaves the execution waiting."""
    from segue.engine.control import MustWait
    from segue.services import watching

    while True:
        try:
            return work(store, settings, parts, watch)
        except MustWait as waits:
            watching.until_due(store, waits, watch)
