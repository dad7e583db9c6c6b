"""Say what a migration will do to a running application, before it is run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from segue.cli import _linting
from segue.cli._options import Json
from segue.cli.commands import noun

app = noun(__doc__, example="segue lint migrations")


class LintForm(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"
    GITHUB = "github"
    GITLAB = "gitlab"
    GCC = "gcc"
    MD = "md"


class Level(StrEnum):
    """From which severity on the command fails."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"


@app.command()
def lint(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATHS...",
            help="SQL files, folders with them, - for standard input, manage.py or alembic.ini.",
            show_default=False,
        ),
    ] = None,
    django: Annotated[
        str | None,
        typer.Option(
            "--django",
            metavar="SETTINGS",
            help="Read the migrations of the Django project with these settings, or this manage.py.",
            show_default=False,
        ),
    ] = None,
    alembic: Annotated[
        str | None,
        typer.Option(
            "--alembic",
            metavar="FILE",
            help="Read the revisions of the Alembic project with this alembic.ini.",
            show_default=False,
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="PATH", help="The Python that has what the project needs.", show_default=False
        ),
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option("--select", help="Ask only this rule (may be repeated).", show_default=False)
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Leave this rule out (may be repeated).", show_default=False)
    ] = None,
    fail_on: Annotated[Level, typer.Option("--fail-on", help="Exit with 1 from this severity on.")] = Level.WARNING,
    pg_version: Annotated[
        int | None,
        typer.Option(
            "--pg-version",
            min=9,
            max=99,
            help="The servers' major version; the newest if not given.",
            show_default=False,
        ),
    ] = None,
    assume_in_transaction: Annotated[
        bool, typer.Option("--assume-in-transaction", help="What runs the files opens a transaction around each.")
    ] = False,
    environment: Annotated[
        str | None,
        typer.Option("--env", "-e", help="Look at the tables of this environment's database.", show_default=False),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Try the statements on a copy of the schema, on a server made for it.")
    ] = False,
    trace_url: Annotated[
        str | None,
        typer.Option("--trace-url", help="Try them on this server, in a database made for it.", show_default=False),
    ] = None,
    git_base: Annotated[
        str | None,
        typer.Option(
            "--git-base",
            metavar="REF",
            help="Report only what changed since this commit, or since the branch left it.",
            show_default=False,
        ),
    ] = None,
    new_tables: Annotated[
        bool, typer.Option("--new-tables", help="Judge also how new tables are made: types, keys, indexes.")
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write safe forms into the files; of standard input, print the result.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what --fix would write, as a diff, and write nothing.")
    ] = False,
    format_: Annotated[LintForm, typer.Option("--format", help="How to print findings.")] = LintForm.TEXT,
    json_: Json = False,
) -> int:
    """Say which statement blocks whom for how long, and the safe form. Needs no database, but can look at one.

    Files are judged in the order in which they are given, those of a folder by number and name; a table that the same
    file creates is empty, and nobody waits for it. A comment silences a rule for the statement that follows:
    -- segue: ignore RULE until=2027-01-31 reason="…"

    With --env the tables are looked at where they are: what the schema proves is not found, what hangs on a table is,
    an empty table is nothing to wait for, and a finding says how much is in the others.

    --trace runs the statements, in the order of the files, on a copy of that schema without rows, or on what the files
    before have made, and says which locks were really taken and what was written anew. Nothing is run where --env is.

    --fix writes a safe form where one is whole and nothing is lost by it, and says what is left. What may not be in a
    transaction is not written into one.

    Examples:
        segue lint migrations
        segue lint --fix migrations/0007_orders.sql
        git diff --name-only main -- '*.sql' | xargs segue lint --format github
    """
    return _linting.lint(
        _linting.Asked(
            paths=tuple(paths or ()),
            django=django,
            alembic=alembic,
            python=python,
            select=tuple(select or ()),
            ignore=tuple(ignore or ()),
            fail_on=fail_on.value,
            pg_version=pg_version,
            assume_in_transaction=assume_in_transaction,
            environment=environment,
            trace=trace,
            trace_url=trace_url,
            git_base=git_base,
            new_tables=new_tables,
            fix=fix,
            diff=diff,
            format_="json" if json_ else format_.value,
        )
    )
