"""Judges a list of sources: parsed by a database's own grammar, a broken one reported and the others still judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from segue.errors import SqlSyntaxError
from segue.lint import ignores
from segue.lint.judging import Judge, lines_of
from segue.lint.report import Broken, FileReport, Report

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from segue.lint.rule import Facts, Rule, SafeForms, Wanted
    from segue.lint.sources import Source
    from segue.model.changes import Changed


class Grammar(Protocol):
    """What a database knows about SQL."""

    def read(self, sql: str) -> list[Changed]:
        """Return what each statement of a text does. Raises SqlSyntaxError."""

    def comments(self, sql: str) -> list[tuple[int, str]]:
        """Return the comments of a text that parses, each with its place."""

    def measured(self, form: str, version: int | None) -> Facts:
        """Return what was measured of a form on a version, the newest for None."""

    @property
    def forms(self) -> SafeForms:
        """Return how safe forms are written."""


def run(
    sources: Iterable[Source], rules: list[Rule], known: set[str], grammar: Grammar, wanted: Wanted, today: date
) -> Report:
    """Return what the rules say about all sources, in their order."""
    report = Report()
    judge = Judge(rules, grammar.measured, wanted, grammar.forms)
    active = {rule.name for rule in rules}
    for source in sources:
        file = FileReport(source.path, source.text)
        if source.reported:
            report.files.append(file)
        position = lines_of(source.text)
        judge.history.defaults.update(source.session)
        if source.program:
            from segue.lint import program

            program.judge(source, file, judge, grammar.read, today, active, known)
            continue
        try:
            statements = grammar.read(source.sql)
        except SqlSyntaxError as error:
            file.broken = Broken(*position(error.offset), error.message, error.hint or "")
            continue
        inside = len(statements) > 1 if source.together else source.in_transaction
        judged = judge.judge(source.path, source.text, statements, in_transaction=inside)
        file.statements, file.unanalysed, file.findings = judged.statements, judged.unanalysed, judged.findings
        if "segue:" in source.sql:
            comments = grammar.comments(source.sql)
            file.findings = ignores.apply(
                source.path, source.text, judged.findings, comments, statements, position, today, active, known
            )
    return report
