"""What a live schema adds to the text: tables as they are, how large they are, what sessions begin with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segue.lint.history import plain
from segue.model import changes as to
from segue.model.findings import Depth, Severity
from segue.model.impact import Duration
from segue.model.quantities import count, size
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from segue.lint.history import History
    from segue.model.changes import Change, Changed
    from segue.model.findings import Finding

#: A table of no more bytes is read, rewritten and indexed in a moment.
TINY = 64 * 8192
#: How long a lock is held that depends on how much is in the table.
_GROWING = (Duration.SCAN, Duration.REWRITE, Duration.INDEX_BUILD, Duration.DATA)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is in a table: bytes of its rows, and their number where it is known; `kind` as the server has it."""

    bytes: int
    rows: int | None = None

    def words(self) -> str:
        """Return it for people."""
        rows = "" if self.rows is None else f"about {count(self.rows)} row{'s' * (self.rows != 1)}, "
        return f"{rows}{size(self.bytes)}"


@dataclass(frozen=True, slots=True)
class LiveSchema:
    """A schema as a server has it. `statements` would make it; sizes are by the name that statements give a table."""

    version: int
    statements: list[Changed]
    sizes: dict[str, Size]
    defaults: dict[str, str] = field(default_factory=dict)

    def begin(self, history: History) -> None:
        """Let a history begin with what is there."""
        for statement in self.statements:
            history.take(statement)
        history.defaults.update(self.defaults)

    def sharpened(self, found: Finding, history: History) -> Finding | None:
        """Return what is left of a finding where the tables are known; None if there is nothing in them to wait for."""
        there = {name: self.sizes.get(plain(name)) for name in found.tables if not history.new(name)}
        known = {name: item for name, item in there.items() if item is not None}
        if not known:
            return found
        found = replace(found, depth=Depth.INFORMED)
        if found.duration not in _GROWING:
            return found
        whole = len(known) == len(there)
        if whole and not any(item.bytes for item in known.values()):
            return None
        words = "; ".join(f"{name} has {item.words()}" for name, item in known.items())
        if whole and all(item.bytes <= TINY for item in known.values()):
            return replace(found, severity=Severity.INFO, message=f"{found.message}; {words}: that is a moment")
        return replace(found, message=f"{found.message}; {words}")

    def absent(self, statement: Changed, history: History) -> Iterator[tuple[Change, str]]:
        """Yield what a statement needs that is not there, and what it makes that is there already."""
        for change in statement.changes:
            if isinstance(change, to.CreateTable):
                if plain(change.table) in history.tables and not change.if_not_exists and not change.temporary:
                    yield change, f"{change.table} is there already"
                names = tuple(name for name in change.tables if name != change.table)
            elif isinstance(change, to.DropObject):
                names = (change.table,) if change.kind == "table" and not change.if_exists else ()
            elif isinstance(change, to.Other | to.RenameObject | to.Grant | to.CreateTrigger) or (
                isinstance(change, to.AlterTable) and change.kind != "table"
            ):
                names = ()
            else:
                names = change.tables
            for name in names:
                if name and plain(name) not in history.tables and not name.startswith("pg_"):
                    yield change, f"there is no table {name}"


def names(statements: Iterable[Changed]) -> set[str]:
    """Return the tables and indexes that statements name."""
    found: set[str] = set()
    for statement in statements:
        for change in statement.changes:
            found.update(change.tables)
            if isinstance(change, to.DropObject | to.Reindex | to.RenameObject):
                found.add(change.name)
            elif isinstance(change, to.AttachPartition | to.DetachPartition):
                found.add(change.partition)
            elif isinstance(change, to.AddConstraint) and change.constraint.using_index:
                found.add(change.constraint.using_index)
    return found - {""}
