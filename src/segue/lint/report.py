"""What was found in all files, as the formats print it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.model.findings import Finding
    from segue.model.impact import Lock


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a file does not parse."""

    line: int
    column: int
    message: str
    hint: str = ""


@dataclass(slots=True)
class FileReport:
    """One file: its text, what was found, and what could not be judged (line, column, why)."""

    path: str
    text: str
    findings: list[Finding] = field(default_factory=list)
    unanalysed: list[tuple[int, int, str]] = field(default_factory=list)
    statements: int = 0
    broken: Broken | None = None
    #: The last line of what begins at a line and column, where a program makes the statements.
    ends: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A table that was there before the file, the lock that a statement took on it, and whether it was written anew."""

    table: str
    lock: Lock
    rewritten: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """How one statement went: what was seen, why it failed, or why nothing could be seen."""

    seen: tuple[Seen, ...] = ()
    error: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Traced:
    """A statement of a file that was tried."""

    file: str
    line: int
    column: int
    statement: str
    tried: Tried


@dataclass(slots=True)
class Trace:
    """Everything that was tried: on which server, and how that or its schema differs from what was meant."""

    server: int
    notes: list[str] = field(default_factory=list)
    statements: list[Traced] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """All files, in the order in which they were judged."""

    files: list[FileReport] = field(default_factory=list)
    trace: Trace | None = None  # what was seen when the statements were tried

    @property
    def findings(self) -> list[Finding]:
        """Return every finding, file by file."""
        return [found for file in self.files for found in file.findings]

    @property
    def statements(self) -> int:
        """Return how many statements were judged."""
        return sum(file.statements for file in self.files)

    @property
    def broken(self) -> list[tuple[str, Broken]]:
        """Return the files that do not parse, with the place."""
        return [(file.path, file.broken) for file in self.files if file.broken is not None]
