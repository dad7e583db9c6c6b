"""What a rule is, and what it is given to look at.

A rule is one file in `lint/rules`, named after the rule, that exports `RULE`. Its `look` is called once for each change
of a kind named in `on`, before the history has taken the statement in, and yields `at.find(…)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from segue.model.changes import CreateTable
from segue.model.findings import Depth, Finding
from segue.model.impact import Duration, Lock
from segue.model.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from segue.lint.history import History
    from segue.lint.informed import LiveSchema
    from segue.model.changes import AddConstraint, Change, Changed, SetNotNull
    from segue.model.findings import Fix, Severity


#: Names of what only a trace finds.
LOCK, REWRITE = "observed-lock", "observed-rewrite"
OBSERVED = frozenset({LOCK, REWRITE})


class Facts(Protocol):
    """What was measured of one form of a statement on one server version."""

    @property
    def locks(self) -> Mapping[str, Lock]:
        """Return the strongest lock by the table's role: "table", "parent", "partition" …."""

    @property
    def duration(self) -> Duration:
        """Return how long they are held."""

    @property
    def error(self) -> str:
        """Return the SQLSTATE where that version refuses the form, "" else."""

    def lock(self, role: str = "table") -> Lock:
        """Return the lock on what has this role."""


class SafeForms:
    """How a database writes safe forms; None where a statement has none that is whole. This one knows none at all."""

    def later(self, statement: Changed, change: AddConstraint) -> Fix | None:
        """Return a constraint NOT VALID, and its validation."""
        return None

    def by_index(self, statement: Changed, change: AddConstraint, nullable: Iterable[str]) -> Fix | None:
        """Return a unique constraint or primary key over an index built beforehand, its `nullable` columns proved."""
        return None

    def not_null(self, statement: Changed, change: SetNotNull | AddConstraint, version: int | None) -> Fix | None:
        """Return NOT NULL behind a proof."""
        return None

    def proven_key(self, statement: Changed, change: AddConstraint, nullable: Iterable[str]) -> Fix | None:
        """Return a primary key USING INDEX behind a proof."""
        return None

    def concurrently(self, statement: Changed) -> Fix | None:
        """Return the same with CONCURRENTLY."""
        return None

    def named(self, statement: Changed, change: AddConstraint) -> Fix | None:
        """Return a constraint under the name that the server would give it."""
        return None

    def attached(self, statement: Changed, change: CreateTable) -> Fix | None:
        """Return a partition created by itself and attached."""
        return None


NO_FORMS = SafeForms()


class Rule(Value):
    """One rule: its name, what it is about, the changes it wants to see, and the function that looks at them."""

    name: str
    severity: Severity
    rows: tuple[int, ...]  # of the list of known rules that docs/rules.md goes through
    on: tuple[type[Change], ...]
    condition: str  # when it speaks: "a column is added whose default is computed for each row"
    effect: str  # what happens to whom: "the table is rewritten; reads and writes wait until it is done"
    instead: str  # what to do: "add the column without default, set the default, fill in batches"
    bad: str
    good: str
    look: Callable[[Any, Place], Iterable[Finding]]
    before: str = ""  # what an earlier file did, for the examples


class Wanted(Value):
    """How a text is to be judged."""

    version: int | None = None  # major version of the servers; None: not known, the newest is taken
    in_transaction: bool = False  # whoever runs the file opens a transaction around it
    informed: LiveSchema | None = None  # what a server has
    new_tables: bool = False  # also how tables are made that nobody uses yet: types, keys, indexes


class Place:
    """Where a rule looks: the statement, what came before it, and how to say what was found.

    One serves all rules and statements of a file, in turn.
    """

    rule: Rule
    statement: Changed

    def __init__(
        self,
        file: str,
        history: History,
        wanted: Wanted,
        measured: Callable[[str, int | None], Facts],
        position: Callable[[int], tuple[int, int]],
        forms: SafeForms = NO_FORMS,
    ) -> None:
        self.file, self.history, self.wanted = file, history, wanted
        self.measured, self.position, self.forms = measured, position, forms

    @property
    def version(self) -> int | None:
        """Return the servers' major version, None if it is not known."""
        return self.wanted.version

    def facts(self, form: str) -> Facts:
        """Return what was measured of a form on the wanted version. Raises KeyError for a form that is not there."""
        return self.measured(form, self.wanted.version)

    def new(self, table: str) -> bool:
        """Return whether the same file created the table: it is empty, and nobody uses it."""
        return self.history.new(table)

    def unasked(self, change: Change) -> bool:
        """Return whether a change is about the shape of a new table, and nobody asked about those."""
        return not self.wanted.new_tables and (isinstance(change, CreateTable) or self.new(change.table))

    def find(
        self,
        change: Change,
        message: str,
        *,
        safe: str = "",
        form: str | None = None,
        role: str = "table",
        tables: tuple[str, ...] | None = None,
        severity: Severity | None = None,
        offset: int | None = None,
        fix: Fix | None = None,
    ) -> Finding:
        """Return a finding; lock and duration are those measured of the change's form, or of another, for a role.

        `fix`, statements that can stand in the place of this one, is the safe form where there is one; `safe` is words.
        """
        key = change.form if form is None else form
        facts = self.facts(key) if key else None
        line, column = self.position(change.offset if offset is None else offset)
        return Finding(
            rule=self.rule.name,
            severity=severity or self.rule.severity,
            file=self.file,
            line=line,
            column=column,
            statement=self.statement.sql,
            message=message,
            tables=change.tables if tables is None else tables,
            lock=facts.lock(role) if facts else Lock.NONE,
            duration=facts.duration if facts else Duration.INSTANT,
            safe=_words(fix) if fix else safe,
            depth=Depth.PREDICTED,
            fix=fix,
            in_transaction=self.history.in_transaction,
        )


def _words(fix: Fix) -> str:
    words = ";\n".join(fix.statements)
    return f"-- each in a transaction of its own\n{words}" if fix.outside and len(fix.statements) > 1 else words
