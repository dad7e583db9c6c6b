"""`segue lint`: what its words ask for, and the work. Imports no more than the work needs: it is run at each save."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from segue.cli import output
from segue.model.values import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.lint.fixing import Fixing
    from segue.lint.informed import LiveSchema
    from segue.lint.report import Report
    from segue.lint.rule import Facts, Wanted
    from segue.lint.since import Since
    from segue.lint.sources import Source
    from segue.lint.sources.projects import Project

#: What `--fail-on` takes.
LEVELS = ("error", "warning", "info", "never")


class Asked(Value):
    """What the command's words ask for; see the options in `lint.py`."""

    paths: tuple[str, ...] = ()
    django: str | None = None
    alembic: str | None = None
    python: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: str = "warning"
    pg_version: int | None = None
    assume_in_transaction: bool = False
    environment: str | None = None
    trace: bool = False
    trace_url: str | None = None
    git_base: str | None = None
    new_tables: bool = False
    fix: bool = False
    diff: bool = False
    format_: str = "text"


class PostgreSQL:
    """What PostgreSQL knows about SQL; see `segue.lint.running.Grammar`."""

    def __init__(self) -> None:
        from segue.databases.postgresql import forms
        from segue.databases.postgresql.changes import comments, read
        from segue.databases.postgresql.safe_forms import Forms

        self.read, self.comments, self.forms = read, comments, Forms()
        self._form, self._newest = forms.form, forms.NEWEST

    def measured(self, form: str, version: int | None) -> Facts:
        """Return what was measured of a form on a version, the newest for None."""
        return self._form(form).on(version or self._newest)


def lint(asked: Asked) -> int:
    """Judge what was asked for, print what was found, and return the exit code."""
    from segue.clock import now
    from segue.lint import formats
    from segue.lint.rule import OBSERVED, Wanted
    from segue.lint.rules import rules
    from segue.lint.running import run
    from segue.lint.sources import projects
    from segue.model.findings import Severity

    known = rules()
    for name in (*asked.select, *asked.ignore):
        if name not in known and name not in OBSERVED:
            from segue.errors import UsageError

            raise UsageError(f'there is no rule "{name}"', hint="docs/rules.md lists them")
    chosen = [rule for name, rule in known.items() if _wanted(asked, name)]
    project = projects.named(asked.paths, asked.django, asked.alembic, asked.python, asked.pg_version)
    found = _gathered(project, asked.paths, asked.fix or asked.diff)
    _noted(found, asked.paths)
    grammar = PostgreSQL()
    wanted = Wanted(asked.pg_version, asked.assume_in_transaction, new_tables=asked.new_tables)
    url = None if asked.environment is None else _place(asked.environment)
    if url is not None:
        live = _looked(url, found, grammar)
        wanted = Wanted(asked.pg_version or live.version, asked.assume_in_transaction, live, asked.new_tables)

    changed = _changed(asked.git_base)

    def judged(texts: list[Source]) -> Report:
        report = run(texts, chosen, set(known) | OBSERVED, grammar, wanted, now().date())
        if changed is not None:
            changed.keep(report)
        return report

    if asked.fix or asked.diff:
        from segue.lint import fixing as _fixing

        fixing = _fixing.fix(found, judged, grammar.read)
        if asked.diff or "-" in asked.paths:
            return _shown(found, fixing, asked.diff)
        _written(found, fixing)
        found, report = fixing.sources, fixing.report
    else:
        report = judged(found)
    if asked.trace or asked.trace_url is not None:
        observed = {name for name in OBSERVED if _wanted(asked, name)}
        _tried(report, found, grammar, wanted, url, asked.environment or "", asked.trace_url, observed)
    words = formats.render(asked.format_, report, output.paint, output.width())
    if words:
        output.data(words)
    if report.broken:
        return 2
    if asked.fail_on == "never":
        return 0
    least = Severity(asked.fail_on).rank
    return int(any(item.severity.rank >= least for item in report.findings))


def _noted(found: list[Source], paths: Sequence[str]) -> None:
    """Say how texts were read where that is not plain, and that there are none."""
    if not found:
        output.warn(f"there is no SQL file in {', '.join(paths)}" if paths else "there is no migration")
    for source in found:
        if source.note:
            output.warn(f'"{source.path}" {source.note}')


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
    grammar: PostgreSQL,
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


def _gathered(project: Project | None, paths: Sequence[str], fixes: bool) -> list[Source]:
    from segue.errors import UsageError
    from segue.lint import sources

    if project is not None:
        if fixes:
            raise UsageError("--fix and --diff are for SQL files", hint="the finding says what to write instead")
        return project.gather()
    if not paths:
        raise UsageError("nothing to read is named", hint="segue lint migrations")
    return sources.gather(paths, sys.stdin.buffer.read() if "-" in paths else None)


def _looked(url: str, texts: list[Source], grammar: PostgreSQL) -> LiveSchema:
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


def _wanted(asked: Asked, rule: str) -> bool:
    return (not asked.select or rule in asked.select) and rule not in asked.ignore
