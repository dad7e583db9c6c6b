"""What was found in all files, as the formats print it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.model.findings import Finding


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


@dataclass(slots=True)
class Report:
    """All files, in the order in which they were judged."""

    files: list[FileReport] = field(default_factory=list)

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
