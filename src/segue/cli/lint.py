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
    from segue.lint.fixing import Fixing
    from segue.lint.informed import LiveSchema
    from segue.lint.report import Report
    from segue.lint.rule import Facts, Rule, Wanted
    from segue.lint.since import Since
    from segue.lint.sources import Source
    from segue.lint.sources.projects import Project

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
        from segue.databases.postgresql.safe_forms import Forms

        self.read, self.comments, self.forms = read, comments, Forms()

    def measured(self, form: str, version: int | None) -> Facts:
        from segue.databases.postgresql import forms

        return forms.form(form).on(version or forms.NEWEST)


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
    from segue.clock import now
    from segue.lint import fixing as _fixing
    from segue.lint import formats
    from segue.lint.formats import text
    from segue.lint.rule import Wanted
    from segue.lint.rules import rules
    from segue.lint.running import run
    from segue.lint.sources import projects
    from segue.lint.tracing import OBSERVED

    known = rules()
    chosen = _chosen(known, select or [], ignore or [])
    paths = paths or []
    project = projects.named(paths, django, alembic, python, pg_version)
    found = _gathered(project, paths, fix or diff)
    for source in found:
        if source.note:
            output.warn(f'"{source.path}" {source.note}')
    grammar = _PostgreSQL()
    wanted = Wanted(pg_version, assume_in_transaction, new_tables=new_tables)
    url = None if environment is None else _place(environment)
    if url is not None:
        live = _looked(url, found, grammar)
        wanted = Wanted(pg_version or live.version, assume_in_transaction, live, new_tables)

    changed = _changed(git_base)

    def judged(texts: list[Source]) -> Report:
        report = run(texts, chosen, set(known) | OBSERVED, grammar, wanted, now().date())
        if changed is not None:
            changed.keep(report)
        return report

    if fix or diff:
        fixing = _fixing.fix(found, judged, grammar.read)
        if diff or "-" in paths:
            return _shown(found, fixing, diff)
        _written(found, fixing)
        found, report = fixing.sources, fixing.report
    else:
        report = judged(found)
    if trace or trace_url is not None:
        observed = {name for name in OBSERVED if (not select or name in select) and name not in (ignore or [])}
        _tried(report, found, grammar, wanted, url, environment or "", trace_url, observed)
    form = "json" if json_ else format_.value
    words = text.render(report, output.paint) if form == "text" else formats.render(form, report)
    if words:
        output.data(words)
    if report.broken:
        return 2
    return int(any(fail_on is not Level.NEVER and item.severity.rank >= _rank(fail_on) for item in report.findings))


def _place(environment: str) -> str:
    """Return the URL of an environment's database."""
    from segue import settings as loader
    from segue.services import environments
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        return environments.places(store, settings)(environment)


def _tried(
    report: Report,
    texts: list[Source],
    grammar: _PostgreSQL,
    wanted: Wanted,
    url: str | None,
    environment: str,
    trace_url: str | None,
    active: set[str],
) -> None:
    """Try the statements in a database that is thrown away, and put what was seen into the report."""
    import os

    from segue.clock import now
    from segue.databases.postgresql.tracing import throwaway, trace
    from segue.lint.tracing import observe
    from segue.services import environments

    if trace_url is not None:
        trace_url = environments.given_url(url=trace_url, stdin=None, variable=None, environ=os.environ)
    with throwaway(trace_url) as made, trace(made, url, environment, wanted.version) as (session, found):
        report.trace = found
        inside, today = wanted.in_transaction, now().date()
        observe(report, texts, grammar, session, found, in_transaction=inside, today=today, active=active)


def _changed(ref: str | None) -> Since | None:
    if ref is None:
        return None
    from segue.lint.since import since

    return since(ref)


def _gathered(project: Project | None, paths: list[str], fixes: bool) -> list[Source]:
    from segue.errors import UsageError
    from segue.lint import sources

    if project is not None:
        if fixes:
            raise UsageError("--fix and --diff are for SQL files", hint="the finding says what to write instead")
        return project.gather()
    if not paths:
        raise UsageError("nothing to read is named", hint="segue lint migrations")
    return sources.gather(paths, sys.stdin.buffer.read() if "-" in paths else None)


def _looked(url: str, texts: list[Source], grammar: _PostgreSQL) -> LiveSchema:
    """Return what a database has of the tables that the texts name."""
    from segue.databases.postgresql.live_schema import look
    from segue.errors import SqlSyntaxError
    from segue.lint.informed import names

    named: set[str] = set()
    for text in texts:
        try:
            named |= names(grammar.read(text.sql))
        except SqlSyntaxError:
            continue  # which is reported when it is judged
    return look(url, sorted(named))


def _shown(before: list[Source], fixing: Fixing, diff: bool) -> int:
    """Print what was made of the texts, or the difference; return the exit code."""
    from difflib import unified_diff

    _left(fixing)
    for old, new in zip(before, fixing.sources, strict=True):
        if diff:
            lines = (old.text.splitlines(keepends=True), new.text.splitlines(keepends=True))
            for line in unified_diff(*lines, old.path, new.path):
                output.data(line.rstrip("\n"))
        else:
            sys.stdout.write(new.text)
    if fixing.report.broken:
        return 2
    return int(diff and bool(fixing.fixed))


def _written(before: list[Source], fixing: Fixing) -> None:
    """Write the files that changed, each whole or not at all."""
    from segue.lint.fixing import write

    _left(fixing)
    files = 0
    for old, new in zip(before, fixing.sources, strict=True):
        if new.text != old.text:
            write(old, new.text)
            files += 1
    output.say(f"{len(fixing.fixed)} findings mended in {files} file{'s' * (files != 1)}")


def _left(fixing: Fixing) -> None:
    for item in fixing.left:
        found = item.finding
        output.warn(f"{found.file}:{found.line}:{found.column}: {found.rule} is not mended: {item.why}")


def _rank(level: Level) -> int:
    from segue.model.findings import Severity

    return Severity(level.value).rank


def _chosen(known: dict[str, Rule], select: list[str], ignore: list[str]) -> list[Any]:
    from segue.errors import UsageError
    from segue.lint.tracing import OBSERVED

    for name in (*select, *ignore):
        if name not in known and name not in OBSERVED:
            raise UsageError(f'there is no rule "{name}"', hint="docs/rules.md lists them")
    return [rule for name, rule in known.items() if (not select or name in select) and name not in ignore]
