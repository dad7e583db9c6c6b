"""Say what a migration will do to a running application, before it is run."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import output
from segue.cli.commands import noun
from segue.cli.output import Json

if TYPE_CHECKING:
    from segue.lint.rule import Facts, Rule

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


class _PostgreSQL:
    """What PostgreSQL knows about SQL, for the judge."""

    def __init__(self) -> None:
        from segue.databases.postgresql.changes import comments, read

        self.read, self.comments = read, comments

    def measured(self, form: str, version: int | None) -> Facts:
        from segue.databases.postgresql import forms

        return forms.form(form).on(version or forms.NEWEST)


@app.command()
def lint(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATHS...", help="SQL files, folders with them, or - for standard input.")
    ],
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
    format_: Annotated[LintForm, typer.Option("--format", help="How to print findings.")] = LintForm.TEXT,
    json_: Json = False,
) -> int:
    """Say which statement blocks whom for how long, and the safe form. Needs no database.

    Files are judged in the order in which they are given, those of a folder by number and name; a table that the same
    file creates is empty, and nobody waits for it. A comment silences a rule for the statement that follows:
    -- segue: ignore RULE until=2027-01-31 reason="…"

    Examples:
        segue lint migrations
        git diff --name-only main -- '*.sql' | xargs segue lint --format github
    """
    from segue.clock import now
    from segue.lint import formats, sources
    from segue.lint.formats import text
    from segue.lint.rule import Wanted
    from segue.lint.rules import rules
    from segue.lint.running import run

    known = rules()
    chosen = _chosen(known, select or [], ignore or [])
    found = sources.gather(paths, sys.stdin.buffer.read() if "-" in paths else None)
    for source in found:
        if source.note:
            output.warn(f'"{source.path}" {source.note}')
    grammar = _PostgreSQL()
    report = run(found, chosen, set(known), grammar, Wanted(pg_version, assume_in_transaction), now().date())
    form = "json" if json_ else format_.value
    words = text.render(report, output.paint) if form == "text" else formats.render(form, report)
    if words:
        output.data(words)
    if report.broken:
        return 2
    return int(any(fail_on is not Level.NEVER and item.severity.rank >= _rank(fail_on) for item in report.findings))


def _rank(level: Level) -> int:
    from segue.model.findings import Severity

    return Severity(level.value).rank


def _chosen(known: dict[str, Rule], select: list[str], ignore: list[str]) -> list[Any]:
    from segue.errors import UsageError

    for name in (*select, *ignore):
        if name not in known:
            raise UsageError(f'there is no rule "{name}"', hint="docs/rules.md lists them")
    return [rule for name, rule in known.items() if (not select or name in select) and name not in ignore]
