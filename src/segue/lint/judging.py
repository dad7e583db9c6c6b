"""Runs the rules over a text: once through its changes, each shown to the rules that want its kind."""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import TYPE_CHECKING

from segue.lint.history import History
from segue.lint.rule import NO_FORMS, Place, Wanted
from segue.model.changes import Changed, Code, End

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from segue.lint.informed import LiveSchema
    from segue.lint.rule import Facts, Rule, SafeForms
    from segue.model.changes import Change
    from segue.model.findings import Finding


class Judged:
    """What was found in one text, how many statements it has, and those that nobody can judge from outside."""

    def __init__(self, statements: int) -> None:
        self.statements = statements
        self.findings: list[Finding] = []
        self.unanalysed: list[tuple[int, int, str]] = []  # line, column, why


def lines_of(text: str) -> Callable[[int], tuple[int, int]]:
    """Return a function from a character's place to its line and column, both from 1."""
    starts: list[int] = []

    def position(offset: int) -> tuple[int, int]:
        if not starts:  # nobody asks of most texts
            starts.append(0)
            at = text.find("\n")
            while at >= 0:
                starts.append(at + 1)
                at = text.find("\n", at + 1)
        line = bisect.bisect_right(starts, offset)
        return line, offset - starts[line - 1] + 1

    return position


def _sharpened(looked: Iterable[Finding], live: LiveSchema, history: History) -> Iterator[Finding]:
    for found in looked:
        sharp = live.sharpened(found, history)
        if sharp is not None:
            yield sharp


class Judge:
    """Judges texts in the order in which they would be run: later ones know what earlier ones did."""

    def __init__(
        self,
        rules: Iterable[Rule],
        measured: Callable[[str, int | None], Facts],
        wanted: Wanted | None = None,
        forms: SafeForms = NO_FORMS,
    ) -> None:
        self._by_kind: defaultdict[type[Change], list[Rule]] = defaultdict(list)
        for rule in rules:
            for kind in rule.on:
                self._by_kind[kind].append(rule)
        self._measured = measured
        self._wanted = wanted or Wanted()
        self._forms = forms
        self.history = History()
        if self._wanted.informed is not None:
            self._wanted.informed.begin(self.history)

    def judge(self, file: str, text: str, statements: list[Changed], *, in_transaction: bool | None = None) -> Judged:
        """Return what the rules say about the statements of one file, in the order of the text.

        `in_transaction` says whether the file's own tool opens a transaction around it; None: as was wanted for all.
        """
        history, wanted = self.history, self._wanted
        history.next_file(in_transaction=wanted.in_transaction if in_transaction is None else in_transaction)
        position = lines_of(text)
        judged = Judged(sum(statement.number for statement in statements))
        live = wanted.informed
        last = len(text.rstrip())
        end = Changed("", last, (End(offset=last),))
        place = Place(file, history, wanted, self._measured, position, self._forms)
        for place.statement in (*statements, end):
            statement = place.statement
            for change in statement.changes:
                for place.rule in self._by_kind.get(type(change), ()):
                    looked = place.rule.look(change, place)
                    judged.findings.extend(looked if live is None else _sharpened(looked, live, history))
                if isinstance(change, Code) and not change.name:
                    judged.unanalysed.append((*position(change.offset), "what a DO block does is not looked into"))
            if live is not None:
                told = {(*position(change.offset), why) for change, why in live.absent(statement, history)}
                judged.unanalysed.extend(sorted(told))
            history.take(statement)
            for change in statement.changes if history.in_transaction else ():
                if change.form and change.table:
                    history.hold(change.table, self._measured(change.form, wanted.version).lock())
        judged.findings.sort(key=lambda found: (found.line, found.column, found.rule))
        return judged
