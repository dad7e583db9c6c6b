"""What statements really lock and write anew, tried on a copy of the schema, beside what was said of them before."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from segue.errors import SqlSyntaxError
from segue.lint import ignores
from segue.lint.history import plain
from segue.lint.judging import lines_of
from segue.lint.report import Seen, Trace, Traced, Tried
from segue.lint.rule import LOCK, OBSERVED, REWRITE
from segue.model import changes as to
from segue.model.findings import Depth, Finding, Severity
from segue.model.impact import Duration, Lock
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Set
    from datetime import date

    from segue.lint.report import FileReport, Report
    from segue.lint.running import Grammar
    from segue.lint.sources import Source
    from segue.model.changes import Changed

#: Statements that reach beyond the database in which they are tried, or move data.
_BEYOND = frozenset(
    "CREATEDB,DROPDB,ALTER DATABASE,ALTER DATABASE SET,ALTER SYSTEM,CREATE TABLE SPACE,DROP TABLE SPACE,CREATE ROLE,"
    "DROP ROLE,ALTER ROLE,ALTER ROLE SET,GRANT ROLE,CREATE SUBSCRIPTION,ALTER SUBSCRIPTION,DROP SUBSCRIPTION,COPY,"
    "LOAD,CHECK POINT".split(",")
)


class Tracer(Protocol):
    """A session in a database that is thrown away."""

    def begin(self, *, in_transaction: bool) -> None:
        """Begin a file: what is there now counts as in use."""

    def run(self, statement: str) -> Tried:
        """Run a statement; what fails is taken back, and said."""

    def end(self) -> None:
        """End a file: what it left open is committed."""


def observe(
    report: Report,
    sources: list[Source],
    grammar: Grammar,
    tracer: Tracer,
    trace: Trace,
    *,
    in_transaction: bool,
    today: date,
    active: Set[str] = OBSERVED,
) -> None:
    """Run every statement of the files in their order, and bring what is said of them in line with what was seen.

    `active` are those of the trace's own rules that are asked.
    """
    reported = {file.path: file for file in report.files}
    for source in sources:
        file = reported.get(source.path)
        try:
            statements = grammar.read(source.sql)
        except SqlSyntaxError:
            continue  # which the report says
        position = _positions(source)
        added: list[Finding] = []
        inside = len(statements) > 1 if source.together else source.in_transaction
        tracer.begin(in_transaction=in_transaction if inside is None else inside)
        for statement in statements:
            beyond = next(
                (item.verb for item in statement.changes if isinstance(item, to.Other) and item.verb in _BEYOND), ""
            )
            tried = Tried(note=f"{beyond} is not tried") if beyond else tracer.run(statement.sql)
            if file is None:
                continue  # only what happened before
            line, column = position(statement.offset)
            trace.statements.append(Traced(source.path, line, column, statement.sql, tried))
            if not tried.error and not tried.note:
                added += _compare(file, statement, line, column, tried.seen)
        tracer.end()
        if file is not None:
            added = [found for found in added if found.rule in active]
            if "segue:" in source.sql and not source.program:
                added = _silenced(source, added, grammar, statements, position, today, active)
            file.findings = sorted([*file.findings, *added], key=lambda item: (item.line, item.column, item.rule))


def _positions(source: Source) -> Callable[[int], tuple[int, int]]:
    """Return a function from a place in a source's SQL to the line and column that are said of it."""
    position = lines_of(source.text)
    if not source.program:
        return position

    def made(offset: int) -> tuple[int, int]:
        at = bisect_right(source.parts, offset, key=lambda part: part.offset) - 1
        return position(source.parts[at].begin if source.parts else 0)

    return made


def _silenced(
    source: Source,
    added: list[Finding],
    grammar: Grammar,
    statements: list[Changed],
    position: Callable[[int], tuple[int, int]],
    today: date,
    active: Set[str],
) -> list[Finding]:
    comments = grammar.comments(source.sql)
    # Every other name has been looked at before.
    left = ignores.apply(
        source.path, source.text, added, comments, statements, position, today, set(active), set(OBSERVED)
    )
    return [found for found in left if found.rule != ignores.WRONG]


def _compare(file: FileReport, statement: Changed, line: int, column: int, seen: tuple[Seen, ...]) -> Iterator[Finding]:
    """Confirm or correct what was found in a statement, count its code as looked into; yield what nobody said."""
    by_name = {plain(item.table): item for item in seen}
    said: set[str] = {plain(name) for change in statement.changes for name in change.tables}
    rewrites: set[str] = set()
    # A table that is emptied, or a view that is filled again, has a new file too.
    emptied = any(
        isinstance(item, to.Truncate) or (isinstance(item, to.Other) and item.verb.startswith("REFRESH"))
        for item in statement.changes
    )
    findings = []
    for found in file.findings:
        if (found.line, found.column) == (line, column) and found.statement == statement.sql:
            said.update(plain(name) for name in found.tables)
            if found.duration is Duration.REWRITE:
                rewrites.update(plain(name) for name in found.tables)
            findings.append(_observed(found, by_name))
        else:
            findings.append(found)
    file.findings = findings
    if any(isinstance(change, to.Code) for change in statement.changes):
        file.unanalysed = [item for item in file.unanalysed if item[:2] != (line, column)]
    for item in seen:
        name = plain(item.table)
        if item.rewritten and name not in rewrites and not emptied:
            words = f"{item.table} was written anew, while reads and writes waited"
            yield _finding(REWRITE, Severity.ERROR, file, statement, line, column, words, item)
        elif item.lock.rank >= Lock.SHARE.rank and name not in said:
            words = f"{item.table}, which the statement does not name, is locked too: {item.lock.blocks} of it wait"
            yield _finding(LOCK, Severity.WARNING, file, statement, line, column, words, item)


def _observed(found: Finding, seen: dict[str, Seen]) -> Finding:
    item = seen.get(plain(found.tables[0])) if found.tables else None
    if item is None or found.lock is Lock.NONE:
        return found
    if found.duration is Duration.REWRITE and not item.rewritten:
        return replace(
            found,
            severity=Severity.INFO,
            message=f"{found.message}; tried, nothing was written anew",
            duration=Duration.INSTANT,
            lock=item.lock,
            depth=Depth.OBSERVED,
        )
    if item.lock is not found.lock:
        return replace(
            found,
            message=f"{found.message}; tried, the lock was {item.lock.value}",
            lock=item.lock,
            depth=Depth.OBSERVED,
        )
    return replace(found, depth=Depth.OBSERVED)


def _finding(
    rule: str, severity: Severity, file: FileReport, statement: Changed, line: int, column: int, words: str, item: Seen
) -> Finding:
    return Finding(
        rule=rule,
        severity=severity,
        file=file.path,
        line=line,
        column=column,
        statement=statement.sql,
        message=words,
        tables=(item.table,),
        lock=item.lock,
        duration=Duration.REWRITE if item.rewritten else Duration.INSTANT,
        safe="SET lock_timeout = '3s' first; and a transaction of its own",
        depth=Depth.OBSERVED,
    )
