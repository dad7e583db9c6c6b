"""Every error a user can meet: what happened, why, and what to do.

SegueError
├── UsageError            64  the command's words are off
├── ConfigurationError    78  settings, keys or files of ours are wrong
├── InvalidInput           2  a plan or schema file is wrong (file, line, column)
├── PrivilegeMissing       2  the role may not do what the step needs
├── StepFailed             2  a step of a migration failed
├── Differences            1  a check found differences
├── Blocked                3  approval, policy, window or drift blocks
├── SafelyUndone           4  stopped by a guard, and undone
├── CannotTell             5  a person must look and decide
├── TargetUnreachable     69  a database cannot be reached
├── InternalError         70  a mistake of ours
├── Busy                  75  somebody else holds what is needed; later it may work
└── Interrupted          130  stopped by the user, cleanly
"""

from __future__ import annotations

from enum import Enum, IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says (design section 10)."""

    DONE = 0
    FINDINGS = 1
    FAILED = 2
    BLOCKED = 3
    UNDONE = 4
    CANNOT_TELL = 5
    USAGE = 64
    UNREACHABLE = 69
    INTERNAL = 70
    BUSY = 75
    CONFIGURATION = 78
    INTERRUPTED = 130


class Retry(Enum):
    """Whether trying again can help."""

    NEVER = "never"
    LATER = "later"
    AFTER_OBSERVING = "after-observing"


class SegueError(Exception):
    """Something a user can understand and act on.

    `message` says what and where, `hint` what to do next, `details` holds lines that belong under the message
    (a list of blockers, a caret under a column).
    """

    code = "S000"
    exit_code = ExitCode.FAILED
    retry = Retry.NEVER
    hint = ""

    def __init__(self, message: str, *, hint: str | None = None, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or []
        if hint is not None:
            self.hint = hint

    def as_json(self) -> dict[str, object]:
        """Return the error as the one JSON shape that every face prints."""
        return {
            "code": self.code,
            "error": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "details": self.details,
        }


class UsageError(SegueError):
    """The words of the command do not fit together."""

    code = "S064"
    exit_code = ExitCode.USAGE


class ConfigurationError(SegueError):
    """A setting, key or file of Segue's own is missing or wrong."""

    code = "S078"
    exit_code = ExitCode.CONFIGURATION


class InvalidInput(SegueError):
    """A file given to Segue is wrong; the message names file, line and column."""

    code = "S002"


class SqlSyntaxError(InvalidInput):
    """SQL that does not parse or may not be in a plan. `offset` is the character in `sql` where, from 0."""

    code = "S012"

    def __init__(self, message: str, offset: int, *, sql: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset
        self.sql = sql


class NotFound(SegueError):
    """Nothing is stored under this name."""

    code = "S004"


class PrivilegeMissing(SegueError):
    """The role on the target may not do what the step needs."""

    code = "T101"


class TargetError(SegueError):
    """The target refused a statement."""

    code = "T100"


class StepFailed(SegueError):
    """A blocking step of a migration failed; running again continues there."""

    code = "S003"
    retry = Retry.LATER


class StepRefused(StepFailed):
    """What a step says cannot work on this target; nothing was done, and trying again would not help."""

    code = "S019"
    retry = Retry.NEVER


class Differences(SegueError):
    """A comparison or validation found a difference."""

    code = "S001"
    exit_code = ExitCode.FINDINGS


class Blocked(SegueError):
    """An approval, a policy, a window or drift stands in the way."""

    code = "S005"
    exit_code = ExitCode.BLOCKED


class DriftFound(Blocked):
    """The target's schema is not the one Segue last left."""

    code = "S006"


class SafelyUndone(SegueError):
    """A guard stopped the migration, and everything it had done was undone."""

    code = "S007"
    exit_code = ExitCode.UNDONE


class NotCaughtUp(SafelyUndone):
    """What was committed in one database of a move did not arrive in the other in time; nothing was changed."""

    code = "S018"


class CannotTell(SegueError):
    """Whether an effect took place cannot be seen on the target; a person must decide."""

    code = "S008"
    exit_code = ExitCode.CANNOT_TELL


class WouldLose(SegueError):
    """Taking a change back would lose rows that were written since; a person must decide."""

    code = "S017"
    exit_code = ExitCode.CANNOT_TELL


class TargetUnreachable(SegueError):
    """A database cannot be reached, or went away."""

    code = "T102"
    exit_code = ExitCode.UNREACHABLE
    retry = Retry.LATER


class OutcomeUnknown(TargetUnreachable):
    """The connection was lost while a statement ran: only looking at the target can tell (never retried blindly)."""

    code = "T103"
    retry = Retry.AFTER_OBSERVING


class InternalError(SegueError):
    """A mistake of Segue's own."""

    code = "S070"
    exit_code = ExitCode.INTERNAL


class Busy(SegueError):
    """Somebody else holds the target or a lock; trying later may work."""

    code = "S075"
    exit_code = ExitCode.BUSY
    retry = Retry.LATER


class LockNotGranted(Busy):
    """A table's lock could not be had inside the deadline; the blockers are in `details`."""

    code = "T104"


class FenceLost(Busy):
    """Another process has taken over this execution; this one must not write any more."""

    code = "T105"
    retry = Retry.NEVER


class SlotLost(StepFailed):
    """The slot through which an online change follows a table is gone: what came since is not known, copy anew."""

    code = "T106"
    retry = Retry.NEVER


class Interrupted(SegueError):
    """The user stopped the command; it stopped at a safe point."""

    code = "S130"
    exit_code = ExitCode.INTERRUPTED
