"""Making a data job: what `segue job create` takes."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from segue.cli import output
from segue.cli._job_words import Name, pairs
from segue.cli._options import Format, Json
from segue.cli.output import Form
from segue.errors import UsageError


class Conflict(StrEnum):
    """What becomes of a row whose key is there."""

    FAIL = "fail"
    SKIP = "skip"
    UPDATE = "update"


class Reverse(StrEnum):
    """What a rollback does."""

    DELETE = "delete"
    NOTHING = "nothing"


def create(
    name: Name,
    source: Annotated[str, typer.Option("--from", help="The table that is read.", show_default=False)],
    target: Annotated[str, typer.Option("--to", help="The table that is written.", show_default=False)],
    source_env: Annotated[
        str | None,
        typer.Option(
            "--from-env", help="The environment that the source is in.", show_default="the one that the job runs on"
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="COLUMN=EXPRESSION in SQL; repeatable. Others keep their name.", show_default=False),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="A column to fill; repeatable.", show_default=False)
    ] = None,
    python: Annotated[
        str | None,
        typer.Option("--python", help="A function FILE.py:NAME, called with each batch's rows.", show_default=False),
    ] = None,
    gives: Annotated[
        list[str] | None,
        typer.Option("--gives", help="A column that the function gives; repeatable.", show_default=False),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", help="A further file that it needs; repeatable.", show_default=False),
    ] = None,
    call_time: Annotated[
        str | None, typer.Option("--call-time", help="The longest that a call may take.", show_default="10s")
    ] = None,
    call_memory: Annotated[
        str | None, typer.Option("--call-memory", help="What its process may hold.", show_default="1GiB")
    ] = None,
    where: Annotated[str | None, typer.Option("--where", help="Which rows; SQL.", show_default=False)] = None,
    lookups: Annotated[
        list[str] | None,
        typer.Option("--lookup", help='"ALIAS=TABLE ON COLUMN = EXPRESSION"; repeatable.', show_default=False),
    ] = None,
    checks: Annotated[
        list[str] | None,
        typer.Option("--check", help="NAME=CONDITION that each row must fulfil; repeatable.", show_default=False),
    ] = None,
    on_conflict: Annotated[
        Conflict, typer.Option("--on-conflict", help="What becomes of a row whose key is there.")
    ] = Conflict.FAIL,
    conflict: Annotated[
        list[str] | None,
        typer.Option("--conflict", help="A column of that key; repeatable.", show_default="the primary key's"),
    ] = None,
    continue_on_error: Annotated[
        bool, typer.Option("--continue-on-error", help="Go on without the rows that cannot be written.")
    ] = False,
    max_errors: Annotated[
        int, typer.Option("--max-errors", min=1, help="With more such rows than this, stop.")
    ] = 10_000,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Keys in the first batch.")] = 1000,
    batch_time: Annotated[str, typer.Option("--batch-time", help="The time that a batch should take.")] = "300ms",
    workers: Annotated[int, typer.Option("--workers", min=1, max=32, help="Batches written at the same time.")] = 1,
    pause: Annotated[str, typer.Option("--pause", help="Wait after each batch.")] = "0s",
    retries: Annotated[int, typer.Option("--retries", min=0, max=100, help="How often a failed run is repeated.")] = 3,
    reverse: Annotated[
        Reverse | None, typer.Option("--reverse", help="What a rollback does.", show_default="delete where safe")
    ] = None,
    schema: Annotated[str, typer.Option("--schema", help="Where tables without a schema are.")] = "public",
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Store a data job: a plan of one step. Nothing runs yet.

    The same again changes nothing; otherwise it becomes the job's next version. `segue plan show` shows it.

    Examples:
        segue job create orders-to-sales --from orders --to sales --set "cents=(total * 100)::bigint"
        segue job create people --from users --from-env old --to people
        segue job create people --from users --to people --python people.py:clean --gives name --gives born
        segue job create people --from users --to people --check "adult=age >= 18" --continue-on-error
        segue job create people --from users --to people --lookup "c=country ON code = users.code" --set place=c.id
    """
    fields: dict[str, Any] = {
        "source": source,
        "source_env": source_env,
        "target": target,
        "set": pairs(set_, "--set"),
        "transform": _function(python, gives, files, call_time, call_memory),
        "columns": columns or None,
        "where": where,
        "lookups": [_lookup(text) for text in lookups or []],
        "checks": pairs(checks, "--check"),
        "on_conflict": on_conflict.value,
        "conflict": conflict or None,
        "continue_on_error": continue_on_error,
        "max_errors": max_errors,
        "batch": {"size": batch_size, "target": batch_time, "max": max(batch_size, 50_000)},
        "workers": workers,
        "pause": pause,
        "retries": retries,
        "reverse": reverse.value if reverse else None,
    }

    from segue import settings as loader
    from segue import wiring
    from segue.services import jobs
    from segue.store import open_store

    given = {key: value for key, value in fields.items() if value not in (None, [], {})}
    asked = jobs.Asked(name, schema, given, Path.cwd())
    settings = loader.load()
    with open_store(settings) as store:
        checked = jobs.create(store, settings, wiring.parts(), asked)
    if output.as_json():
        output.document({"ok": True, "job": name, "version": checked.plan.version, "hash": checked.digest})
    else:
        output.say(f'job "{name}" {checked.plan.version} is stored; `segue job start {name} --env ENV` runs it')


def _function(
    python: str | None, gives: list[str] | None, files: list[str] | None, time: str | None, memory: str | None
) -> dict[str, Any] | None:
    """Return what a plan says of a function; raises UsageError for what goes with one where none is named."""
    beside = {"gives": gives, "files": files, "timeout": time, "memory": memory}
    given = {name: value for name, value in beside.items() if value}
    if python is not None:
        return {"python": python, **given}
    if given:
        raise UsageError("--gives, --file, --call-time and --call-memory go with --python")
    return None


def _lookup(text: str) -> dict[str, Any]:
    found = re.fullmatch(r"\s*(\w+)\s*=\s*(.+?)\s+on\s+(\w+)\s*=\s*(.+?)\s*", text, re.IGNORECASE | re.DOTALL)
    if found is None:
        raise UsageError(
            f'"{text}" is no lookup', hint='write for example --lookup "c=customers ON id = orders.customer_id"'
        )
    alias, table, column, expression = found.groups()
    return {"alias": alias, "table": table, "on": {column: expression}}
