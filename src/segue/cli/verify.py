"""Compare two databases, table by table, while they are in use: which rows are missing, too many, or otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import output
from segue.cli._options import Format, Json, Yes
from segue.cli._verdicts import draw
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from segue.model.verifying import TableVerdict

app = noun(__doc__, example="segue verify production orders-db --table orders")


@app.command()
def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="An environment, or a URL without a password.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    table: Annotated[
        list[str] | None,
        typer.Option("--table", "-t", help="NAME, or NAME=OTHER where B calls it so; repeatable.", show_default="all"),
    ] = None,
    where: Annotated[str | None, typer.Option("--where", help="Which rows, as SQL.", show_default=False)] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="A column to compare; repeatable.", show_default="all that both have"),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=32, help="Ranges at a time, on each side.")] = 2,
    settle: Annotated[
        str, typer.Option("--settle", help="For how long rows that differ may be under way; 0 where nobody writes.")
    ] = "2s",
    repair: Annotated[bool, typer.Option("--repair", help="Make B's rows that differ as A's.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write all that differs, as JSON.")
    ] = None,
    yes: Yes = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Compare two databases, table by table, while they are in use: which rows are missing, too many, or otherwise.

    Both servers reduce ranges of rows to numbers at the same time; only where those differ keys are looked at. Rows
    that differ are looked at again: one that is still on its way is none. Exit 1 when something differs.

    Examples:
        segue verify production orders-db --table orders --table order_items
        segue verify old new --table users=people --where "tenant_id = 7" --report differences.json
        segue verify production copy --repair
    """
    from segue import settings as loader
    from segue import wiring
    from segue.model.quantities import seconds
    from segue.model.verifying import VerifySpec
    from segue.services import databases, verifying
    from segue.store import open_store

    try:
        patience = seconds(settle)
    except ValueError as error:
        raise UsageError(f"--settle: {error}", hint="write it as 2s or 500ms") from None
    if report is not None and not report.absolute().parent.is_dir():
        raise UsageError(f'the folder of --report is not there: "{report.absolute().parent}"')
    spec = VerifySpec(
        tables=tuple(_pair(text) for text in table or ()),
        where=where,
        columns=tuple(column) if column else None,
        jobs=jobs,
        settle=float(patience),
    )

    def agree(unlike: Sequence[TableVerdict]) -> bool:
        rows = sum(len(one.differences) for one in unlike)
        question = f"Write {rows} rows of {b} so that they are as those of {a}?"
        output.ask(question, yes=yes, refuse="nobody is here to confirm the repair")
        return True

    settings = loader.load()
    with _store(open_store, settings, needed=repair or not (databases.is_url(a) and databases.is_url(b))) as store:
        one, other = databases.locate(store, settings, a), databases.locate(store, settings, b)
        found = verifying.verify(
            one, other, spec, wiring.parts().database, output.say, repair=agree if repair else None
        )
        if store is not None:
            verifying.record(store, settings, one, other, found)
    content = verifying.report(one, other, found)
    if report is not None:
        report.write_text(json.dumps({"segue": 1, **content}, indent=2, ensure_ascii=False) + "\n")
    if output.as_json():
        output.document(content)
    else:
        draw(found)
    return ExitCode.DONE if content["ok"] else ExitCode.FINDINGS


def _pair(text: str) -> tuple[str, str]:
    mine, found, theirs = text.partition("=")
    if not mine or (found and not theirs):
        raise UsageError(f'--table "{text}" names no pair of tables', hint="write NAME, or NAME=OTHER")
    return mine, theirs or mine


def _store(open_store: Any, settings: Any, *, needed: bool) -> Any:
    """Open the store where a name is to be found there; two URLs need none."""
    from contextlib import nullcontext

    return open_store(settings) if needed else nullcontext(None)
