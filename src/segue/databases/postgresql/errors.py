"""Say what a PostgreSQL error means for the user: one of Segue's errors, with a hint, without passwords."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from segue.errors import (
    Busy,
    ConfigurationError,
    LockNotGranted,
    PrivilegeMissing,
    SegueError,
    StepFailed,
    TargetError,
    TargetUnreachable,
)

# Sessions are opened next to this module: where a URL leads is said beside what went wrong there.
from segue.model.urls import place, redact

if TYPE_CHECKING:
    import psycopg

__all__ = ["explain", "place", "redact"]

#: What a failed connection attempt says (libpq gives no SQLSTATE there), first match wins.
_REFUSALS: tuple[tuple[str, type[SegueError], str], ...] = (
    (
        r"password authentication failed|no password supplied|authentication failed",
        ConfigurationError,
        "check user and password; a URL without a password takes it from ~/.pgpass or PGPASSWORD",
    ),
    (r"permission denied for database", PrivilegeMissing, "grant CONNECT on the database to this role"),
    (r"no pg_hba\.conf entry|pg_hba\.conf rejects", ConfigurationError, "pg_hba.conf on the server must let us in"),
    (r'(database|role) ".*" does not exist', ConfigurationError, "check the URL"),
    (
        r"unsupported startup parameter",
        ConfigurationError,
        "this looks like a connection pooler; give the URL of the database server itself",
    ),
    (r"definition of service|service file", ConfigurationError, "see ~/.pg_service.conf and PGSERVICEFILE"),
    (r"SSL|certificate", ConfigurationError, "check sslmode and the certificates"),
    (r"could not translate host name|Name or service not known|resolve", TargetUnreachable, "check the host's name"),
    (r"too many clients|remaining connection slots", TargetUnreachable, "the server has no connection left; try later"),
    (
        r"too many connections for (role|database)",
        TargetUnreachable,
        "its CONNECTION LIMIT is used up: try later, or have it raised",
    ),
    (r"starting up|shutting down|recovery mode", TargetUnreachable, "try again in a moment"),
)

#: SQLSTATE, or its class of two characters.
_STATES: dict[str, tuple[type[SegueError], str]] = {
    "08": (TargetUnreachable, "is the server up?"),
    "57P": (TargetUnreachable, "the server went away; try again when it is back"),
    "53300": (TargetUnreachable, "the server has no connection left; try later"),
    "53": (StepFailed, "the server is out of disk space or memory"),
    "28": (ConfigurationError, "check user and password"),
    "3D000": (ConfigurationError, "check the database's name in the URL"),
    "25006": (ConfigurationError, "this is a replica or a read-only session; give the URL of the primary"),
    "42501": (PrivilegeMissing, "Segue works as the tables' owner, with CREATE on the database and its schemas"),
    "55P03": (LockNotGranted, "another session holds the lock; try again later"),
    "40P01": (Busy, "a deadlock with another session was resolved against us; try again"),
    "40001": (Busy, "another transaction was in the way; try again"),
    "57014": (StepFailed, "the statement was cancelled: it took longer than allowed, or somebody stopped it"),
}


def explain(error: psycopg.Error, where: str) -> SegueError:
    """Return the error as one of Segue's; `where` names the database for people, as in `environment "staging"`.

    Whether a lost connection leaves an outcome unknown is for the caller to say: here it is TargetUnreachable.
    """
    import psycopg

    text = redact(str(error.diag.message_primary or "") or _first_line(error))
    if error.sqlstate is None:
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return _refused(redact(str(error)), where)
        # What libpq cannot read of a URL it quotes, and that may be a password with a bare % or the like.
        text = re.sub(r'(?s): ".*|(?<=after )".*?"', "", text)
        return ConfigurationError(
            f"{where}: {text}", hint="check the URL; in it, a password's own signs are written as %25 for % and so on"
        )
    kind, hint = _meaning(error.sqlstate)
    details = [
        f"{label}: {redact(value)}"
        for label, value in (("detail", error.diag.message_detail), ("context", error.diag.context))
        if value
    ]
    return kind(f"{where}: {text} ({error.sqlstate})", hint=error.diag.message_hint or hint, details=details)


def _meaning(state: str) -> tuple[type[SegueError], str]:
    for length in (5, 3, 2):
        if state[:length] in _STATES:
            return _STATES[state[:length]]
    return TargetError, ""


def _refused(text: str, where: str) -> SegueError:
    for pattern, kind, hint in _REFUSALS:
        if re.search(pattern, text):
            reason = next(line for line in text.splitlines() if re.search(pattern, line))
            return kind(f"cannot connect to {where}: {_reason(reason)}", hint=hint)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Multiple connection attempts", "Is the server"))]
    return TargetUnreachable(
        f"cannot connect to {where}: {_reason(kept[0]) if kept else 'no answer'}",
        hint="is the server up, and is this its address?",
    )


def _reason(line: str) -> str:
    """Return the part of a line that says why: `connection refused`, not once more where."""
    line = re.sub(r"^.*?(FATAL|ERROR|PANIC):\s+", "", line)
    line = re.sub(r"^(- )?(connection failed: )?connection to server (at|on) .*? failed: ", "", line)
    return re.sub(r"^(- )?(connection failed: )", "", line).rstrip(".")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
