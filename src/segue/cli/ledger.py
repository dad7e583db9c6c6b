"""Read the ledger of everything that was done, and check it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from segue.cli import output
from segue.cli._options import Format, Json
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode

app = noun(__doc__, example="segue ledger verify")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="How many of the newest entries.")] = 50,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only of this kind of thing, or this id.", show_default=False)
    ] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only this action.", show_default=False)] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """List the newest entries, the newest last.

    Example:
        segue ledger list --limit 20 --subject environments
    """
    from segue import settings as loader
    from segue.services import ledger
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        rows = [_describe(row) for row in ledger.entries(session, limit=limit, subject=subject, action=action)]
    if output.as_json():
        output.document({"entries": rows})
        return
    if not rows:
        output.say("the ledger has no such entries")
    output.table(
        ["number", "at", "actor", "action", "subject", "detail"],
        [[row["id"], row["at"], row["actor"], row["action"], row["subject"], _short(row["detail"])] for row in rows],
    )


@app.command()
def verify(format_: Format = Form.TEXT, json_: Json = False) -> int:
    """Check that no entry was changed, removed or slipped in; exit 1 when one was.

    Example:
        segue ledger verify && echo untouched
    """
    from segue import settings as loader
    from segue.services import ledger
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        problems = [{"entry": problem.id, "reason": problem.reason} for problem in ledger.problems(session)]
    if output.as_json():
        output.document({"ok": not problems, "problems": problems})
    elif problems:
        output.say(f"the ledger is broken in {len(problems)} place{'s' if len(problems) > 1 else ''}:")
        for problem in problems:
            output.data(str(problem["reason"]))
    else:
        output.say("the ledger is whole")
    return int(ExitCode.FINDINGS if problems else ExitCode.DONE)


def _describe(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "at": row.at,
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "subject_id": row.subject_id,
        "detail": row.detail,
    }


def _short(detail: Any) -> str:
    """Return a detail as `name=value` words on one line; lists only by their length."""
    if not isinstance(detail, dict):
        return str(detail or "")
    words = [
        f"{name}={f'{len(value)} …' if isinstance(value, list | dict) else value}" for name, value in detail.items()
    ]
    text = " ".join(words)
    return text if len(text) <= 100 else text[:99] + "…"
