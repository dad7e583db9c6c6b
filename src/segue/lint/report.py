"""What was found in all files, as the formats print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.model.values import Value

if TYPE_CHECKING:
    from segue.model.findings import Finding
    from segue.model.impact import Lock


class Broken(Value):
    """Where a file does not parse."""

    line: int
    column: int
    message: str
    hint: str = ""


class FileReport:
    """One file: its text, what was found, and what could not be judged (line, column, why)."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self.findings: list[Finding] = []
        self.unanalysed: list[tuple[int, int, str]] = []
        self.statements = 0
        self.broken: Broken | None = None
        #: The last line of what begins at a line and column, where a program makes the statements.
        self.ends: dict[tuple[int, int], int] = {}


class Seen(Value):
    """A table that was there before the file, the lock that a statement took on it, and whether it was written anew."""

    table: str
    lock: Lock
    rewritten: bool = False


class Tried(Value):
    """How one statement went: what was seen, why it failed, or why nothing could be seen."""

    seen: tuple[Seen, ...] = ()
    error: str = ""
    note: str = ""


class Traced(Value):
    """A statement of a file that was tried."""

    file: str
    line: int
    column: int
    statement: str
    tried: Tried


class Trace:
    """Everything that was tried: on which server, and how that or its schema differs from what was meant."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.notes: list[str] = []
        self.statements: list[Traced] = []


class Report:
    """All files, in the order in which they were judged."""

    def __init__(self) -> None:
        self.files: list[FileReport] = []
        self.trace: Trace | None = None  # what was seen when the statements were tried

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
