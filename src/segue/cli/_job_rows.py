"""Rows that a data job could not write: listed, and settled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import _layout, output
from segue.cli._job_words import Job, Where, pairs
from segue.cli._options import Format, Json
from segue.cli.output import Form
from segue.errors import ExitCode, InvalidInput, UsageError
from segue.model.quantities import count

if TYPE_CHECKING:
    from collections.abc import Mapping

Errors = Annotated[
    list[str] | None,
    typer.Argument(
        help="Rows, by their error's id or their key (values with commas between them).", show_default=False
    ),
]


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
        decision = Decision("correct", {**_json(data), **pairs(set_, "--set")})
    return settle(job, rows or [], decision, environment)


def settle(job: str | None, rows: list[str], decision: Any, environment: str | None) -> int:
    """Settle rows, all that are open where none is named, and say what is left; return the exit code."""
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
