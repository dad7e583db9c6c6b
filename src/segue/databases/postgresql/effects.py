"""What is gathered about one statement while its syntax tree is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from segue.databases.postgresql import forms
from segue.model.impact import Duration, IndexBuild, Lock, TableLock

#: From shortest to longest: of several parts of one statement the longest counts.
_ORDER = (
    Duration.INSTANT,
    Duration.SNAPSHOTS,
    Duration.SCAN,
    Duration.DATA,
    Duration.INDEX_BUILD,
    Duration.REWRITE,
)


@dataclass(slots=True)
class Names:
    """What the same text did before the statement: on a table that it created nobody else holds or wants a lock."""

    tables: set[str] = field(default_factory=set)
    indexes: dict[str, str] = field(default_factory=dict)  # index → its table
    # Table and name of a CHECK (column IS NOT NULL) → column, and whether it is valid: then SET NOT NULL need not scan.
    not_null_checks: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict)

    def table_of(self, index: str) -> str | None:
        """Return the table of an index that the same text created; `public.i` and `i` count as one."""
        plain = index.removeprefix("public.")
        return self.indexes.get(index) or self.indexes.get(plain) or self.indexes.get(f"public.{plain}")

    def proven(self, table: str, column: str) -> bool:
        """Return whether a valid CHECK of the same text proves that the column holds no NULL."""
        return any(of == table and check == (column, True) for (of, _), check in self.not_null_checks.items())

    def has(self, table: str) -> bool:
        """Return whether the text created the table. `public.t` and `t` count as one, others must match exactly."""
        plain = table.removeprefix("public.")
        return table in self.tables or (
            ("." not in plain) and (plain in self.tables or f"public.{plain}" in self.tables)
        )


@dataclass(slots=True)
class Effects:
    """Locks, duration and the rest of one statement, gathered part by part."""

    names: Names
    verb: str
    duration: Duration = Duration.INSTANT
    transactional: bool = True
    destroys: bool = False
    index: IndexBuild | None = None
    notes: list[str] = field(default_factory=list)
    _parents: dict[str, TableLock] = field(default_factory=dict)
    _others: dict[str, TableLock] = field(default_factory=dict)

    def take(self, table: str, lock: Lock, *, parent: bool = False, known: bool = True) -> bool:
        """Record a lock on a table; False when the same text created the table, so that nothing about it matters."""
        if known and self.names.has(table):
            return False
        held = self._parents if parent or table in self._parents else self._others
        if table in self._others and held is self._parents:
            held[table] = self._others.pop(table)
        if lock.rank > (held[table].lock.rank if table in held else -1):
            held[table] = TableLock(table, lock, known)
        return True

    def take_all(self, tables: dict[str, Lock]) -> None:
        """Record the locks of a query inside the statement."""
        for table, lock in tables.items():
            self.take(table, lock)

    def lasts(self, duration: Duration) -> None:
        """Record a part's duration."""
        self.duration = max(self.duration, duration, key=_ORDER.index)

    def as_measured(self, key: str) -> Lock:
        """Let the statement last as long as a measured form, and return the form's lock on the table."""
        facts = forms.newest(key)
        self.lasts(facts.duration)
        return facts.lock()

    def note(self, text: str) -> None:
        """Record something a careful reader would want to know."""
        if text not in self.notes:
            self.notes.append(text)

    def unknown(self, what: str, why: str) -> None:
        """Record that the locks cannot be told from the text: the strongest is assumed."""
        self.take(what, Lock.ACCESS_EXCLUSIVE, known=False)
        self.note(why)

    def locks(self) -> tuple[TableLock, ...]:
        """Return the strongest lock per table, parents first: the order in which the server's own code takes them."""
        return (*self._parents.values(), *self._others.values())
