"""Approve a plan, or one step of it, for an environment; or take that back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from segue.cli import output
from segue.cli._options import Format, Json, Yes
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import UsageError

app = noun(__doc__, example='segue approve add-full-name --env production --reason "rehearsed on staging"')


@app.command()
def approve(
    plan: Annotated[
        str, typer.Argument(help="A stored plan's name, or a file with the same content.", show_default=False)
    ],
    environment: Annotated[str | None, typer.Option("--env", "-e", help="The environment.", show_default=False)] = None,
    step: Annotated[
        str | None, typer.Option("--step", help="Only this step, which asks for an approval.", show_default=False)
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, in words.", show_default=False)] = "",
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", metavar="DURATION", help="How long it may be used to begin, e.g. 24h.", show_default=False
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="When to begin, where deployed on schedule.", show_default=False),
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take the approval back.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the plan's approvals instead.")] = False,
    yes: Yes = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Approve a plan, or one step of it, for an environment; or take that back.

    An approval belongs to the plan's content: a plan that is changed needs another one. In a production environment a
    plan needs one before it may run, and who wrote it cannot give it.

    Examples:
        segue approve add-full-name --env production --reason "rehearsed on staging"
        segue approve add-full-name --env production --step drop-old --reason "nobody reads it" --expires 24h
        segue approve add-full-name --env production --revoke --reason "wait for the release"
        segue approve add-full-name --list
    """
    if list_:
        _list(plan, environment)
        return
    if environment is None:
        raise UsageError("no environment is named", hint="add --env NAME; `segue env list` shows the environments")
    if not reason.strip():
        raise UsageError("a reason is missing", hint="say why in words: --reason TEXT")
    if revoke and (expires is not None or at is not None):
        raise UsageError("--revoke takes back at once", hint="leave out --expires and --at")
    lasts, begins = _seconds(expires), _moment(at)

    from segue import settings as loader
    from segue import wiring
    from segue.services import approvals
    from segue.store import open_store

    parts = wiring.parts()
    checked = _checked(plan, parts)
    settings = loader.load()
    with open_store(settings) as store:
        with store.session() as session:
            name = approvals.same_as_stored(session, checked) if checked is not None else plan
            # Taking back must stay possible whatever has become of the plan since.
            about = None if revoke else approvals.subject(session, parts, name, environment, step)
        if output.interactive() and not yes:
            if about is not None:
                _show(about)
            what = f'step "{step}" of "{name}"' if step else f'"{name}"'
            question = f'{"Take back the approval of" if revoke else "Approve"} {what} for "{environment}"?'
            output.ask(question, yes=yes, refuse="nobody is here to confirm")
        if about is None:
            done = approvals.revoke(store, settings, name, environment, step, reason)
        else:
            wanted = approvals.Wanted(name, environment, reason, about["plan_hash"], step, lasts, begins)
            done = approvals.grant(store, settings, parts, wanted)
    if output.as_json():
        output.document(
            {
                "ok": True,
                "approvals": done.approvals,
                "looks_again": done.woken,
                "began": done.began,
                "not_begun": done.not_begun.as_json() if done.not_begun else None,
            }
        )
        return
    _say(done, name, environment, step, revoke=revoke)


def _say(done: Any, name: str, environment: str, step: str | None, *, revoke: bool) -> None:
    what = f'step "{step}" of plan "{name}"' if step else f'plan "{name}"'
    if revoke:
        output.say(f'the approval of {what} for "{environment}" is revoked')
        return
    given = done.approvals[0]
    until = f", until {given['expires_at']:%Y-%m-%d %H:%M} UTC" if given["expires_at"] else ""
    output.say(f'{what} ({given["plan_hash"][:12]}) is approved for "{environment}"{until}')
    if done.began is not None:
        output.say(f"execution {done.began} is handed over to the workers; `segue status` shows it")
    elif done.not_begun is not None:
        output.warn(f"it was not begun: {done.not_begun.message}")
        output.say(f"hint: {done.not_begun.hint}")
    elif done.woken:
        output.say(f"execution {', '.join(done.woken)} is the workers', who go on now; `segue status` shows it")
    else:
        output.say(f"next: `segue run {name} --env {environment}`")


def _list(plan: str, environment: str | None) -> None:
    from segue import settings as loader
    from segue import wiring
    from segue.services import approvals
    from segue.store import open_store

    checked = _checked(plan, wiring.parts())
    with open_store(loader.load()) as store, store.session() as session:
        rows = approvals.listed(session, checked.plan.plan if checked is not None else plan, environment)
    if output.as_json():
        output.document({"approvals": rows})
        return
    if not rows:
        output.say(f'there are no approvals of "{plan}" yet; `segue approve PLAN --env ENV --reason TEXT` gives one')
    output.table(
        ["environment", "step", "by", "at", "expires", "counts", "reason"],
        [
            [
                row["environment"],
                row["step"] or "(the plan)",
                row["approved_by"],
                row["approved_at"],
                row["expires_at"],
                "yes" if row["counts"] else f"no: {row['because']}",
                row["reason"],
            ]
            for row in rows
        ],
    )


def _show(about: dict[str, Any]) -> None:
    """Show what is to be approved, before somebody is asked."""
    assessed = about["assessment"] or {}
    output.fields(
        [
            ("plan", f"{about['plan']} {about['version']} ({about['plan_hash'][:12]})"),
            ("description", about["description"]),
            ("written by", ", ".join(about["authors"])),
            ("environment", f"{about['environment']} ({about['type']}, {about['database']})"),
            ("window", about["maintenance_window"]),
            ("risk", f"{about['risk_level']} (predicted), about {about['estimated_minutes']} min"),
            ("assessed", f"{assessed['summary']} ({assessed['at'][:16].replace('T', ' ')} UTC)" if assessed else None),
            ("rollback", about["rollback_plan"]),
            ("approval", about["standing"]),
        ]
    )
    output.data()
    output.table(
        ["#", "step", "kind", "undo", "approval", "sql"],
        [
            [
                row["number"],
                row["name"],
                row["kind"],
                "yes" if row["reversible"] else "not possible",
                "its own" if row["approval"] else "",
                " ".join((row["sql"] or "").split())[:60],
            ]
            for row in about["steps"]
        ],
    )
    for reason in assessed.get("reasons", []):
        output.data(f"  {reason}")
    for row in about["steps"]:
        if row["message"]:
            output.data(f"{row['name']}: {row['message']}")
    output.data()


def _checked(plan: str, parts: Any) -> Any:
    """Read a plan file before the store is opened; None for a stored plan's name."""
    from segue.services import plans

    return plans.check(*plans.read_source(plan), parts) if plans.looks_like_file(plan) else None


def _seconds(text: str | None) -> float | None:
    from segue.model.quantities import seconds

    if text is None:
        return None
    try:
        value = seconds(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not 0 < value <= 10 * 365 * 86400:
        raise UsageError(f'"{text}" is no time in which an approval could be used', hint="at least 1s, at most 3650d")
    return value


def _moment(text: str | None) -> Any:
    from segue import clock
    from segue.model.windows import parse_moment

    if text is None:
        return None
    moment = parse_moment(text)
    if moment <= clock.now():
        raise UsageError(f'"{text}" has passed already', hint="give a time that is to come")
    return moment
