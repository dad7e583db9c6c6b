"""What a rule says about a statement."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from segue.model.values import Value

if TYPE_CHECKING:
    from segue.model.impact import Duration, Lock


class Severity(Enum):
    """How much a finding matters: an outage, a risk, a hint. The values are the words of `--fail-on`."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """Return the weight, 0 for the lightest."""
        return (Severity.INFO, Severity.WARNING, Severity.ERROR).index(self)


class Depth(Enum):
    """What a finding rests on: the text, a live or recorded schema, or locks that were seen."""

    PREDICTED = "predicted"
    INFORMED = "informed"
    OBSERVED = "observed"


class Fix(Value):
    """Statements that do what the one that was found does, but safely; `outside` if no transaction may be around."""

    statements: tuple[str, ...]
    outside: bool = False


class Finding(Value):
    """One thing that will happen to somebody. Lines and columns count from 1, columns in characters."""

    rule: str
    severity: Severity
    file: str
    line: int
    column: int
    statement: str
    message: str
    tables: tuple[str, ...]
    lock: Lock
    duration: Duration
    safe: str = ""
    depth: Depth = Depth.PREDICTED
    fix: Fix | None = None
    in_transaction: bool = False  # as the text stands

    def as_json(self) -> dict[str, Any]:
        """Return the finding as `segue lint --format json` prints it."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "statement": self.statement,
            "message": self.message,
            "tables": list(self.tables),
            "lock": self.lock.value,
            "blocks": self.lock.blocks,
            "duration": self.duration.value,
            "depth": self.depth.value,
            "safe": self.safe,
        }
